"""Files of a run's folder that are damaged or hostile give no more than their absence."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from vae.app import run_files
from vae.app.run_files import FIGURES, read_curves, read_evaluation, read_figure
from vae.data.base import ImageError


def test_curves_are_of_finite_numbers_at_steps(tmp_path):
    assert read_curves(tmp_path) == {}
    rows = [
        {"step": 10, "epoch": 0.5, "train/loss": 0.5, "name": "x", "train/nan": float("nan")},
        {"step": "none", "train/loss": 9},
        {"step": 20, "train/loss": 0.25, "k" * 1000: 1, "list": [1]},
    ]
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "metrics.jsonl").write_text("\n".join([lines[0], "{damaged", *lines[1:]]))
    (curve,) = (curves := read_curves(tmp_path)).values()
    assert list(curves) == ["train/loss"]
    assert (curve.steps, curve.values) == ([10, 20], [0.5, 0.25])
    assert "0.5 at step 10, 0.25 at step 20" in curve.describe("train/loss")


@pytest.mark.parametrize(
    "metrics", [None, [], "x", {"val/bpd": None}, {"val/bpd": {"value": {"a": [1]}}}]
)
def test_a_strange_record_of_an_evaluation_is_text(tmp_path, metrics):
    (tmp_path / "metrics.json").write_text(json.dumps({"metrics": metrics}))
    _, rows = read_evaluation(tmp_path)
    assert len(rows) == isinstance(metrics, dict) * 1
    assert all(isinstance(cell, str) for row in rows for cell in row)


def test_a_figure_is_a_png_of_a_fixed_name_within_limits(tmp_path, monkeypatch):
    folder = tmp_path / "figures"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    for file in (folder / "samples.png", tmp_path / "secret.png"):
        Image.fromarray(pixels).save(file)
    assert np.array_equal(np.asarray(read_figure(tmp_path, "samples")), pixels)
    Image.fromarray(pixels).save(folder / "latents.png", format="BMP")
    os.mkfifo(folder / "traversal.png")
    for name in ("../secret", "latents", "traversal", "interpolation"):
        with pytest.raises(ImageError):
            read_figure(tmp_path, name)
    monkeypatch.setattr(run_files, "MAX_PIXELS", 599)
    with pytest.raises(ImageError, match="too large"):
        read_figure(tmp_path, "samples")


@pytest.mark.slow
def test_the_figures_are_those_that_a_run_draws(app_run):
    assert {file.stem for file in (app_run / "figures").glob("*.png")} == set(FIGURES)
