"""`vae evaluate`: what is in metrics.json, that it is repeatable, and what is said."""

import json
import math

import numpy as np
import pytest
import scipy.linalg
import torch

from tests.wandb_files import read_run
from vae.cli import main
from vae.data.loader import evaluation_batches
from vae.evaluation.evaluate import evaluate_run
from vae.evaluation.features import Features
from vae.evaluation.record import write_report
from vae.generation.sample import measure_gain
from vae.metrics import evaluate
from vae.saved import load_run

QUICK = ["metrics.bound_images=4", "metrics.bound_samples=3", "metrics.inception_weights=none"]


@pytest.fixture(autouse=True)
def few_votes(monkeypatch):
    monkeypatch.setattr("vae.evaluation.factors.VOTES", 6)


def call(arguments, capsys):
    capsys.readouterr()
    code = main(["evaluate", "run", *QUICK, *arguments])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def test_every_figure_has_its_number_its_split_and_its_seed(finished, capsys):
    out = json.loads(call(["--split", "test", "--seed", "3", "--json"], capsys))
    saved = json.loads((finished / "metrics.json").read_text())
    assert saved["metrics"] == out["metrics"]
    assert (saved["checkpoint"], saved["step"]) == ("last", 20)
    for name, figure in saved["metrics"].items():
        assert name.startswith("test/")
        assert (figure["split"], figure["seed"]) == ("test", 3)
        assert math.isfinite(figure["value"])
        assert figure["n"] >= 1
    assert {f"test/{name}" for name in EXPECTED} == set(saved["metrics"])
    assert len(saved["kl_per_latent"]["test"]) == 4
    rate = saved["metrics"]["test/rate"]["value"]
    assert sum(saved["kl_per_latent"]["test"]) == pytest.approx(rate)
    assert saved["metrics"]["test/iw_bpd"]["k"] == 3
    pictures = sorted(path.name for path in (finished / "figures" / "test").iterdir())
    assert pictures == ["interpolation.png", "reconstructions.png", "samples.png", "traversal.png"]


EXPECTED = (
    *("mse", "psnr", "ssim", "rate", "distortion", "bpd", "loss", "active_units"),
    *("iw_bpd", "iw_bpd_1", "aggregate_kl", "mig", "sap", "factorvae_score"),
    *("dci_disentanglement", "dci_completeness", "dci_informativeness"),
    "attribute_separability",
)


def test_the_figures_are_those_of_training_for_its_split(finished, capsys):
    call([], capsys)
    ours = json.loads((finished / "metrics.json").read_text())["metrics"]
    theirs = json.loads((finished / "summary.json").read_text())["final"]
    for name, value in theirs.items():
        assert ours[name]["value"] == pytest.approx(value, rel=1e-5), name


def test_the_same_run_and_seed_give_the_same_bytes(finished, capsys):
    call(["--split", "test"], capsys)
    files = [finished / "metrics.json", *(finished / "figures" / "test").iterdir()]
    before = [file.read_bytes() for file in files]
    (finished / "directions" / "last.npz").unlink()  # found again, not only kept
    call(["--split", "test"], capsys)
    assert [file.read_bytes() for file in files] == before
    call(["--split", "test", "--seed", "1"], capsys)
    assert files[0].read_bytes() != before[0]


def test_the_other_split_of_the_same_checkpoint_stays(finished, capsys):
    call(["--split", "test"], capsys)
    test = json.loads((finished / "metrics.json").read_text())
    call(["--split", "val"], capsys)
    both = json.loads((finished / "metrics.json").read_text())
    assert both["metrics"].items() >= test["metrics"].items()
    assert "val/bpd" in both["metrics"]
    assert set(both["kl_per_latent"]) == {"test", "val"}
    call(["--split", "val", "--checkpoint", "best"], capsys)
    best = json.loads((finished / "metrics.json").read_text())
    assert best["checkpoint"] == "best"
    assert not any(name.startswith("test/") for name in best["metrics"])


def test_the_bound_of_one_sample_is_the_bpd_up_to_its_noise(finished):
    """So both have the same likelihood, the Gaussian that is optimal on the split."""
    run = load_run("run", overrides=["metrics.bound_samples=32"])
    figures = evaluate_run(run)[0].figures
    bpd, one, many = (figures[f"val/{name}"]["value"] for name in ("bpd", "iw_bpd_1", "iw_bpd"))
    assert one == pytest.approx(bpd, abs=0.01)
    assert many < one
    assert figures["val/iw_bpd"]["n"] == 40


def test_the_seed_is_that_of_all_figures(finished):
    run = load_run("run")
    batches = evaluation_batches(run.data.images["val"], 128, torch.device("cpu"))
    expected = evaluate(run.model, batches, run.config.loss, seed=5).metrics["bpd"]
    assert evaluate_run(run, seed=5)[0].figures["val/bpd"]["value"] == expected


def test_the_test_split_is_not_the_others(finished):
    run = load_run("run")
    images = run.data.images["test"]
    report, _ = evaluate_run_quickly(run, "test")
    batches = evaluation_batches(np.array(images), 40, torch.device("cpu"))
    mse = sum((run.model.decode(run.model.encode(x).mode) - x).square().sum() for x in batches)
    assert report.figures["test/mse"]["value"] == pytest.approx(mse.item() / images.size, rel=1e-5)
    assert report.figures["test/mse"]["n"] == len(images) == 40


def evaluate_run_quickly(run, split):
    from dataclasses import replace

    settings = replace(run.config.metrics, bound_images=2, bound_samples=2)
    return evaluate_run(replace(run, config=replace(run.config, metrics=settings)), split)


def test_too_few_images_for_a_distance_are_refused_with_the_number(finished, capsys):
    out = call([], capsys)
    assert "The face distance needs more than 128 images; there are 40." in out
    assert "FID is left out: metrics.inception_weights=none." in out


def test_results_go_where_they_are_wanted(finished, capsys):
    call(["--out", "elsewhere"], capsys)
    assert not (finished / "metrics.json").exists()
    assert (finished.parent / "elsewhere" / "metrics.json").exists()
    assert (finished.parent / "elsewhere" / "figures" / "val" / "samples.png").exists()


def test_a_report_of_another_step_replaces_the_file(finished):
    run = load_run("run")
    report, _ = evaluate_run_quickly(run, "val")
    file = finished / "metrics.json"
    file.write_text(json.dumps({"checkpoint": "last", "step": 1, "metrics": {"test/x": 1}}))
    write_report(run, report, file)
    assert "test/x" not in json.loads(file.read_text())["metrics"]
    file.write_text("{torn")
    write_report(run, report, file)
    assert json.loads(file.read_text())["step"] == 20


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate", "nowhere"], "nowhere: there is no such folder"),
        (["evaluate", "data"], "data: is no run's folder"),
        (["evaluate", "run", "--split", "train"], "--split: got 'train', but it takes val or test"),
        (["evaluate", "run", "--seed", "-1"], "--seed"),
        (["evaluate", "run", "--device", "tpu"], "trainer.device"),
        (["evaluate", "run", "metrics.bound_samples=0"], "metrics.bound_samples: got 0"),
        (["evaluate", "run", "metrics.bound_samples=x"], "metrics.bound_samples: got 'x'"),
        (["evaluate", "run", "metrics.nothing=1"], "metrics.nothing"),
        (["evaluate", "run", "metrics.face_box=[0.5,0.5,0.6]"], "metrics.face_box"),
        (["evaluate", "run", "loss.beta=1"], "loss.beta=1"),
        (["evaluate", "run", "image.png"], "image.png"),
    ],
)
def test_mistakes_are_one_message(arguments, words, finished, capsys):
    (finished / "summary.json").unlink()
    code = main(arguments)
    err = capsys.readouterr().err
    assert code == 1
    assert err.splitlines()[-1].startswith("error: ")
    assert words in err
    assert "Traceback" not in err


def test_a_run_without_checkpoints_says_so(finished, capsys):
    for file in (finished / "checkpoints").iterdir():
        file.unlink()
    assert main(["evaluate", "run"]) == 1
    assert "last.pt: there is no such checkpoint (the run: finished)" in capsys.readouterr().err


def test_the_seed_is_of_the_noise(finished):
    run = load_run("run")
    images = run.data.images["val"]

    def measured(seed):
        batches = evaluation_batches(images, 128, torch.device("cpu"))
        return evaluate(run.model, batches, run.config.loss, seed=seed).metrics

    assert measured(1)["bpd"] != measured(2)["bpd"]
    assert measured(1)["mse"] == measured(2)["mse"]


class Averages(torch.nn.Module):
    """Stands in for a network that sees: four averages of the picture."""

    def forward(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images, 2)[:, :2].flatten(1)


def test_distances_are_those_of_the_pictures(finished, monkeypatch):
    """Samples, reconstructions and the floor, against scikit-image's way of having them all."""
    run = load_run("run")
    features = Features("faces", Averages(), 8, torch.device("cpu"))
    monkeypatch.setattr("vae.evaluation.evaluate.pick_features", lambda *_: (features, ["why"]))
    report, _ = evaluate_run_quickly(run, "val")
    images = run.data.images["val"]
    real = torch.from_numpy(images.copy()).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        made = run.model.decode(run.model.encode(real).mode)
        noise = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
        samples = run.model.decode(noise)
    rows = {"reconstructions": made, "samples": samples}
    seen = {name: Averages()((x * 255).round() / 255).double().numpy() for name, x in rows.items()}
    ours = Averages()(real).double().numpy()
    for name, theirs in seen.items():
        root = scipy.linalg.sqrtm(np.cov(ours.T) @ np.cov(theirs.T))
        expected = np.square(ours.mean(0) - theirs.mean(0)).sum() + np.trace(
            np.cov(ours.T) + np.cov(theirs.T) - 2 * root.real
        )
        figure = report.figures[f"val/face_distance_{name}"]
        assert figure["value"] == pytest.approx(expected, rel=1e-3)
        assert figure["n"] == 40
    floor = report.figures["val/face_distance_floor"]["value"]
    assert floor < 0.2 * report.figures["val/face_distance_samples"]["value"]
    apart = np.linalg.norm(ours - seen["reconstructions"], axis=1).mean()
    assert report.figures["val/identity_distance"]["value"] == pytest.approx(apart, rel=1e-6)
    assert report.notes == ["why"]


def test_the_gain_of_the_fitted_density(finished, monkeypatch):
    run = load_run("run")
    features = Features("faces", Averages(), 8, torch.device("cpu"))
    monkeypatch.setattr("vae.evaluation.evaluate.pick_features", lambda *_: (features, []))
    monkeypatch.setattr("vae.generation.sample.pick_features", lambda *_: (features, []))
    gain, notes = measure_gain(run)
    report, _ = evaluate_run_quickly(run, "val")
    assert (gain.n, gain.features, notes) == (40, "faces", [])
    assert gain.standard == pytest.approx(report.figures["val/face_distance_samples"]["value"])
    assert gain.floor == pytest.approx(report.figures["val/face_distance_floor"]["value"])
    assert gain.floor < gain.fitted != gain.standard
    assert measure_gain(run)[0] == gain  # again the same


def test_without_features_there_is_no_gain_but_a_reason(finished):
    gain, notes = measure_gain(load_run("run", overrides=["metrics.inception_weights=none"]))
    assert gain is None
    assert "needs more than 128 images" in notes[-1]


def test_it_is_a_run_of_its_own_on_wandb(finished, capsys):
    call(["--wandb", "offline", "--split", "test"], capsys)
    logged = read_run(finished)
    saved = json.loads((finished / "metrics.json").read_text())["metrics"]
    assert (logged.job_type, logged.exit_code, logged.project) == ("evaluate", 0, "minifaceapp")
    assert logged.config["model"]["latent_dim"] == 4
    assert logged.metric_rows == [{"step": 20, **{k: f["value"] for k, f in saved.items()}}]
    assert "test/figures/samples" in logged.pictures
