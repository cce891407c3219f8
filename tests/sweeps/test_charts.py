"""The charts of a sweep show the measured values."""

import math
import random
from itertools import pairwise, product
from statistics import fmean, stdev

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import same_color
from PIL import Image

from tests.support.fake_sweeps import (
    VALUES,
    grid_of,
    make_run,
    make_sweep,
    measured,
    searched,
)
from vae.sweeps.chart_marks import RING, Marks
from vae.sweeps.charts import draw_charts, draw_comparison, draw_rate_distortion
from vae.sweeps.comparison import EVALUATORS, importances, read_sweep
from vae.training.metrics import bits_per_dim
from vae.utils.errors import UserError

BETAS, SIZES, SEEDS = (1e-5, 1e-4, 1e-3, 1e-2), (16, 64), (0, 1, 2)
GRID = {"loss.beta": BETAS, "model.latent_dim": SIZES}
RATE, DISTORTION, BPD = "val/rate", "val/distortion", "val/bpd"


def with_rates(count):
    """The values of a search of beta, four latent sizes and the learning rate."""
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
    sweep = make_sweep(tmp_path_factory.mktemp("grid") / "s", grid_of({**GRID, "seed": SEEDS}))
    for number, status in enumerate(("pruned", "failed", "interrupted", None)):
        make_run(sweep, {"loss.beta": 10.0 + number, "model.latent_dim": 16}, status)
    return panels(sweep)


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    """A search of two objectives."""
    folder = tmp_path_factory.mktemp("search") / "s"
    return panels(make_sweep(folder, with_rates(40), objective=["val/rate", "val/psnr"]))


def dots(axes):
    """The collections of dots that are drawn: filled, hollow, rings."""
    found = {"filled": [], "hollow": [], "rings": []}
    for drawn in axes.collections:
        if isinstance(drawn, PathCollection) and len(drawn.get_offsets()):
            is_ring = same_color(drawn.get_edgecolors()[0], RING["edgecolors"])
            is_filled = len(drawn.get_facecolors()) > 0
            found["filled" if is_filled else "rings" if is_ring else "hollow"].append(drawn)
    return found


def at(collections):
    return {tuple(map(float, place)) for drawn in collections for place in drawn.get_offsets()}


def places(axes):
    """Where the points are drawn, and where the best are marked by rings."""
    found = dots(axes)
    return at(found["filled"]), at(found["rings"])


def legend_of(axes):
    """The entries of a panel's legend, each on one line."""
    (legend,) = axes.figure.legends
    return [text.get_text().replace("\n", " ") for text in legend.get_texts()]


def expected(values, seeds=SEEDS):
    """The means and standard deviations over the seeds, by metric, as they were measured."""
    runs = [measured(*values, seed) for seed in seeds]
    means = {key: fmean(run[key] for run in runs) for key in runs[0]}
    return means, {key: stdev(run[key] for run in runs) for key in runs[0]}


def contours(axes):
    return [c for c in axes.collections if hasattr(c, "levels")]


def values_of(runs, best, *keys):
    """The same by the runs: two values of each."""
    return tuple(
        {tuple(run.value(k) if "." in k else run.metrics[k] for k in keys) for run in some}
        for some in (runs, best)
    )


def test_points_are_at_the_means_of_their_seeds(grid):
    _, found = grid
    points = [expected(values)[0] for values in product(BETAS, SIZES)]
    best = min(points, key=lambda metrics: metrics[BPD])
    wanted = sorted((metrics[RATE], metrics[DISTORTION]) for metrics in points)
    drawn, ringed = places(found["Rate and distortion"])
    assert np.array(sorted(drawn)) == pytest.approx(np.array(wanted))
    assert list(*ringed) == pytest.approx([best[RATE], best[DISTORTION]])


def test_error_bars_are_the_standard_deviations_of_the_seeds(grid):
    axes = grid[1]["Rate and distortion"]
    (bars,) = axes.containers
    found = [expected(values) for values in product(BETAS, SIZES)]
    for direction, key, lines in zip((0, 1), (RATE, DISTORTION), bars.lines[2], strict=True):
        wanted = {means[RATE]: 2 * spread[key] for means, spread in found}
        drawn = {
            start[0] / 2 + end[0] / 2: end[direction] - start[direction]
            for start, end in lines.get_segments()
        }
        for rate, length in wanted.items():
            (nearest,) = [drawn[x] for x in drawn if x == pytest.approx(rate)]
            assert nearest == pytest.approx(length)
    effect = grid[1]["val/bpd by β"]
    (upright,) = effect.containers[0].lines[2]
    lengths = sorted(end[1] - start[1] for start, end in upright.get_segments())
    assert lengths == pytest.approx(sorted(2 * spread[BPD] for _, spread in found))
    for panel in (axes, effect):
        assert "mean ± sd, n = 3 seeds" in legend_of(panel)


def test_seeds_that_are_missing_are_counted(tmp_path):
    runs = grid_of({"loss.beta": BETAS, "seed": SEEDS})
    _, found = panels(make_sweep(tmp_path / "s", runs[:-1]))
    assert "mean ± sd, n = 2 to 3 seeds" in legend_of(found["val/bpd by β"])
    _, found = panels(make_sweep(tmp_path / "one", grid_of(GRID)))
    for axes in found.values():
        assert not [bars for bars in axes.containers if bars.get_label() and "sd" in str(bars)]
        assert not [entry for entry in legend_of(axes) if "sd" in entry]


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
    axes = grid[1]["val/bpd by β"]
    assert axes.get_xscale() == "log"
    assert len(places(axes)[0]) == 8
    for size, line in zip(SIZES, axes.lines, strict=True):
        means = {beta: expected((beta, size))[0][BPD] for beta in BETAS}
        assert dict(line.get_xydata()) == pytest.approx(means)
    assert [entry for entry in legend_of(axes) if "z = " in entry] == ["z = 16", "z = 64"]


def test_colour_is_beta_and_size_is_the_latent_size(tmp_path):
    runs = searched(30)
    comparison, found = panels(make_sweep(tmp_path / "s", runs))
    by_place = {
        (point.metrics[RATE], point.metrics[DISTORTION]): point for point in comparison.points
    }
    (drawn,) = dots(found["Rate and distortion"])["filled"]
    points = [by_place[tuple(map(float, place))] for place in drawn.get_offsets()]
    lightness = drawn.get_facecolors()[:, :3] @ (0.2126, 0.7152, 0.0722)
    for key, shown in {"loss.beta": lightness, "model.latent_dim": drawn.get_sizes()}.items():
        pairs = sorted((point.value(key), one) for point, one in zip(points, shown, strict=True))
        assert len(pairs) == 30
        for (less, low), (more, high) in pairwise(pairs):
            assert high >= low if more > less else high == low
        assert len(set(shown)) > 25  # a colour map has 256 steps
    # the same run has the same marks in each panel
    for axes in (found["val/bpd by β"], found["val/bpd by z"]):
        (other,) = dots(axes)["filled"]
        assert np.array_equal(other.get_facecolors(), drawn.get_facecolors())
        assert np.array_equal(other.get_sizes(), drawn.get_sizes())


def test_the_legend_of_sizes_has_three_round_values(tmp_path):
    """Each with the area that a run of that size has."""
    runs = [*searched(30), {"loss.beta": 1e-3, "model.latent_dim": 50}]
    comparison, found = panels(make_sweep(tmp_path / "s", runs))
    axes = found["Rate and distortion"]
    assert [entry for entry in legend_of(axes) if "z = " in entry] == [
        "z = 10",
        "z = 50",
        "z = 200",
    ]
    (drawn,) = dots(axes)["filled"]
    (run,) = [run for run in comparison.runs if run.value("model.latent_dim") == 50]
    rates = [float(place[0]) for place in drawn.get_offsets()]
    handles = {c.get_label(): c for c in axes.collections}
    own = drawn.get_sizes()[rates.index(run.metrics[RATE])]
    assert handles["z = 50"].get_sizes() == pytest.approx([own])


@pytest.mark.parametrize("seeds", [(0,), SEEDS])
def test_points_that_break_a_constraint_are_hollow(seeds, tmp_path):
    runs = grid_of({**GRID, "seed": seeds} if len(seeds) > 1 else GRID)
    _, found = panels(make_sweep(tmp_path / "s", runs, constraint="val/rate <= 100"))
    means = [
        {key: fmean(measured(*values, seed)[key] for seed in seeds) for key in (RATE, BPD)}
        for values in product(BETAS, SIZES)
    ]
    kept = [metrics for metrics in means if metrics[RATE] <= 100]
    assert 1 < len(kept) < len(means) - 1
    best = min(metrics[BPD] for metrics in kept)
    assert best > min(metrics[BPD] for metrics in means)  # else it would be ringed anyway
    for axes, place in ((found["Rate and distortion"], 0), (found["val/bpd by β"], 1)):
        drawn = {kind: sorted(p[place] for p in at(d)) for kind, d in dots(axes).items()}
        key = (RATE, BPD)[place]
        assert drawn["filled"] == pytest.approx(sorted(metrics[key] for metrics in kept))
        broken = sorted(metrics[key] for metrics in means if metrics not in kept)
        assert drawn["hollow"] == pytest.approx(broken)
        (ringed,) = [metrics for metrics in means if metrics[BPD] == best]
        assert drawn["rings"] == pytest.approx([ringed[key]])
        assert "breaks val/rate <= 100" in legend_of(axes)
    axes = found["Rate and distortion"]
    lines = {line.get_label(): line.get_xdata() for line in axes.lines}
    assert set(lines["val/rate <= 100"]) == {100}
    assert sorted(lines["Pareto front"]) == pytest.approx(sorted(m[RATE] for m in kept))
    assert "val/rate <= 100" not in legend_of(found["val/bpd by β"])


def test_the_bound_of_an_objective_is_a_line(tmp_path):
    constraint = ["val/bpd <= 6.4", "val/psnr >= 1"]
    _, found = panels(make_sweep(tmp_path / "s", grid_of(GRID), constraint=constraint))
    axes = found["val/bpd by β"]
    (line,) = [line for line in axes.lines if line.get_label() == "val/bpd <= 6.4"]
    assert set(line.get_ydata()) == {6.4}
    assert "breaks val/bpd <= 6.4 or val/psnr >= 1" in legend_of(axes)


def test_no_ring_where_all_points_break_a_constraint(tmp_path):
    _, found = panels(make_sweep(tmp_path / "s", grid_of(GRID), constraint="val/rate <= 1"))
    for axes in (found["Rate and distortion"], found["val/bpd by β"]):
        assert {kind: len(at(drawn)) for kind, drawn in dots(axes).items()} == {
            "filled": 0,
            "hollow": 8,
            "rings": 0,
        }


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
    assert len(found["What mattered (40 runs)"].patches) == 2 * 3 * 2
    keys = {"β": "loss.beta", "z": "model.latent_dim", "optimizer.lr": "optimizer.lr"}
    effects = list(product(comparison.objectives, keys))
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
        ({"model": ["conv", "residual"], "optimizer": list("abc")}, ["optimizer"], "model"),
    ],
)
def test_axes_are_chosen_by_the_swept_keys(values, across, between, tmp_path):
    comparison = read_sweep(make_sweep(tmp_path / "s", grid_of(values)))
    marks = Marks(comparison)
    assert (marks.across, marks.between) == (across, between)
    draw_charts(comparison, tmp_path / "c.png")
    picture = Image.open(tmp_path / "c.png")
    assert picture.width > 600
    assert [path.name for path in tmp_path.glob("*.png")] == ["c.png"]
    assert np.asarray(picture).std() > 5  # there is something on it


def test_categories_of_a_search_have_markers(tmp_path):
    categories = {"model": ["conv", "residual"], "optimizer": ["adam", "muon"]}
    comparison, found = panels(make_sweep(tmp_path / "s", searched(24, **categories)))
    marks = Marks(comparison)
    assert (marks.between, marks.size) == ("model", "model.latent_dim")
    assert marks.across == ["loss.beta", "model.latent_dim", "optimizer"]
    drawn = dots(found["val/bpd by optimizer"])["filled"]
    assert len(drawn) == 2
    for model, one in zip(categories["model"], drawn, strict=True):
        wanted = [
            (round(x), y)
            for run in comparison.runs
            if run.value("model") == model
            for x, y in [(categories["optimizer"].index(run.value("optimizer")), run.metrics[BPD])]
        ]
        assert sorted((round(x), y) for x, y in one.get_offsets()) == sorted(wanted)


def test_a_sweep_of_seeds_alone_shows_their_mean(tmp_path):
    _, found = panels(make_sweep(tmp_path / "s", grid_of({"seed": range(5)})))
    axes = found["val/bpd by seed"]
    bpds = [measured(seed=seed)[BPD] for seed in range(5)]
    assert places(axes)[0] == set(enumerate(bpds))
    assert [set(line.get_ydata()) for line in axes.lines] == [{fmean(bpds)}]
    assert f"mean {fmean(bpds):.4g} (sd {stdev(bpds):.2g}, n = 5)" in legend_of(axes)


def test_beta_zero_has_a_place_and_a_colour(tmp_path):
    betas = {0.0, 1e-4, 1e-2}
    _, found = panels(make_sweep(tmp_path / "s", grid_of({"loss.beta": betas})))
    assert {x for x, _ in places(found["val/bpd by β"])[0]} == betas
    assert found["val/bpd by β"].get_xscale() == "symlog"
    (drawn,) = dots(found["Rate and distortion"])["filled"]
    colours = drawn.get_facecolors()
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
    for values in with_rates(30):
        high = values["optimizer.lr"] > 2e-3
        score = 9 + values["optimizer.lr"] if high else -math.log10(values["loss.beta"])
        make_run(tmp_path / "s", values, metrics={"val/bpd": -score, "val/psnr": score})
    comparison = read_sweep(tmp_path / "s")
    for evaluator in EVALUATORS:
        shares = importances(comparison, metric, evaluator)
        assert next(iter(shares)) == "optimizer.lr"
        assert shares["optimizer.lr"] > 0.6
        assert sum(shares.values()) == pytest.approx(1)
        assert set(shares) == set(comparison.swept)


def test_each_evaluator_answers_its_own_question(tmp_path):
    """Beta makes most of the variance; the latent size decides who is among the best."""
    for exponent, size in product(range(1, 11), (8, 16, 32, 64)):
        beta, bad = 10.0**-exponent, exponent < 3
        metrics = {"val/bpd": 100 * bad + (0 if size == 64 else 5)}
        make_run(tmp_path / "s", {"loss.beta": beta, "model.latent_dim": size}, metrics=metrics)
    comparison = read_sweep(tmp_path / "s")
    variance = importances(comparison, BPD, "fANOVA")
    best = importances(comparison, BPD)
    assert variance["loss.beta"] > 0.9
    assert best["model.latent_dim"] > 3 * variance["model.latent_dim"]


def test_importances_are_of_the_means_over_the_seeds(tmp_path):
    """Twelve runs of four points are too few; of twelve points, the seed is no key."""
    few = make_sweep(
        tmp_path / "few", grid_of({"loss.beta": BETAS[:2], **GRID, "seed": SEEDS})[:12]
    )
    assert importances(read_sweep(few), BPD) == {}
    runs = grid_of({"loss.beta": BETAS, "model.latent_dim": (8, 16, 32), "seed": SEEDS})
    comparison, found = panels(make_sweep(tmp_path / "s", runs))
    assert set(importances(comparison, BPD)) == {"loss.beta", "model.latent_dim"}
    assert "What mattered for val/bpd (12 points)" in found


@pytest.mark.parametrize(
    "runs", [grid_of(GRID)[:7], grid_of({"seed": range(10)})], ids=["few", "one key"]
)
def test_few_runs_have_no_importances(runs, tmp_path):
    for evaluator in EVALUATORS:
        comparison = read_sweep(make_sweep(tmp_path / evaluator, runs))
        assert importances(comparison, "val/bpd", evaluator) == {}


def test_equal_results_have_no_importances(tmp_path):
    for values in with_rates(10):
        make_run(tmp_path / "s", values, metrics={"val/bpd": 6.0})
    for evaluator in EVALUATORS:
        assert importances(read_sweep(tmp_path / "s"), "val/bpd", evaluator) == {}


def test_the_panel_of_importances_has_the_height_of_its_bars(tmp_path):
    heights = {}
    for name, objective in {"one": ["val/bpd"], "two": ["val/rate", "val/mse"]}.items():
        _, found = panels(make_sweep(tmp_path / name, grid_of(GRID), objective))
        (axes,) = [axes for title, axes in found.items() if "mattered" in title]
        heights[name] = axes.figure.bbox.height / axes.figure.dpi
        assert heights[name] / len(axes.patches) < 0.6  # inches for each bar
    assert heights["two"] > heights["one"]


def test_the_panel_of_rate_and_distortion_is_drawn_alone(grid):
    comparison, found = grid
    (axes, *_) = draw_rate_distortion(comparison).axes
    assert axes.get_title() == "Rate and distortion"
    assert places(axes) == places(found["Rate and distortion"])
