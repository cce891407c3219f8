"""`vae reconstruct`, `interpolate`, `traverse`, `edit` and `sample` on a finished run."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.train_command import ROOT
from vae.cli.main import main
from vae.evaluation.priors import fit_prior
from vae.generation.figures import grid
from vae.utils.errors import UserError


@pytest.mark.parametrize(
    "command",
    [
        "reconstruct run",
        "interpolate run 1 3 --steps 4",
        "traverse run 2 --latents 3",
        "edit run 3 --attribute Smiling",
        "sample run --num 10",
        "sample run --num 10 --prior fitted --separate",
        "sample run --num 10 --prior flow --temperature 0.7",
    ],
)
def test_the_same_command_writes_the_same_bytes(command, finished, vae_json, monkeypatch):
    monkeypatch.setattr("vae.evaluation.flow.LAYERS", 3)
    first = vae_json(*command.split())["files"]
    again = vae_json(*command.split(), "--out", "again")["files"]
    assert first
    assert [file.replace("again/", "run/", 1) for file in again] == first
    for one, other in zip(first, again, strict=True):
        assert Path(one).read_bytes() == Path(other).read_bytes()


@pytest.mark.parametrize("name", ["gaussian", "fitted", "flow"])
def test_the_fitted_density_matches_the_latents(name, run, monkeypatch):
    monkeypatch.setattr("vae.evaluation.flow.LAYERS", 3)
    images = torch.from_numpy(run.data.images["train"].copy()).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        posterior = run.model.encode(images)
    noise = torch.randn(50, *posterior.mean.shape, generator=torch.Generator().manual_seed(0))
    latents = posterior.rsample(noise).flatten(0, 1)
    drawn = fit_prior(run, name).sample(20_000, torch.Generator().manual_seed(0))
    spread = latents.std(0)
    assert torch.allclose(drawn.mean(0), latents.mean(0), atol=0.2 * spread.max().item())
    assert torch.allclose(torch.cov(drawn.T), torch.cov(latents.T), atol=0.2 * spread.max() ** 2)


def test_separate_samples_are_decoded_draws_of_the_seed(run, vae_json):
    words = ["--num", "3", "--separate", "--seed", "1", "--prior", "standard"]
    files = vae_json("sample", "run", *words)["files"]
    assert [Path(file).name for file in files[1:]] == ["00000.png", "00001.png", "00002.png"]
    noise = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = run.model.decode(noise)
    with Image.open(files[0]) as sheet, Image.open(files[3]) as image:
        faces = np.asarray(grid(expected, 3))
        assert np.array_equal(np.asarray(sheet)[-len(faces) :, : faces.shape[1]], faces)
        pixels = (expected[2].permute(1, 2, 0) * 255).round().byte()
        assert np.array_equal(np.asarray(image), pixels)


def test_without_images_samples_are_of_the_standard_prior(finished, vae_json, capsys):
    expected = vae_json("sample", "run", "--num", "2", "--prior", "standard", "--out", "there")
    shutil.rmtree("data")
    fewer = ["sample", "run", "--num", "2", "--out", "here"]
    with pytest.MonkeyPatch.context() as gone:
        gone.setattr("vae.evaluation.open_data", missing)
        found = vae_json(*fewer)
        for name in ("gaussian", "mixture", "fitted", "flow"):
            assert main([*fewer, "--prior", name]) == 1
            assert "error: data: the images are gone" in capsys.readouterr().err
        standard = vae_json(*fewer, "--prior", "standard")
    assert found["prior"] == standard["prior"] == "standard"
    assert found["notes"][0].startswith("Samples of N(0, I), as none can be fitted: data: the im")
    assert Path(found["files"][0]).read_bytes() == Path(expected["files"][0]).read_bytes()


def missing(_):
    raise UserError("data: the images are gone.")


def test_an_unknown_prior_is_refused_before_the_work(finished, monkeypatch, capsys):
    monkeypatch.setattr("vae.evaluation.open_data", None)  # nothing is computed before
    assert main(["sample", "run", "--prior", "x"]) == 1
    takes = "standard or gaussian or mixture or flow"
    assert f"error: --prior: got 'x', but it takes {takes}." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("file", "--out: got 'file', but it takes a folder, and that is a file."),
        ("file/below", "file/below: Not a directory."),
    ],
)
@pytest.mark.parametrize(
    "command", ["evaluate", "sample", "reconstruct", "interpolate", "traverse", "edit", "export"]
)
def test_an_unwritable_output_is_reported_before_the_work(
    command, out, says, finished, monkeypatch, capsys
):
    (finished.parent / "file").touch()
    monkeypatch.setattr("vae.evaluation.open_data", None)  # nothing is computed before
    assert main([command, "run", "--out", out]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {says}"


def test_an_unwritable_file_is_one_message(finished, capsys):
    (finished / "figures" / "samples_gaussian.png").mkdir()
    assert main(["sample", "run"]) == 1
    says = "error: run/figures/samples_gaussian.png: Is a directory."
    assert capsys.readouterr().err.splitlines()[-1] == says


NOTEBOOK = """
import sys
sys.modules["hydra"] = None  # to import it, or anything of it, is an ImportError from here on
from vae.evaluation.attributes import learn_directions
from vae.evaluation.evaluate import evaluate_model
from vae.generation.edit import edit
from vae.generation.decode import interpolate, reconstruct, traverse
from vae.generation.sample import sample
from vae.runs.load import load_run

run = load_run("run", overrides=["metrics.bound_images=1", "metrics.inception_weights=none"])
out = run.folder
assert reconstruct(run, ["3"], folder=out).sheet.exists()
assert all(file.exists() for file in sample(run, num=4, prior="gaussian", folder=out))
assert all(file.exists() for file in interpolate(run, ["1", "2"], folder=out))
assert all(file.exists() for file in traverse(run, folder=out).files)
assert edit(run, learn_directions(run), ["3"], ["Smiling"], folder=out).sheet.exists()
"""


def test_the_functions_work_without_hydra(finished):
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK],
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
