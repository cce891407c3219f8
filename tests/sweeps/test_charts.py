"""The charts of a sweep show the measured values."""

import math
import random

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from PIL import Image

from tests.support.fake_sweeps import VALUES, make_run, make_sweep
from vae.sweeps.charts import axis_keys, draw_charts, draw_comparison
from vae.sweeps.comparison import importances, read_sweep
from vae.training.metrics import bits_per_dim
from vae.utils.errors import UserError

GRID = [
    {"loss.beta": beta, "model.latent_dim": size}
    for beta in (1e-5, 1e-4, 1e-3, 1e-2)
    for size in (16, 64)
]


def panels(tmp_path, runs=GRID, **keywords):
    comparison = read_sweep(make_sweep(tmp_path / "s", runs, **keywords))
    figure = draw_comparison(comparison)
    return comparison, {axes.get_title(): axes for axes in figure.axes if axes.get_title()}


def places(axes, filled):
    drawn = [c for c in axes.collections if isinstance(c, PathCollection)]
    chosen = [c for c in drawn if bool(len(c.get_facecolors())) == filled]
    return {tuple(map(float, place)) for c in chosen for place in c.get_offsets()}


def dots(axes):
    """Where the runs are drawn."""
    return places(axes, filled=True)


def rings(axes):
    """Where the best are marked."""
    return places(axes, filled=False)


def test_points_are_at_rate_and_distortion(tmp_path):
    comparison, found = panels(tmp_path)
    axes = found["Rate and distortion"]
    expected = {(run.metrics["val/rate"], run.metrics["val/distortion"]) for run in comparison.runs}
    assert dots(axes) == expected
    best = min(comparison.runs, key=lambda run: run.metrics["val/bpd"]).metrics
    assert rings(axes) == {(best["val/rate"], best["val/distortion"])}


def test_equal_bpd_lines_are_exact(tmp_path):
    _, found = panels(tmp_path)
    axes = found["Rate and distortion"]
    (contours,) = [c for c in axes.collections if hasattr(c, "levels")]
    seen = 0
    for level, path in zip(contours.levels, contours.get_paths(), strict=True):
        for rate, distortion in path.vertices:
            assert bits_per_dim(distortion, rate, VALUES) == pytest.approx(level, abs=1e-6)
            seen += 1
    assert seen > 10
    labels = [float(text.get_text().split()[0]) for text in axes.texts]
    assert {*labels} <= {round(float(level), 9) for level in contours.levels}
    assert labels


def test_different_image_sizes_have_no_bpd_lines(tmp_path):
    runs = [{"data.image_size": size} for size in (32, 64)]
    _, found = panels(tmp_path, runs)
    assert not [c for c in found["Rate and distortion"].collections if hasattr(c, "levels")]


def test_the_line_of_each_size_goes_through_its_means(tmp_path):
    runs = [{**values, "seed": seed} for values in GRID for seed in (0, 1, 2)]
    comparison, found = panels(tmp_path, runs)
    axes = found["val/bpd by β"]
    assert axes.get_xscale() == "log"
    assert len(dots(axes)) == 24
    lines = [line.get_xydata() for line in axes.lines]
    assert len(lines) == 2
    for size, line in zip((16, 64), lines, strict=True):
        for beta, mean in line:
            values = [
                run.metrics["val/bpd"]
                for run in comparison.runs
                if (run.value("model.latent_dim"), run.value("loss.beta")) == (size, beta)
            ]
            assert len(values) == 3
            assert mean == pytest.approx(sum(values) / 3)
        assert len(line) == 4


def searched(count=40):
    draw = random.Random(0)
    return [
        {
            "loss.beta": 10 ** draw.uniform(-5, -2),
            "model.latent_dim": draw.choice([16, 32, 64, 128]),
            "optimizer.lr": 10 ** draw.uniform(-4, -2),
        }
        for _ in range(count)
    ]


def test_points_of_a_search_are_not_joined(tmp_path):
    _, found = panels(tmp_path, searched())
    assert len(found["val/bpd by β"].lines) == 0
    assert len(dots(found["val/bpd by β"])) == 40


@pytest.mark.parametrize(
    ("runs", "keys"),
    [
        (GRID, ("loss.beta", "model.latent_dim")),
        ([{"model.latent_dim": size} for size in (4, 8)], ("model.latent_dim", None)),
        (
            [{"optimizer.lr": x, "model": m} for x in (1, 2) for m in "ab"],
            ("optimizer.lr", "model"),
        ),
        ([{"seed": seed} for seed in range(3)], ("seed", None)),
        ([{"model": m, "seed": s} for m in ("conv", "residual") for s in (0, 1)], ("model", None)),
        ([{"loss.beta": 1e-4}], (None, None)),
    ],
)
def test_axes_are_chosen_by_the_swept_keys(runs, keys, tmp_path):
    comparison = read_sweep(make_sweep(tmp_path / "s", runs))
    assert axis_keys(comparison) == keys
    picture = Image.open(draw_charts(comparison, tmp_path / "c.png"))
    assert picture.width > 600
    assert [path.name for path in tmp_path.glob("*.png")] == ["c.png"]
    assert np.asarray(picture).std() > 5  # there is something on it


def test_beta_zero_is_on_the_axis(tmp_path):
    runs = [{"loss.beta": beta} for beta in (0.0, 1e-4, 1e-2)]
    _, found = panels(tmp_path, runs)
    assert {x for x, _ in dots(found["val/bpd by β"])} == {0.0, 1e-4, 1e-2}
    assert found["val/bpd by β"].get_xscale() == "symlog"
    assert len(dots(found["Rate and distortion"])) == 3


def test_each_of_several_objectives_has_a_panel_and_its_front_is_marked(tmp_path):
    comparison, found = panels(tmp_path, searched(), objective=["val/rate", "val/psnr"])
    assert len(comparison.front) > 2
    for metric in comparison.objectives:
        axes = found[f"{metric} by β"]
        expected = {(run.value("loss.beta"), run.metrics[metric]) for run in comparison.front}
        assert rings(axes) == expected
    assert "higher is better" in found["val/psnr by β"].get_ylabel()
    assert "lower is better" in found["val/rate by β"].get_ylabel()


def test_two_objectives_are_drawn_against_each_other(tmp_path):
    comparison, found = panels(tmp_path, searched(), objective=["val/rate", "val/psnr"])
    axes = found["val/rate and val/psnr"]
    points = {(run.metrics["val/rate"], run.metrics["val/psnr"]) for run in comparison.runs}
    assert dots(axes) == points
    assert rings(axes) == {(r.metrics["val/rate"], r.metrics["val/psnr"]) for r in comparison.front}
    (line,) = axes.lines  # the front: of two points on it, more rate buys more psnr
    assert (np.diff(line.get_xdata()) > 0).all()
    assert (np.diff(line.get_ydata()) > 0).all()


def test_a_searched_size_has_its_own_axis(tmp_path):
    """Of more sizes than can have lines; the few of a grid have lines."""
    draw = random.Random(3)
    runs = [{"loss.beta": 10 ** draw.uniform(-5, -2), "model.latent_dim": n} for n in range(8, 24)]
    _, found = panels(tmp_path, runs)
    assert {x for x, _ in dots(found["val/bpd by z"])} == set(range(8, 24))
    _, found = panels(tmp_path / "grid")
    assert "val/bpd by z" not in found


def test_unfinished_runs_are_not_drawn(tmp_path):
    sweep = make_sweep(tmp_path / "s", GRID)
    for number, status in enumerate(("pruned", "failed", "interrupted", None)):
        make_run(sweep, {"loss.beta": 10.0 + number, "model.latent_dim": 16}, status)
    comparison = read_sweep(sweep)
    (axes,) = [
        a for a in draw_comparison(comparison).axes if a.get_title() == "Rate and distortion"
    ]
    assert len(dots(axes)) == len(GRID)


def test_no_finished_run_is_a_user_error(tmp_path):
    make_run(tmp_path / "s", {"seed": 1}, "failed", {})
    with pytest.raises(UserError, match="no run has finished"):
        draw_comparison(read_sweep(tmp_path / "s"))


def test_runs_without_rate_have_the_other_panels(tmp_path):
    for beta in (1e-3, 1e-2):
        make_run(tmp_path / "s", {"loss.beta": beta}, metrics={"val/bpd": 6 + beta})
    titles = [axes.get_title() for axes in draw_comparison(read_sweep(tmp_path / "s")).axes]
    assert titles == ["val/bpd by β"]


@pytest.mark.parametrize("metric", ["val/bpd", "val/psnr"])
def test_the_decisive_key_is_most_important(metric, tmp_path):
    """The learning rate decides who is good; among the bad, beta decides who is the worst."""
    for values in searched(30):
        high = values["optimizer.lr"] > 2e-3
        score = 9 + values["optimizer.lr"] if high else -math.log10(values["loss.beta"])
        make_run(tmp_path / "s", values, metrics={"val/bpd": -score, "val/psnr": score})
    comparison = read_sweep(tmp_path / "s")
    shares = importances(comparison, metric)
    assert next(iter(shares)) == "optimizer.lr"
    assert shares["optimizer.lr"] > 0.6
    assert sum(shares.values()) == pytest.approx(1)
    assert set(shares) == set(comparison.swept)


@pytest.mark.parametrize(
    "runs", [GRID[:7], [{"loss.beta": 10.0**-power} for power in range(10)]], ids=["few", "one key"]
)
def test_few_runs_have_no_importances(runs, tmp_path):
    comparison, found = panels(tmp_path, runs)
    assert importances(comparison, "val/bpd") == {}
    assert not [title for title in found if "mattered" in title]
