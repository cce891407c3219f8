"""`vae reconstruct`, `interpolate`, `traverse` and `sample` on a finished run."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.support.data_sets import save_noise
from vae.cli.main import main
from vae.evaluation.latents import AggregatePosterior
from vae.generation.figures import lerp, move_latent, slerp
from vae.generation.photos import load_faces
from vae.generation.sample import latent_sampler
from vae.models.posterior import Posterior
from vae.runs.load import load_run
from vae.training.metrics import psnr


def call(arguments, capsys):
    capsys.readouterr()
    code = main([*arguments, "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def test_slerp_changes_angle_and_length_evenly():
    start, end = torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 4.0])
    arc = slerp(start, end, 5)
    angles = torch.atan2(arc[:, 2], arc[:, 0]).rad2deg()
    assert torch.allclose(angles, torch.tensor([0.0, 22.5, 45.0, 67.5, 90.0]), atol=1e-4)
    assert torch.allclose(arc.norm(dim=1), torch.linspace(2, 4, 5))
    assert torch.allclose(arc[[0, -1]], torch.stack([start, end]), atol=1e-6)


def test_slerp_keeps_the_norm_and_lerp_does_not():
    ends = torch.randn(2, 128, generator=torch.Generator().manual_seed(0))
    lengths = slerp(*ends, 9).norm(dim=1)
    assert lengths.min() >= ends.norm(dim=1).min() - 1e-3
    assert lerp(*ends, 9).norm(dim=1)[4] < 0.8 * lengths[4]


@pytest.mark.parametrize("end", [[0.0, 0.0], [-2.0, -4.0], [2.0, 4.0], [1.0, 2.0]])
def test_slerp_of_parallel_latents_is_lerp(end):
    start, end = torch.tensor([1.0, 2.0]), torch.tensor(end)
    assert torch.equal(slerp(start, end, 7), lerp(start, end, 7))


def test_a_latent_moves_over_the_aggregate_posterior():
    aggregate = AggregatePosterior(2)
    mean = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    aggregate.update(Posterior(mean, torch.log(torch.tensor([[2.0, 0.25]])).expand(2, 2)))
    spread = aggregate.covariance.diagonal().sqrt()
    strip = move_latent(torch.tensor([9.0, 9.0]), 0, aggregate.mean[0], spread[0], 3)
    reach = 3 * (2.0 + 2.0) ** 0.5  # variance of the means (n - 1), and mean of the variances
    assert torch.allclose(strip, torch.tensor([[2 - reach, 9.0], [2.0, 9.0], [2 + reach, 9.0]]))
    strip = move_latent(torch.zeros(2), 1, aggregate.mean[1], spread[1], 2)
    assert torch.allclose(strip[:, 1], torch.tensor([3.5, 6.5]))


def test_reconstructions_are_measured(finished, capsys):
    file = save_noise(finished.parent / "me.png")
    found = call(["reconstruct", "run", "3", str(file)], capsys)
    assert list(found["faces"]) == ["3", "me.png"]
    run = load_run("run")
    faces, _ = load_faces(["3", str(file)], run)
    with torch.inference_mode():
        made = run.model.decode(run.model.encode(faces).mode)
    assert found["faces"]["me.png"]["mse"] == pytest.approx(
        (made - faces)[1].square().mean().item()
    )
    assert found["faces"]["3"]["psnr"] == pytest.approx(psnr(faces, made)[0].item(), rel=1e-5)
    with Image.open(found["files"][0]) as sheet:
        assert sheet.format == "PNG"


COMMANDS = {
    "reconstruct": ["reconstruct", "run"],
    "interpolate": ["interpolate", "run", "1", "3", "--steps", "4"],
    "traverse": ["traverse", "run", "2", "--latents", "3"],
    "sample": ["sample", "run", "--num", "10"],
    "fitted": ["sample", "run", "--num", "10", "--prior", "fitted", "--separate"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_same_command_writes_the_same_bytes(name, finished, capsys):
    first = call(COMMANDS[name], capsys)["files"]
    again = call([*COMMANDS[name], "--out", "again"], capsys)["files"]
    assert first
    assert [file.replace("again/", "run/", 1) for file in again] == first
    for one, other in zip(first, again, strict=True):
        assert Path(one).read_bytes() == Path(other).read_bytes()


def test_animations_play_forward_and_backward(finished, capsys):
    files = call(COMMANDS["interpolate"], capsys)["files"]
    assert [file.rsplit("/", 1)[1] for file in files] == [
        "interpolate_1_3.png",
        "interpolate_1_3_linear.gif",
        "interpolate_1_3_spherical.gif",
    ]
    with Image.open(files[1]) as animation:
        assert animation.n_frames > 20
        assert animation.info["loop"] == 0
        first = animation.convert("RGB").tobytes()
        animation.seek(1)
        second = animation.convert("RGB").tobytes()
        animation.seek(animation.n_frames - 1)
        assert animation.convert("RGB").tobytes() == second != first


def test_latents_are_sorted_by_kl(finished, capsys):
    found = call(["traverse", "run", "--latents", "9"], capsys)
    assert sorted(found["latents"]) == [0, 1, 2, 3]  # all that there are
    assert found["kl"] == sorted(found["kl"], reverse=True)
    run = load_run("run")
    faces, _ = load_faces([str(i) for i in range(40)], run)
    with torch.inference_mode():
        kl = run.model.encode(faces).kl().mean(0)
    for latent, value in zip(found["latents"], found["kl"], strict=True):
        assert value == pytest.approx(kl[latent].item(), rel=1e-4)


def test_samples_depend_on_the_seed(finished, capsys):
    one, other, again = (
        Path(call(["sample", "run", "--num", "4", "--seed", s], capsys)["files"][0]).read_bytes()
        for s in ("1", "2", "1")
    )
    assert one == again != other


def test_the_fitted_density_matches_the_latents(finished):
    run = load_run("run")
    images = torch.from_numpy(run.data.images["train"].copy()).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        posterior = run.model.encode(images)
        latents = torch.cat([posterior.sample(torch.Generator().manual_seed(i)) for i in range(50)])
    drawn = latent_sampler(run, "fitted", 0)(20_000)
    spread = latents.std(0)
    assert torch.allclose(drawn.mean(0), latents.mean(0), atol=0.2 * spread.max().item())
    assert torch.allclose(torch.cov(drawn.T), torch.cov(latents.T), atol=0.2 * spread.max() ** 2)


def test_separate_samples_equal_the_sheet(finished, capsys):
    files = call(["sample", "run", "--num", "3", "--separate"], capsys)["files"]
    assert [file.rsplit("/", 1)[1] for file in files[1:]] == ["00000.png", "00001.png", "00002.png"]
    run = load_run("run")
    with torch.inference_mode():
        expected = run.model.decode(latent_sampler(run, "standard", 0)(3))
    with Image.open(files[3]) as image:
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(16, 16, 3)
    assert torch.equal(pixels, (expected[2].permute(1, 2, 0) * 255).round().byte())


MORE = {
    "reconstruct": ["3"],
    "interpolate": ["1", "2"],
    "traverse": ["3"],
    "edit": ["3", "--attribute", "Smiling"],
    "export": [],
}


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("file", "--out: got 'file', but it takes a folder, and that is a file."),
        ("file/below", "file/below: Not a directory."),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "sample", *MORE])
def test_an_unwritable_output_is_reported_before_the_work(
    command, out, says, finished, monkeypatch, capsys
):
    (finished.parent / "file").touch()
    monkeypatch.setattr("vae.evaluation.open_data", None)  # nothing is computed before
    assert main([command, "run", "--out", out, *MORE.get(command, [])]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {says}"


def test_an_unwritable_file_is_one_message(finished, capsys):
    (finished / "figures" / "samples_standard.png").mkdir()
    assert main(["sample", "run"]) == 1
    says = "error: run/figures/samples_standard.png: Is a directory."
    assert capsys.readouterr().err.splitlines()[-1] == says


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sample", "run", "--prior", "x"], "--prior: got 'x', but it takes standard or fitted"),
        (["sample", "run", "--num", "0"], "--num: got 0"),
        (["sample", "run", "3"], "KEY=VALUE: got ['3']"),
        (["interpolate", "run", "1"], "A B: got ['1'], but it takes two faces"),
        (["interpolate", "run", "1", "2", "--steps", "1"], "--steps: got 1"),
        (["interpolate", "run", "1", "x.png"], "x.png: there is no such file"),
        (["traverse", "run", "1", "2"], "IMAGE: got ['1', '2']"),
        (["traverse", "run", "--latents", "0"], "--latents: got 0"),
        (["reconstruct", "run", "99"], "face of val: got '99'"),
    ],
)
def test_mistakes_are_one_message(arguments, words, finished, capsys):
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("error: ")
    assert words in err
