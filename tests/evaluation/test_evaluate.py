"""`vae evaluate`: metrics.json, reproducibility, messages."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.metrics import balanced_accuracy_score
from torch.distributions import MultivariateNormal, kl_divergence

from tests.generation.test_edit import few
from tests.support.quick_evaluation import draw_few_faces
from tests.support.wandb_files import read_runs
from vae.cli.main import main
from vae.data.synthetic import SyntheticSource
from vae.evaluation.attributes import learn_directions
from vae.evaluation.disentanglement import dci, mig, sap
from vae.evaluation.distances import Features, squared_mmd
from vae.evaluation.evaluate import evaluate_model
from vae.evaluation.metrics_report import Cost, Report
from vae.evaluation.priors import fit_prior
from vae.generation.sample import measure_gain
from vae.losses.perceptual import VGGConfig
from vae.runs.load import load_run
from vae.utils.errors import UserError

QUICK = ["metrics.bound_images=4", "metrics.bound_samples=3", "metrics.inception_weights=none"]
QUICK += ["metrics.counterfactual_images=8"]


@pytest.fixture(autouse=True)
def few_votes(monkeypatch):
    draw_few_faces(monkeypatch)


def call(arguments, capsys):
    capsys.readouterr()
    code = main(["evaluate", "run", *QUICK, *arguments])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def test_every_metric_has_count_split_and_seed(finished, capsys):
    out = json.loads(call(["--split", "test", "--seed", "3", "--json"], capsys))
    saved = json.loads((finished / "metrics.json").read_text())
    assert saved["metrics"] == out["metrics"]
    assert (saved["checkpoint"], saved["step"]) == ("last", 20)
    kl, attributes = saved["kl_per_latent"]["test"], saved["attributes"]["test"]
    for figure in (*saved["metrics"].values(), kl, attributes):
        assert (figure["split"], figure["seed"]) == ("test", 3)
        assert figure["n"] >= 1
    assert all(math.isfinite(figure["value"]) for figure in saved["metrics"].values())
    assert {f"test/{name}" for name in EXPECTED} <= set(saved["metrics"])
    assert (kl["n"], len(kl["value"]), attributes["n"]) == (40, 4, 40)
    assert sum(kl["value"]) == pytest.approx(saved["metrics"]["test/rate"]["value"])
    separability = saved["metrics"]["test/attribute_separability"]["value"]
    assert np.mean(list(attributes["value"].values())) == pytest.approx(separability)
    assert saved["metrics"]["test/iw_bpd"]["k"] == 3
    pictures = sorted(path.name for path in (finished / "figures" / "test").iterdir())
    names = ["edits", "interpolation", "latents", "reconstructions", "samples", "traversal"]
    assert pictures == [f"{name}.png" for name in names]


EXPECTED = (
    *("mse", "psnr", "ssim", "rate", "distortion", "bpd", "loss", "active_units"),
    *("gradient_similarity", "sharpness"),
    *("bpd_discretized", "iw_bpd", "iw_bpd_1", "iw_effective_samples"),
    *("aggregate_kl", "mig", "sap", "factorvae_score"),
    *("dci_disentanglement", "dci_completeness", "dci_informativeness"),
    "attribute_separability",
)


def gaussian_kl(means, logvars):
    """From the Gaussian with the moments of the mean posterior to the prior."""
    covariance = torch.cov(means.double().T) + torch.diag(logvars.double().exp().mean(0))
    return kl_divergence(
        MultivariateNormal(means.double().mean(0), covariance),
        MultivariateNormal(torch.zeros(4).double(), torch.eye(4).double()),
    ).item()


def test_codes_are_compared_with_labels_of_their_split(finished):
    run = load_run("run")
    report = evaluate_quickly(run, "test", seed=2)
    images, training = (
        torch.from_numpy(run.data.images[split].copy()).permute(0, 3, 1, 2) / 255
        for split in ("test", "train")
    )
    with torch.inference_mode():
        posterior, trained_on = run.model.encode(images), run.model.encode(training)
        mse = (run.model.decode(posterior.mean) - images).square().mean().item()
    means = posterior.mean.double()
    known = SyntheticSource(run.config.data).labels("test")
    factors = known["factors"].values
    rows = [slice(None), slice(0, None, 2), slice(1, None, 2)]
    whole, *halves = (gaussian_kl(trained_on.mean[row], trained_on.logvar[row]) for row in rows)
    forests = dci(means.float().numpy(), factors, seed=2)
    expected = {
        "mse": mse,
        "mig": mig(means.numpy(), factors),
        "sap": sap(means.numpy(), factors),
        "dci_disentanglement": forests.disentanglement,
        "dci_completeness": forests.completeness,
        "dci_informativeness": forests.informativeness,
        "aggregate_kl": 2 * whole - sum(halves) / 2,
    }
    for name, value in expected.items():
        assert report.figures[f"test/{name}"]["value"] == pytest.approx(value, rel=1e-4), name

    directions = learn_directions(run).directions
    says = directions.scores(means).numpy() > 0
    told = {}
    for column, name in enumerate(directions.names):
        has = known["attributes"].values[:, known["attributes"].names.index(name)]
        if 0 < has.mean() < 1:
            told[name] = balanced_accuracy_score(has, says[:, column])
    assert report.separability["value"] == pytest.approx(told)


def test_one_image_has_all_metrics_without_variance(finished, monkeypatch, capsys):
    few(monkeypatch, test=1)
    found = json.loads(call(["--split", "test", "--json"], capsys))
    assert found["metrics"]["test/mse"]["n"] == 1
    lacking = "needs an attribute that some images have and some lack; among 1 there is none."
    assert f"Attribute separability {lacking}" in found["notes"]


def test_the_aggregate_posterior_needs_enough_images_and_few_latents(finished, monkeypatch):
    with monkeypatch.context() as small:
        small.setattr("vae.evaluation.evaluate.MAX_DIMENSIONS", 3)
        small.delattr("vae.evaluation.latents.RunningGaussian")  # no covariance is made
        report, _ = evaluate_model(load_run("run", overrides=["metrics.parts=[factors]"]))
    assert report.notes == [
        "aggregate_kl is left out: it takes a model of at most 3 latents; this one has 4."
    ]
    few(monkeypatch, train=15)
    report, _ = evaluate_model(load_run("run", overrides=["metrics.parts=[]"]))
    assert report.notes == [
        "aggregate_kl is left out: a model of 4 latents needs 16 training images; there are 15."
    ]
    assert "val/aggregate_kl" not in report.figures


def test_the_discretized_bound_is_not_above_the_bpd(finished):
    figures = evaluate_model(load_run("run", overrides=["metrics.parts=[likelihood]"]))[0].figures
    found, bpd = figures["val/bpd_discretized"], figures["val/bpd"]["value"]
    assert 0.9 * bpd < found["value"] < bpd
    assert found["n"] == 40
    assert 0.5 < found["sigma"] / math.sqrt(figures["val/mse"]["value"]) < 2


def test_each_part_has_its_cost(finished, capsys):
    report = Report("val", 0)
    with report.part("bound"):
        report.add("iw_bpd_1", 5.0, 200)
    with report.part("factors"):
        report.add("mig", 0.1, 40)
        report.add("factorvae_score", 0.1, 19_200)
    with report.part("attributes"):
        report.notes.append("none are known")
    assert [cost.images for cost in report.costs.values()] == [200, 40, 0]
    assert str(Cost(41.2, 1200)) == "41.2 s (34.3 s per 1,000 images)"
    assert str(Cost(0.02, 0)) == "0.0 s"
    (took,) = (line for line in call([], capsys).splitlines() if line.startswith("took: "))
    parts = re.findall(r"(\w+) [\d.]+ s \([\d.]+ s per 1,000 images\)", took)
    expected = "reconstruction encoding likelihood bound factors attributes counterfactual"
    assert parts == expected.split()
    assert "distances 0.0 s," in took  # 40 images are too few for them


def test_too_few_faces_for_attributes_are_noted(finished, monkeypatch, capsys):
    few(monkeypatch, train=16, val=2, test=2)
    notes = json.loads(call(["--json"], capsys))["notes"]
    left_out = "Attribute separability is left out: data.num_images: no attribute is on"
    assert any(note.startswith(left_out) for note in notes)
    assert json.loads((finished / "metrics.json").read_text())["attributes"] == {"val": {}}


def test_evaluation_is_reproducible(finished, capsys):
    call(["--split", "test"], capsys)
    files = [finished / "metrics.json", *(finished / "figures" / "test").iterdir()]
    before = [file.read_bytes() for file in files]
    (finished / "directions" / "last.npz").unlink()  # found again, not only kept
    call(["--split", "test", "--out", "elsewhere"], capsys)
    out = finished.parent / "elsewhere"
    assert [(out / file.relative_to(finished)).read_bytes() for file in files] == before
    call(["--split", "test", "--seed", "1"], capsys)
    other, one = (json.loads(content)["metrics"] for content in (files[0].read_bytes(), before[0]))
    assert other["test/bpd"]["value"] != one["test/bpd"]["value"]
    assert other["test/mse"]["value"] == one["test/mse"]["value"]  # it has no noise


def test_other_splits_of_the_same_checkpoint_and_step_are_kept(finished, capsys):
    file = finished / "metrics.json"
    call(["--split", "test"], capsys)
    test = json.loads(file.read_text())
    call(["--split", "val"], capsys)
    both = json.loads(file.read_text())
    assert both["metrics"].items() >= test["metrics"].items()
    assert set(both["kl_per_latent"]) == {"test", "val"}
    in_training = json.loads((finished / "summary.json").read_text())["final"]
    for name, value in in_training.items():
        assert both["metrics"][name]["value"] == pytest.approx(value, rel=1e-5), name
    other_step = json.dumps(both | {"step": 1})
    for content, name in ((file.read_text(), "best"), (other_step, "last"), ("{torn", "last")):
        file.write_text(content)
        call(["--split", "val", "--checkpoint", name], capsys)
        saved = json.loads(file.read_text())
        assert (saved["checkpoint"], saved["step"]) == (name, 20)
        assert not any(key.startswith("test/") for key in saved["metrics"])


def test_the_bound_of_one_sample_is_the_bpd_up_to_its_noise(finished):
    """So both have the same likelihood, the Gaussian that is optimal on the split."""
    run = load_run("run", overrides=["metrics.bound_samples=32"])
    figures = evaluate_model(run)[0].figures
    bpd, one, many = (figures[f"val/{name}"]["value"] for name in ("bpd", "iw_bpd_1", "iw_bpd"))
    assert one == pytest.approx(bpd, abs=0.01)
    assert many < one
    assert figures["val/iw_bpd"]["n"] == 40


def test_the_amortization_gap_is_measured_when_asked_for(finished):
    """On the images of the bound, and under the same likelihood."""
    settings = ["parts=[bound,amortization]", "amortization_steps=30", "bound_samples=32"]
    settings += ["amortization_images=20", "bound_images=20"]
    run = load_run("run", overrides=[f"metrics.{setting}" for setting in settings])
    figures = evaluate_model(run, seed=1)[0].figures
    amortized, optimized, gap = (
        figures[f"val/amortization_{name}"] for name in ("bpd", "bpd_optimized", "gap")
    )
    assert amortized["value"] == pytest.approx(figures["val/iw_bpd_1"]["value"], abs=0.005)
    assert gap["value"] == pytest.approx(amortized["value"] - optimized["value"])
    assert gap["value"] > 4 * gap["error"] > 0
    assert [each["n"] for each in (amortized, optimized, gap)] == [20, 20, 20]
    assert evaluate_model(run, seed=1)[0].figures == figures
    assert not any("amortization" in key for key in evaluate_quickly(load_run("run")).figures)


def evaluate_quickly(run, split="val", seed=0, **settings):
    settings = {"bound_images": 2, "bound_samples": 2, **settings}
    return evaluate_model(
        replace(run, metrics_config=replace(run.metrics_config, **settings)), split, seed
    )[0]


class Averages(torch.nn.Module):
    """A stand-in for a feature network: four averages of the picture."""

    def forward(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images, 2)[:, :2].flatten(1)


def stand_in(name="faces"):
    return Features(name, Averages(), 8, torch.device("cpu"))


def test_distances_equal_those_of_the_pictures(finished, monkeypatch):
    """Of 30 images of the split: samples, reconstructions and as many training images."""
    run = load_run("run")
    monkeypatch.setattr("vae.evaluation.evaluate.pick_features", lambda *_: (stand_in(), ["why"]))
    report = evaluate_quickly(run, seed=1, distance_images=30)
    chosen = {}
    for split in ("val", "train"):
        images = run.data.images[split]
        rows = np.sort(np.random.default_rng(1).choice(len(images), 30, replace=False))
        chosen[split] = torch.from_numpy(images[rows]).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        made = run.model.decode(run.model.encode(chosen["val"]).mode)
        noise = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
        rows = {"reconstructions": made, "samples": run.model.decode(noise)}
    rows["floor"] = chosen["train"]
    ours = Averages()(chosen["val"]).double()
    apart = {}
    for name, x in rows.items():
        theirs = Averages()((x * 255).round() / 255).double()
        apart[name] = (ours - theirs).norm(dim=1).mean().item()
        covariances = np.cov(ours.T), np.cov(theirs.T)
        root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
        frechet = (ours.mean(0) - theirs.mean(0)).square().sum().item()
        frechet += np.trace(sum(covariances) - 2 * root.real)
        figure = report.figures[f"val/face_distance_{name}"]
        assert (figure["value"], figure["n"]) == (pytest.approx(frechet, rel=1e-3), 30)
        kernel = report.figures[f"val/face_kernel_distance_{name}"]["value"]
        assert kernel == pytest.approx(squared_mmd(ours, theirs), rel=1e-3)
    identity = report.figures["val/identity_distance"]["value"]
    assert identity == pytest.approx(apart["reconstructions"], rel=1e-6)
    others = report.figures["val/identity_distance_of_others"]["value"]
    assert others == pytest.approx(apart["floor"], rel=1e-6)
    assert report.notes == ["why"]


def test_face_distances_name_their_network(finished, monkeypatch):
    """Where Inception's features are there, it looks at the faces all the same."""
    run = load_run("run")
    pick = "vae.evaluation.evaluate.pick_features"
    monkeypatch.setattr(pick, lambda *_: (stand_in(), []))
    expected = evaluate_quickly(run).figures
    monkeypatch.setattr(pick, lambda *_: (stand_in("inception"), []))
    monkeypatch.setattr("vae.evaluation.evaluate.face_features", lambda *_: stand_in())
    report = evaluate_quickly(run)
    for name in ("identity_distance", "identity_distance_of_others"):
        assert report.figures[f"val/{name}"] == expected[f"val/{name}"]
    assert report.figures["val/fid_floor"] == expected["val/face_distance_floor"]
    assert report.figures["val/kid_floor"] == expected["val/face_kernel_distance_floor"]
    assert "val/face_distance_floor" not in report.figures
    assert report.notes == []

    def missing(*_):
        raise UserError("Face features are not installed")

    monkeypatch.setattr("vae.evaluation.evaluate.face_features", missing)
    report = evaluate_quickly(run)
    assert "val/identity_distance" not in report.figures
    assert report.notes == ["The identity distance is left out: Face features are not installed"]


def test_the_gain_of_a_fitted_prior(finished, monkeypatch):
    run = load_run("run")
    monkeypatch.setattr("vae.evaluation.evaluate.pick_features", lambda *_: (stand_in(), []))
    monkeypatch.setattr("vae.generation.sample.pick_features", lambda *_: (stand_in(), []))
    prior = fit_prior(run, "gaussian")
    gain, notes = measure_gain(run, "gaussian", prior)
    figures = evaluate_quickly(run).figures
    assert (gain.n, gain.features, notes) == (40, "faces", [])
    for name in ("standard", "gaussian"):
        error = figures[f"val/prior_error_{name}"]["value"]
        assert gain.prior_errors[name] == pytest.approx(error)
    assert gain.ceiling == pytest.approx(figures["val/prior_error_ceiling"]["value"])
    samples = figures["val/face_distance_samples"]["value"]
    assert gain.distances["standard"] == pytest.approx(samples)
    assert gain.floor == pytest.approx(figures["val/face_distance_floor"]["value"])
    assert gain.prior_errors["gaussian"] != gain.prior_errors["standard"]
    assert measure_gain(run, "gaussian", prior)[0] == gain  # again the same
    cold = measure_gain(run, "gaussian", prior, temperature=0)[0]
    assert cold.prior_errors["gaussian"] != gain.prior_errors["gaussian"]
    assert cold.prior_errors["standard"] == gain.prior_errors["standard"]
    monkeypatch.setattr("vae.generation.sample.pick_features", lambda *_: (None, ["too few"]))
    assert measure_gain(run, "gaussian", prior) == (None, ["too few"])


def test_evaluation_is_a_separate_wandb_run(finished, capsys, caplog):
    call(["--wandb", "offline", "--split", "test"], capsys)
    runs = read_runs(finished)
    assert [run.exit_code for run in runs] == [0], caplog.text  # a machine too slow for W&B says so
    logged = runs[0]
    saved = json.loads((finished / "metrics.json").read_text())["metrics"]
    assert (logged.job_type, logged.project) == ("evaluate", "minifaceapp")
    assert logged.config["model"]["latent_dim"] == 4
    assert logged.metric_rows == [{"step": 20, **{k: f["value"] for k, f in saved.items()}}]
    assert "test/figures/samples" in logged.pictures


def test_parts_select_what_is_measured(finished):
    report, _ = evaluate_model(load_run("run", overrides=["metrics.parts=[attributes]"]))
    names = {key.removeprefix("val/") for key in report.figures}
    assert {"bpd", "aggregate_kl", "attribute_separability"} <= names
    assert not any(name.startswith(("iw_", "face_", "mig", "dci_")) for name in names)
    with pytest.raises(UserError, match=r"metrics\.parts: got \['bond'\]"):
        load_run("run", overrides=["metrics.parts=[bond]"])


def test_a_network_of_the_loss_that_is_not_here_leaves_out_the_loss_alone(finished, monkeypatch):
    """The run was trained where VGG's weights were."""
    monkeypatch.setenv("TORCH_HOME", str(finished / "torch"))
    run = load_run(finished, overrides=["metrics.parts=[]"])
    plain, _ = evaluate_model(run)
    loss = replace(run.loss_config, perceptual=VGGConfig("vgg", weight=1.0))
    report, _ = evaluate_model(replace(run, loss_config=loss))
    assert plain.figures.keys() - report.figures.keys() == {"val/loss"}
    assert report.figures["val/bpd"] == plain.figures["val/bpd"]
    (note,) = set(report.notes) - set(plain.notes)
    assert note.startswith("loss is left out: loss/perceptual=vgg: the weights of VGG-19 could")
