"""The charts of a sweep can be read: no text overprints another, or leaves the figure."""

import random
from itertools import combinations

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection

from tests.support.fake_sweeps import grid_of, make_sweep, searched
from vae.sweeps.charts import DOTS_PER_INCH, draw_comparison, draw_rate_distortion
from vae.sweeps.comparison import read_sweep

BETAS, SIZES, SEEDS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1), (16, 64, 256), (0, 1, 2)
GRID = {"loss.beta": BETAS, "model.latent_dim": SIZES}
CATEGORIES = {"model": ["conv", "residual"], "optimizer": ["adam", "adamw", "muon"]}
CLOSE = [{"loss.beta": beta, "model.latent_dim": 40} for beta in (1.4e-6, 1.53e-6)]
LONG = [f"faces of the year {year} $x$" for year in range(1990, 2030)]


def narrow(count, low, high):
    draw = random.Random(0)
    return [{"loss.beta": low * (high / low) ** draw.random()} for _ in range(count)]


SWEEPS = {
    "grid of 3": {"runs": grid_of({"loss.beta": BETAS[:3]})},
    "grid of 5 x 3": {"runs": grid_of(GRID)},
    "grid of 5 x 3, 3 seeds": {"runs": grid_of({**GRID, "seed": SEEDS})},
    "grid of close values": {
        "runs": grid_of({"loss.beta": (8.5e-6, 4.5e-4, 8e-4, 1.7e-3, 3.1e-2, 7.7e-2)})
    },
    "search of 5": {"runs": searched(5)},
    "search of 20": {"runs": searched(20)},
    "search of 200": {"runs": searched(200)},
    "search with close values": {"runs": searched(18) + CLOSE},
    "close values alone": {"runs": CLOSE},
    "constraint": {"runs": searched(20), "constraint": "val/rate <= 100"},
    "constraints, seeds": {
        "runs": grid_of({**GRID, "seed": SEEDS}),
        "constraint": ["val/rate <= 200", "val/bpd <= 6.5", "val/psnr >= 20"],
    },
    "two objectives": {"runs": searched(30), "objective": ["val/rate", "val/mse"]},
    "categories": {"runs": searched(24, **CATEGORIES)},
    "grid of categories": {"runs": grid_of({**CATEGORIES, "seed": SEEDS})},
    "seeds": {"runs": grid_of({"seed": range(5)})},
    "many categories": {"runs": grid_of({"data.path": [f"f{i}" for i in range(40)]})},
    "many seeds": {"runs": grid_of({"seed": range(100, 160)})},
    "one run": {"runs": [{"loss.beta": 1e-4}]},
    "zero": {"runs": grid_of({"loss.beta": (0.0, 1e-4, 1e-3, 1e-2)})},
    "zero in a search": {"runs": [{"loss.beta": 0.0, "model.latent_dim": 8}, *searched(20)]},
    "negative": {"runs": grid_of({"loss.beta": BETAS, "trainer.shift": (-1.0, 0.0, 0.5, 2.0)})},
    "negative in a search": {
        "runs": [
            {**values, "trainer.shift": random.Random(i).uniform(-3, 200)}
            for i, values in enumerate(searched(20))
        ]
    },
    "no decade": {"runs": narrow(20, 1.1e-4, 9.5e-4)},
    "one decade": {"runs": narrow(20, 6e-4, 2e-2)},
    "thousands": {"runs": grid_of({"data.num_images": [1000 + 37 * i**3 for i in range(25)]})},
}


FAST = ["grid of 5 x 3, 3 seeds", "search of 20", "constraint", "categories", "close values alone"]


@pytest.fixture(
    scope="module",
    params=[n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in SWEEPS],
)
def figures(request, tmp_path_factory):
    """The drawn figures of a sweep: all panels, and that of rate and distortion alone."""
    folder = tmp_path_factory.mktemp("sweep") / "s"
    comparison = read_sweep(make_sweep(folder, **SWEEPS[request.param]))
    drawn = draw_comparison(comparison), draw_rate_distortion(comparison)
    for figure in drawn:
        figure.set_dpi(DOTS_PER_INCH)
        FigureCanvasAgg(figure).draw()
    return drawn


def all_texts(figure):
    """All texts that are seen, by their boxes in pixels; numbers of axes where their ticks are."""
    found = []
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            room = 1e-9 * (high - low)
            inside = [tick for tick in ticks if low - room <= tick.get_loc() <= high + room]
            found += [label for tick in inside for label in (tick.label1, tick.label2)]
            found += [axis.label, axis.get_offset_text()]
        found += [axes.title, *axes.texts]
    for legend in legends(figure):
        found += [*legend.get_texts(), legend.get_title()]
    seen = [text for text in found if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent()) for text in seen]


def legends(figure):
    own = [legend for part in figure.subfigs for legend in legends(part)]
    return [*figure.legends, *own]


def overlap(one, other):
    return (
        min(one.x1, other.x1) - max(one.x0, other.x0) > 0.5
        and min(one.y1, other.y1) - max(one.y0, other.y0) > 0.5
    )


def test_no_text_overprints_another(figures):
    for figure in figures:
        found = all_texts(figure)
        assert len(found) > 8
        pairs = combinations(found, 2)
        assert [(a, b) for (a, box), (b, other) in pairs if overlap(box, other)] == []
        right, top = figure.bbox.x1 + 1, figure.bbox.y1 + 1
        left_out = [
            text
            for text, box in found
            if box.x0 < -1 or box.y0 < -1 or box.x1 > right or box.y1 > top
        ]
        assert left_out == []


def test_labels_of_categories_keep_apart(tmp_path):
    """Turned by 45 degrees, their lines are apart by more than their height."""
    comparison = read_sweep(make_sweep(tmp_path / "s", grid_of({"data.path": LONG})))
    figure = draw_comparison(comparison)
    FigureCanvasAgg(figure).draw()
    (axes,) = [axes for axes in figure.axes if "by data.path" in axes.get_title()]
    labels = axes.get_xticklabels()
    assert {label.get_rotation() for label in labels} == {45}
    assert 10 < len(labels) < len(LONG)
    (first, _), (second, _) = axes.transData.transform([(x, 0) for x in axes.get_xticks()[:2]])
    height = labels[0].get_fontsize() * figure.dpi / 72
    assert (second - first) * 0.5**0.5 > 1.2 * height
    assert all(label.get_text().startswith("faces of the year") for label in labels)


def test_dots_of_a_legend_keep_apart(figures):
    for legend in legends(figures[0]):
        handles = [h for h in legend.legend_handles if isinstance(h, PathCollection)]
        radii = [h.get_sizes().max() ** 0.5 / 2 * DOTS_PER_INCH / 72 for h in handles]
        places = [h.get_offset_transform().transform(h.get_offsets())[0] for h in handles]
        for (a, r), (b, s) in combinations(zip(places, radii, strict=True), 2):
            assert abs(a - b).max() > r + s


def test_dots_are_not_below_labels(figures):
    """The labels of the lines of equal bits per dimension are where no point is."""
    axes = figures[1].axes[0]
    boxes = [text.get_window_extent() for text in axes.texts]
    for points in axes.collections:
        if isinstance(points, PathCollection):
            for x, y in axes.transData.transform(points.get_offsets()):
                assert not any(box.contains(x, y) for box in boxes)


def test_panels_keep_apart(figures):
    for figure in figures:
        boxes = [axes.get_window_extent() for axes in figure.axes]
        assert not any(overlap(*pair) for pair in combinations(boxes, 2))
        assert all(box.width > 8 and box.height > 60 for box in boxes)


@pytest.mark.parametrize(
    ("name", "betas"), [("grid of 5 x 3", BETAS), ("grid of close values", None)]
)
def test_values_of_a_grid_have_ticks_where_they_have_room(name, betas, tmp_path):
    comparison = read_sweep(make_sweep(tmp_path / "s", **SWEEPS[name]))
    figure = draw_comparison(comparison)
    (axes,) = [axes for axes in figure.axes if axes.get_title() == "val/bpd by β"]
    assert (tuple(axes.get_xticks()) == betas) == (betas is not None)
