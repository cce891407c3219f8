"""The charts of a sweep show the measured values."""

import math
import random
from itertools import pairwise, product
from statistics import fmean

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from PIL import Image

from tests.support.fake_sweeps import VALUES, grid_of, make_run, make_sweep
from vae.sweeps.charts import axis_keys, draw_charts, draw_comparison, draw_rate_distortion
from vae.sweeps.comparison import importances, read_sweep
from vae.training.metrics import bits_per_dim
from vae.utils.errors import UserError

BETAS, SIZES = (1e-5, 1e-4, 1e-3, 1e-2), (16, 64)
GRID = {"loss.beta": BETAS, "model.latent_dim": SIZES}


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


def panels(sweep):
    """The sweep, and its panels by title."""
    comparison = read_sweep(sweep)
    figure = draw_comparison(comparison)
    return comparison, {axes.get_title(): axes for axes in figure.axes if axes.get_title()}


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """A grid of three seeds, and an unfinished run in each state."""
    sweep = make_sweep(tmp_path_factory.mktemp("grid") / "s", grid_of({**GRID, "seed": (0, 1, 2)}))
    for number, status in enumerate(("pruned", "failed", "interrupted", None)):
        make_run(sweep, {"loss.beta": 10.0 + number, "model.latent_dim": 16}, status)
    return panels(sweep)


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    """A search of two objectives."""
    folder = tmp_path_factory.mktemp("search") / "s"
    return panels(make_sweep(folder, searched(), objective=["val/rate", "val/psnr"]))


def places(axes):
    """Where the runs are drawn, and where the best are marked by rings."""
    dots, rings = set(), set()
    for drawn in axes.collections:
        if isinstance(drawn, PathCollection):
            found = {tuple(map(float, place)) for place in drawn.get_offsets()}
            (dots if len(drawn.get_facecolors()) else rings).update(found)
    return dots, rings


def contours(axes):
    return [c for c in axes.collections if hasattr(c, "levels")]


def values_of(runs, best, *keys):
    """The same by the runs: two values of each."""
    return tuple(
        {tuple(run.value(k) if "." in k else run.metrics[k] for k in keys) for run in some}
        for some in (runs, best)
    )


def test_finished_runs_are_at_their_rate_and_distortion(grid):
    comparison, found = grid
    axes = found["Rate and distortion"]
    finished = [run for run in comparison.runs if run.status == "finished"]
    assert len(finished) == len(comparison.runs) - 4
    best = min(finished, key=lambda run: run.metrics["val/bpd"])
    assert places(axes) == values_of(finished, [best], "val/rate", "val/distortion")


def test_equal_bpd_lines_are_exact(grid):
    axes = grid[1]["Rate and distortion"]
    (lines,) = contours(axes)
    seen = 0
    for level, path in zip(lines.levels, lines.get_paths(), strict=True):
        for rate, distortion in path.vertices:
            assert bits_per_dim(distortion, rate, VALUES) == pytest.approx(level, abs=1e-6)
            seen += 1
    assert seen > 10
    labels = {float(text.get_text().removesuffix(" bpd")) for text in axes.texts}
    assert set() < labels <= {round(float(level), 9) for level in lines.levels}


def test_the_line_of_each_size_goes_through_its_means(grid):
    comparison, found = grid
    axes = found["val/bpd by β"]
    assert axes.get_xscale() == "log"
    assert len(places(axes)[0]) == 24
    for size, line in zip(SIZES, axes.lines, strict=True):
        means = {
            beta: fmean(
                run.metrics["val/bpd"]
                for run in comparison.runs
                if (run.value("model.latent_dim"), run.value("loss.beta")) == (size, beta)
            )
            for beta in BETAS
        }
        assert dict(line.get_xydata()) == pytest.approx(means)


def test_each_objective_of_a_search_has_panels_with_the_front(search):
    comparison, found = search
    front = comparison.front
    assert 2 < len(front) < 40
    trade = found.pop("val/rate and val/psnr")
    assert places(trade) == values_of(comparison.runs, front, "val/rate", "val/psnr")
    assert not places(found["Rate and distortion"])[1]  # another front than that of the objectives
    (line,) = trade.lines  # the front: of two points on it, more rate buys more psnr
    assert (np.diff(line.get_xdata()) > 0).all()
    assert (np.diff(line.get_ydata()) > 0).all()
    assert len(found["What mattered for being good (PED-ANOVA, 40 runs)"].patches) == 2 * 3
    keys = {"β": "loss.beta", "optimizer.lr": "optimizer.lr"}
    effects = list(product(comparison.objectives, keys))  # the few sizes have lines, not an axis
    assert [title for title in found if " by " in title] == [f"{m} by {k}" for m, k in effects]
    for metric, across in effects:
        axes = found[f"{metric} by {across}"]
        assert len(axes.lines) == 0  # no grid, so points are not joined
        assert places(axes) == values_of(comparison.runs, front, keys[across], metric)
        better = "higher" if metric == "val/psnr" else "lower"
        assert f"{better} is better" in axes.get_ylabel()


@pytest.mark.parametrize(
    ("values", "across", "between"),
    [
        (GRID, ["loss.beta"], "model.latent_dim"),
        ({"model.latent_dim": [4, 8]}, ["model.latent_dim"], None),
        ({"optimizer.lr": [1, 2], "model": ["a", "b"]}, ["optimizer.lr"], "model"),
        # more sizes than can have lines
        ({**GRID, "model.latent_dim": range(8, 17)}, ["loss.beta", "model.latent_dim"], None),
        ({"seed": [0, 1, 2]}, ["seed"], None),
        ({"model": ["conv", "residual"], "seed": [0, 1]}, ["model"], None),
        ({"loss.beta": [1e-4]}, [], None),
    ],
)
def test_axes_are_chosen_by_the_swept_keys(values, across, between, tmp_path):
    comparison = read_sweep(make_sweep(tmp_path / "s", grid_of(values)))
    assert axis_keys(comparison) == (across, between)
    draw_charts(comparison, tmp_path / "c.png")
    picture = Image.open(tmp_path / "c.png")
    assert picture.width > 600
    assert [path.name for path in tmp_path.glob("*.png")] == ["c.png"]
    assert np.asarray(picture).std() > 5  # there is something on it


@pytest.mark.parametrize(
    ("betas", "own"), [(BETAS, True), ((8.5e-6, 4.5e-4, 8e-4, 1.7e-3, 3.1e-2, 7.7e-2), False)]
)
def test_labels_of_an_axis_do_not_overlap(betas, own, tmp_path):
    """Each value has its own, where there is room for all."""
    figure = draw_comparison(read_sweep(make_sweep(tmp_path / "s", grid_of({"loss.beta": betas}))))
    FigureCanvasAgg(figure).draw()
    axes = next(axes for axes in figure.axes if axes.get_title() == "val/bpd by β")
    boxes = [text.get_window_extent() for text in axes.get_xticklabels(which="both")]
    boxes = [box for box in boxes if box.width and box.x1 > axes.bbox.x0 and box.x0 < axes.bbox.x1]
    assert all(left.x1 < right.x0 for left, right in pairwise(sorted(boxes, key=lambda b: b.x0)))
    assert ([*axes.get_xticks()] == [*betas]) == own


def test_beta_zero_has_a_place_and_a_colour(tmp_path):
    betas = {0.0, 1e-4, 1e-2}
    _, found = panels(make_sweep(tmp_path / "s", grid_of({"loss.beta": betas})))
    assert {x for x, _ in places(found["val/bpd by β"])[0]} == betas
    assert found["val/bpd by β"].get_xscale() == "symlog"
    colours = found["Rate and distortion"].collections[0].get_facecolors()
    assert len(np.unique(colours.round(1), axis=0)) == 3


def test_what_runs_lack_is_not_drawn(tmp_path):
    make_run(tmp_path / "s", {"loss.beta": 1e-4}, "failed", {})
    with pytest.raises(UserError, match="no run has finished with val/bpd"):
        draw_comparison(read_sweep(tmp_path / "s"))
    for beta in (1e-3, 1e-2):
        make_run(tmp_path / "s", {"loss.beta": beta}, metrics={"val/bpd": 6 + beta})
    assert list(panels(tmp_path / "s")[1]) == ["val/bpd by β"]
    sizes = grid_of({"data.image_size": [32, 64]})
    _, found = panels(make_sweep(tmp_path / "sizes", sizes))
    assert not contours(found["Rate and distortion"])  # bpd is of one image size


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
    "runs", [grid_of(GRID)[:7], grid_of({"seed": range(10)})], ids=["few", "one key"]
)
def test_few_runs_have_no_importances(runs, tmp_path):
    assert importances(read_sweep(make_sweep(tmp_path / "s", runs)), "val/bpd") == {}


def test_the_panel_of_rate_and_distortion_is_drawn_alone(grid):
    comparison, found = grid
    (axes, *_) = draw_rate_distortion(comparison).axes
    assert axes.get_title() == "Rate and distortion"
    assert places(axes) == places(found["Rate and distortion"])
