"""Face sheets of a real tiny sweep and of fake ones."""

import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.fake_sweeps import make_run
from tests.support.train_command import TINY, run_train
from vae.generation.figures import gaussian_latents
from vae.generation.latent_figure import encode_evenly
from vae.runs.checkpoint import load_checkpoint, save_checkpoint
from vae.runs.compose import compose
from vae.runs.load import load_run
from vae.sweeps.comparison import read_sweep
from vae.sweeps.face_sheets import FACES, MAX_RUNS_SHOWN, ONE_SEED, choose_runs, draw_face_sheets
from vae.sweeps.report import write_report

TILE, MARGIN = 98, 2 + FACES * 98  # pixels: a face with its gap, and all of a row's
SCALE = 6  # small faces are enlarged


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Where a sweep of three betas was run: multirun/s and the data."""
    folder = tmp_path_factory.mktemp("home")
    swept = ["loss.beta=100,0.001,1", "optimizer.lr=0.01", "sweep.name=s"]
    done = run_train(["-m", *TINY, *swept], folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def sweep(home, tmp_path, monkeypatch):
    """A copy of the sweep without what a report makes; looked at from somewhere else."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    made = shutil.ignore_patterns("*.png", "*.csv", "report.md")
    return shutil.copytree(home / "multirun" / "s", tmp_path / "s", ignore=made)


def rows_of(picture, *counts):
    """The faces of a labelled picture: (rows, columns, y, x, rgb), at their own size.

    Args:
        counts: rows of each block; below a caption each in samples.png.
    """
    pixels = np.asarray(Image.open(picture))
    left = pixels.shape[1] - MARGIN
    caption = (pixels.shape[0] - sum(2 + count * TILE for count in counts)) // len(counts)
    assert (caption > 10) == (picture.name == "samples.png")
    assert left > 50  # for the labels
    found, top = [], 0
    for count in counts:
        top += caption + 2
        faces = pixels[top : top + count * TILE, left + 2 :].reshape(count, TILE, FACES, TILE, 3)
        found.append(faces[:, :-2:SCALE, :, :-2:SCALE].swapaxes(1, 2))
        top += count * TILE
    return np.concatenate(found)


def as_bytes(images):
    return (images * 255).round().byte().permute(0, 2, 3, 1).numpy()


def test_rows_are_the_faces_of_each_model(home, sweep, tmp_path):
    """The same validation faces, and the same latents, through each model."""
    write_report(sweep)
    for name in ("reconstructions.png", "samples.png"):  # the sweep itself has made the same
        assert (home / "multirun" / "s" / name).read_bytes() == (sweep / name).read_bytes()
    splits = load_run(sweep / "loss.beta=1").data.images
    originals = splits["val"][:FACES]
    faces = torch.from_numpy(originals).permute(0, 3, 1, 2) / 255
    latents = torch.randn(FACES, 4, generator=torch.Generator().manual_seed(0))
    first, *reconstructed = rows_of(sweep / "reconstructions.png", 4)
    sampled = rows_of(sweep / "samples.png", 3, 3)
    assert np.array_equal(first, originals)
    for row, beta in enumerate(["0.001", "1", "100"]):
        model = load_run(sweep / f"loss.beta={beta}").model
        with torch.inference_mode():
            expected = as_bytes(model.decode(model.encode(faces).mode))
            drawn = as_bytes(model.decode(latents))
            aggregate, _ = encode_evenly(model, splits["train"])
            fitted = as_bytes(model.decode(gaussian_latents(FACES, aggregate)))
        assert np.abs(reconstructed[row].astype(int) - expected).max() <= 1
        assert np.abs(sampled[row].astype(int) - fitted).max() <= 1
        assert np.abs(sampled[3 + row].astype(int) - drawn).max() <= 1
    for rows in (reconstructed, sampled):
        assert len({row.tobytes() for row in rows}) == len(rows)  # so the order is tested, too
    assert list((tmp_path / "here").iterdir()) == []  # nothing was packed anew


def test_runs_that_cannot_be_shown_are_named(sweep):
    runs = [sweep / f"loss.beta={beta}" for beta in ("0.001", "1", "100")]
    change_data(runs[1], ["data.num_images=90"])
    change_data(runs[2], ["data.num_workers=2", "data.batch_size=3"])  # no matter
    notes = draw_face_sheets(read_sweep(sweep), sweep)
    assert notes == ["loss.beta=1 is left out: it has other data than loss.beta=0.001."]
    rows_of(sweep / "samples.png", 2, 2)
    for name in ("last.pt", "previous.pt"):
        (runs[0] / "checkpoints" / name).write_bytes(b"damaged")
    (runs[2] / "checkpoints" / "last.pt").unlink()
    write_report(sweep)
    rows_of(sweep / "reconstructions.png", 2)
    rows_of(sweep / "samples.png", 1, 1)
    text = (sweep / "report.md").read_text().replace("\\", "")
    assert "loss.beta=0.001 is left out: " in text
    assert "(reconstructions.png)" in text


def test_runs_without_a_fitted_gaussian_show_the_prior(sweep, monkeypatch):
    monkeypatch.setattr("vae.generation.latent_figure.MAX_DIMENSIONS", 3)  # fewer than they have
    first, *_ = notes = draw_face_sheets(read_sweep(sweep), sweep)
    assert first == "loss.beta=0.001 has no samples of a fitted Gaussian: none can be fitted."
    assert len(notes) == 3
    rows_of(sweep / "samples.png", 3)


def change_data(run, overrides):
    """Have a run's checkpoint say that it was trained on other data."""
    file = run / "checkpoints" / "last.pt"
    state = load_checkpoint(file)
    state["config"]["data"] = asdict(compose([*TINY, "sweep.name=s", *overrides]).data)
    save_checkpoint(file, state)


def made(tmp_path, count, status="finished", **other):
    """A sweep of runs with checkpoints (which nobody opens), seed 0 to count."""
    for seed in range(count):
        run = make_run(tmp_path, {"seed": seed, **other}, status=status)
        (run / "checkpoints").mkdir()
        (run / "checkpoints" / "last.pt").touch()
    return read_sweep(tmp_path)


def test_many_runs_are_thinned_and_include_the_best(tmp_path):
    comparison = made(tmp_path, 25)
    for best in range(25):
        values = [{"val/bpd": 6.0 + abs(seed - best)} for seed in range(25)]
        runs = [replace(r, metrics=v) for r, v in zip(comparison.runs, values, strict=True)]
        chosen, (note,) = choose_runs(replace(comparison, runs=runs))
        seeds = [run.value("seed") for run in chosen]
        assert MAX_RUNS_SHOWN - 1 <= len(seeds) <= MAX_RUNS_SHOWN
        assert seeds == sorted({*seeds, 0, best, 24})
        assert max(np.diff(seeds)) <= 3  # from all over
        assert note.startswith(f"{len(seeds)} of the 25 runs are shown")
    for count in (1, 11, 12):
        few = comparison.runs[:count]
        assert choose_runs(replace(comparison, runs=few)) == (few, [])


def test_runs_that_differ_in_the_seed_alone_have_one_row(tmp_path):
    for beta in (1e-4, 1e-3):
        comparison = made(tmp_path, 3, **{"loss.beta": beta})
    for best in range(3):
        values = [{"val/bpd": 6.0 + abs(number - best)} for number in range(6)]
        runs = [replace(r, metrics=v) for r, v in zip(comparison.runs, values, strict=True)]
        chosen, notes = choose_runs(replace(comparison, runs=runs))
        found = [(run.value("loss.beta"), run.value("seed")) for run in chosen]
        assert found == [(1e-4, best), (1e-3, 0)]
        assert notes == [ONE_SEED]


def test_finished_runs_are_preferred(tmp_path):
    comparison = made(tmp_path, 3, status="interrupted")
    last = make_run(tmp_path, {"seed": 9})
    assert choose_runs(read_sweep(tmp_path))[0] == comparison.runs  # it has no checkpoint
    (last / "checkpoints").mkdir()
    (last / "checkpoints" / "last.pt").touch()
    assert [run.name for run in choose_runs(read_sweep(tmp_path))[0]] == ["seed=9"]
