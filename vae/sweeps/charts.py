"""Charts of a sweep: rate against distortion, effect of each key, importances."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import product
from math import prod
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from vae.sweeps.comparison import (
    LEADING_KEYS,
    SYMBOLS,
    Comparison,
    format_value,
    importances,
    is_log_scale,
    is_numeric,
    pareto_front,
    sort_key,
)
from vae.sweeps.results import SweepRun
from vae.training.metrics import bits_per_dim
from vae.utils.errors import UserError
from vae.utils.files import write_atomically
from vae.utils.registry import find_metric
from vae.utils.text import printable, truncate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 110
MAX_PANELS = 12
MAX_LABEL = 80  # characters of a label
CHARACTERS = 60  # that fit below a panel
MARKERS = "osD^vPX*"  # as many values of one key are told apart, and no more
DOT: dict[str, Any] = {"s": 52, "edgecolors": "white", "linewidths": 0.6, "zorder": 3}
RING: dict[str, Any] = {"s": 150, "facecolors": "none", "edgecolors": "#d62728", "linewidths": 1.6}
LEGEND: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13), "frameon": False}
QUIET = "#999999"
RATE_DISTORTION = ("val/rate", "val/distortion")


def draw_charts(comparison: Comparison, path: Path) -> None:
    """Write the figure of `draw_comparison` as a PNG."""
    figure = draw_comparison(comparison)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=DOTS_PER_INCH))


def draw_comparison(comparison: Comparison) -> Figure:
    """Draw the charts of a sweep's finished runs as a matplotlib figure.

    Rate against distortion, each objective against the swept keys, and the importance of the
    keys if there are enough runs.

    Raises:
        UserError: no run has finished yet.
    """
    from matplotlib.figure import Figure

    runs = comparison.ranked
    if not runs:
        measured = " and ".join(comparison.objectives)
        raise UserError(f"no run has finished with {measured}, so there is nothing to draw yet.")
    pairs = [RATE_DISTORTION]
    if len(comparison.objectives) == 2 and set(comparison.objectives) != set(RATE_DISTORTION):
        pairs.append((comparison.objectives[0], comparison.objectives[1]))
    panels: list[Callable[[Axes], None]] = [
        partial(_draw_trade, comparison=comparison, pair=pair)
        for pair in pairs
        if any(run.metrics.keys() >= set(pair) for run in runs)
    ]
    panels += [
        partial(_draw_effect, comparison=comparison, metric=metric, across=across)
        for metric, across in product(comparison.objectives, axis_keys(comparison)[0])
    ]
    if not panels:
        raise UserError(
            f"the finished runs have no {' and no '.join(RATE_DISTORTION)}: nothing to draw."
        )
    shares = {metric: importances(comparison, metric) for metric in comparison.objectives}
    if any(shares.values()):
        panels.append(partial(draw_importances, shares=shares, runs=len(runs)))
    panels = panels[:MAX_PANELS]
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(6.8 * columns, 5.2 * lines), layout="constrained")
    for place, draw in enumerate(panels, start=1):
        last = lines * columns if place == len(panels) else place  # it may span two columns
        draw(figure.add_subplot(lines, columns, (place, last)))
    return figure


def draw_rate_distortion(comparison: Comparison) -> Figure:
    """Draw the panel of rate and distortion alone: of a sweep with a run that measured both."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 4.6), layout="constrained")
    _draw_trade(figure.add_subplot(), comparison, RATE_DISTORTION)
    return figure


def literal(text: str) -> str:
    """Return text as matplotlib shows it literally, on one line: `$` begins a formula there."""
    return truncate(printable(text), MAX_LABEL).replace("$", r"\$")


def axis_keys(comparison: Comparison) -> tuple[list[str], str | None]:
    """Return the swept keys with an x axis, and the key whose values get a line each.

    The first axis is beta's, else the latent size's, else that of the number with most values;
    the second is that of the next number, if its values have no lines. Seeds are repetitions,
    and have an axis only where nothing else was swept.
    """
    runs = comparison.ranked
    keys = [key for key in comparison.swept if key != "seed"] or comparison.swept
    counts = {key: len({run.value(key) for run in runs}) for key in keys}
    numeric = [key for key in keys if is_numeric(runs, key) and counts[key] > 1]

    def worth(key: str) -> tuple[bool, bool, int]:
        return key == LEADING_KEYS[0], key == LEADING_KEYS[1], counts[key]

    first = max(numeric or keys, key=worth, default=None)
    few = (key for key in keys if key != first and 1 < counts[key] <= len(MARKERS))
    between = next(few, None)
    others = [key for key in numeric if key not in (first, between)]
    return [key for key in (first, *others[:1]) if key], between


def _draw_trade(axes: Axes, comparison: Comparison, pair: tuple[str, str]) -> None:
    """Draw two metrics, rate and distortion, against each other, with the Pareto front.

    With lines of equal bits per dimension, which are those two's sum.
    """
    from matplotlib import colors
    from matplotlib.cm import ScalarMappable

    runs = [run for run in comparison.ranked if run.metrics.keys() >= set(pair)]
    points = {run.name: (run.metrics[pair[0]], run.metrics[pair[1]]) for run in runs}
    front = pareto_front(
        [[find_metric(key).cost(run.metrics[key]) for key in pair] for run in runs]
    )
    if len(front) > 1:
        on_front = sorted(points[runs[i].name] for i in front)
        axes.plot(*zip(*on_front, strict=True), color=QUIET, linewidth=1.2, label="Pareto front")
    keys, between = axis_keys(comparison)
    across = keys[0] if keys else None
    shades: dict[str, Any] = {}  # by run, if the main key is a number
    if across and is_numeric(runs, across):
        values = [float(run.value(across)) for run in runs]
        scale, options = _scale(values)
        norms = {"linear": colors.Normalize, "log": colors.LogNorm, "symlog": colors.SymLogNorm}
        norm = norms[scale](vmin=min(values), vmax=max(values), **options)
        bar = ScalarMappable(norm, "viridis")
        shades = dict(zip(points, bar.to_rgba(np.array(values)), strict=True))
        axes.figure.colorbar(bar, ax=axes, label=literal(SYMBOLS.get(across, across)), pad=0.02)
    for marker, colour, label, members in _series(runs, between if shades else across):
        xs, ys = zip(*(points[run.name] for run in members), strict=True)
        fill = [shades[run.name] for run in members] if shades else colour
        axes.scatter(xs, ys, c=fill, marker=marker, **DOT)
        axes.scatter([], [], color=QUIET if shades else colour, marker=marker, label=label)
    if comparison.best or set(pair) == set(comparison.objectives):  # else others' front
        _ring(axes, comparison, [points[r.name] for r in comparison.front if r.name in points])
    if pair == RATE_DISTORTION:
        _draw_equal_bpd(axes, {run.value("data.image_size") for run in runs})
    title = "Rate and distortion" if pair == RATE_DISTORTION else f"{pair[0]} and {pair[1]}"
    xlabel, ylabel = (literal(find_metric(key).label) for key in pair)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=literal(title))
    _legend(axes)


def _draw_equal_bpd(axes: Axes, image_sizes: set[Any]) -> None:
    """Draw lines of equal bits per dimension; none if image sizes differ."""
    sizes = [size for size in image_sizes if isinstance(size, int)]
    if len(sizes) != 1:
        return
    # linear in both, so that corners would do, but labels go where a line has points
    rates, distortions = (np.linspace(*ends, 33) for ends in (axes.get_xlim(), axes.get_ylim()))
    bits = np.vectorize(bits_per_dim)(distortions[:, None], rates, 3 * sizes[0] ** 2)
    style: dict[str, Any] = {"colors": QUIET, "linewidths": 0.7, "linestyles": ":", "zorder": 0}
    axes.clabel(axes.contour(rates, distortions, bits, 7, **style), fmt="%g bpd", fontsize=8)


def _draw_effect(axes: Axes, comparison: Comparison, metric: str, across: str) -> None:
    """Draw a metric against a swept key: all runs as points, their means as lines."""
    runs = comparison.ranked
    _, between = axis_keys(comparison)
    numeric = is_numeric(runs, across)
    values = sorted({run.value(across) for run in runs}, key=sort_key)
    places = {value: float(value if numeric else i) for i, value in enumerate(values)}
    for marker, colour, label, members in _series(runs, between if numeric else across):
        xs = [places[run.value(across)] for run in members]
        ys = [run.metrics[metric] for run in members]
        axes.scatter(xs, ys, color=colour, marker=marker, label=label, **DOT)
        if numeric and _is_grid(comparison):
            pairs = list(zip(xs, ys, strict=True))
            means = [(x, fmean(y for at, y in pairs if at == x)) for x in sorted(set(xs))]
            axes.plot(*zip(*means, strict=True), color=colour, linewidth=1.2, zorder=1)
    if across == "seed":
        mean = fmean(run.metrics[metric] for run in runs)
        axes.axhline(mean, color=QUIET, linestyle="--", label=f"mean {mean:.4g}")
    best = [(places[run.value(across)], run.metrics[metric]) for run in comparison.front]
    _ring(axes, comparison, best)
    if numeric:
        scale, options = _scale(list(places.values()))
        axes.set_xscale(scale, **options)
    else:
        axes.set_xlim(-0.5, len(places) - 0.5)
    labels = [literal(format_value(value)) for value in values]
    if not numeric or (len(places) <= len(MARKERS) and _have_room(axes, places.values(), labels)):
        crowded = sum(map(len, labels)) > CHARACTERS
        axes.set_xticks(list(places.values()), labels, rotation=30 if crowded else 0)
        axes.set_xticks([], minor=True)
    better = "higher" if find_metric(metric).higher_is_better else "lower"
    axes.set_xlabel(literal(across if across not in SYMBOLS else f"{SYMBOLS[across]}  ({across})"))
    axes.set_ylabel(literal(f"{find_metric(metric).label} ({better} is better)"))
    axes.set_title(literal(f"{metric} by {SYMBOLS.get(across, across)}"))
    _legend(axes)


def _have_room(axes: Axes, places: Iterable[float], labels: Sequence[str]) -> bool:
    """Return whether labels below the x axis do not overlap."""
    axes.get_xlim()  # it updates the limits
    points = [(place, axes.get_ylim()[0]) for place in places]
    shares = (axes.transScale + axes.transLimits).transform(points)[:, 0]  # of the width
    return all(np.diff(shares) > max(map(len, labels)) / CHARACTERS)


def _scale(values: Sequence[float]) -> tuple[str, dict[str, Any]]:
    """Return the scale for numbers, and its options: logarithmic if they are far apart."""
    positive = [value for value in values if value > 0]
    if not positive or not is_log_scale(positive):
        return "linear", {}
    if len(positive) == len(values):
        return "log", {}
    return "symlog", {"linthresh": min(positive)}  # a beta of 0 among them


def _series(
    runs: list[SweepRun], key: str | None
) -> Iterator[tuple[str, str, str | None, list[SweepRun]]]:
    """Yield marker, colour, label and runs per value of a key; one series for too many values."""
    values = sorted({run.value(key) for run in runs}, key=sort_key) if key else []
    if key is None or not 1 < len(values) <= len(MARKERS):
        yield "o", "C0", None, runs
        return
    for i, value in enumerate(values):
        members = [run for run in runs if run.value(key) == value]
        label = literal(f"{SYMBOLS.get(key, key)} {format_value(value)}")
        yield MARKERS[i], f"C{i}", label, members


def _ring(axes: Axes, comparison: Comparison, points: Sequence[tuple[float, float]]) -> None:
    """Ring the best points."""
    best = comparison.best
    if points:
        label = "best trade-offs"
        if best:
            label = literal(f"best {comparison.objectives[0]}: {comparison.label(best)}")
        axes.scatter(*zip(*points, strict=True), label=label, **RING)


def _legend(axes: Axes) -> None:
    """Place the legend below the axes, where it hides no run."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = 90 // (max(map(len, labels)) + 4)
        axes.legend(handles, labels, ncols=min(max(columns, 1), 4), **LEGEND)


def _is_grid(comparison: Comparison) -> bool:
    """Return whether the runs fill at least half of the swept grid: lines have a meaning."""
    runs = comparison.ranked
    keys = [key for key in comparison.swept if key != "seed"]
    cells = prod(len({run.value(key) for run in runs}) for key in keys)
    return 2 * len({tuple(run.value(key) for key in keys) for run in runs}) >= cells


def draw_importances(axes: Axes, shares: dict[str, dict[str, float]], runs: int) -> None:
    """Draw bars: the importance of each swept key."""
    labels = []
    for metric, share in shares.items():
        for key, value in share.items():
            labels.append(literal(key if len(shares) == 1 else f"{key} for {metric}"))
            axes.barh(len(labels), value, color=f"C{list(shares).index(metric)}", height=0.5)
            axes.text(value + 0.005, len(labels), f"{value:.0%}", va="center", fontsize=9)
    axes.set_yticks(range(1, len(labels) + 1), labels)
    axes.set_ylim(max(len(labels), 5) + 0.6, 0.4)  # downwards; one or two would be too thick
    axes.set_xlim(0, 1.06)
    axes.set_xticks([])
    axes.set_title(f"What mattered for being good (PED-ANOVA, {runs} runs)")
    axes.spines[["top", "right", "bottom"]].set_visible(False)
