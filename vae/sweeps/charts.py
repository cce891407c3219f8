"""Charts of a sweep: rate against distortion, effect of each key, importances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from math import prod
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from vae.sweeps.comparison import (
    LEADING_KEYS,
    SYMBOLS,
    Comparison,
    format_value,
    importances,
    is_log_scale,
    pareto_front,
    sort_key,
)
from vae.sweeps.results import SweepRun, parse_number
from vae.training.metrics import bits_per_dim
from vae.utils.errors import UserError
from vae.utils.files import write_atomically
from vae.utils.metric_registry import axis_label, cost, higher_is_better

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 110
MARKERS = "osD^vPX*"  # as many values of one key are told apart, and no more
DOT: dict[str, Any] = {"s": 52, "edgecolors": "white", "linewidths": 0.6, "zorder": 3}
RING: dict[str, Any] = {"s": 150, "facecolors": "none", "edgecolors": "#d62728", "linewidths": 1.6}
LEGEND: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13), "frameon": False}
QUIET = "#999999"
MIN_BARS = 5  # bars that there is room for: one or two alone would be too thick
RATE_DISTORTION = ("val/rate", "val/distortion")


def draw_charts(comparison: Comparison, path: Path) -> Path:
    """Write the figure of `draw_comparison` as a PNG."""
    figure = draw_comparison(comparison)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=DOTS_PER_INCH))
    return path


def draw_comparison(comparison: Comparison) -> Figure:
    """Draw the charts of a sweep's finished runs as a matplotlib figure.

    Rate against distortion; each objective against what was swept, where anything was; and
    which keys mattered, where there are runs enough to say so.

    Raises:
        UserError: no run has finished yet.
    """
    from matplotlib.figure import Figure

    runs = comparison.ranked
    if not runs:
        raise UserError("no run has finished, so there is nothing to draw yet.")
    panels: list[Callable[[Axes], None]] = []
    pairs = [RATE_DISTORTION]
    if len(comparison.objectives) == 2 and set(comparison.objectives) != set(RATE_DISTORTION):
        pairs.append((comparison.objectives[0], comparison.objectives[1]))
    for pair in pairs:
        if any(run.metrics.keys() >= set(pair) for run in runs):
            panels.append(partial(_draw_trade, comparison=comparison, pair=pair))
    for metric, across in product(comparison.objectives, effect_keys(comparison)):
        panels.append(partial(_draw_effect, comparison=comparison, metric=metric, across=across))
    if not panels:
        raise UserError(
            f"the finished runs have no {' and no '.join(RATE_DISTORTION)}: nothing to draw."
        )
    shares = {metric: importances(comparison, metric) for metric in comparison.objectives}
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    spare = len(panels) < lines * columns  # a place for the bars
    bars = (
        0.7 + 0.3 * max(MIN_BARS, len(comparison.swept) * len(shares))
        if any(shares.values())
        else 0.0
    )
    heights = [5.2] * lines + [bars] * (bars > 0 and not spare)
    figure = Figure(figsize=(6.8 * columns, sum(heights)), layout="constrained")
    cells = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    for place, draw in enumerate(panels):
        line, column = divmod(place, columns)
        alone = spare and not bars and place == len(panels) - 1
        draw(figure.add_subplot(cells[line, :] if alone else cells[line, column]))
    if bars:
        where = cells[lines - 1, 1] if spare else cells[lines, :]
        draw_importances(figure.add_subplot(where), shares, len(runs))
    return figure


def axis_keys(comparison: Comparison) -> tuple[str | None, str | None]:
    """Return the swept key for the x axis, and the key whose values get a line each.

    The x axis is beta's, else the latent size's, else that of the number with most values.
    Seeds are repetitions, and have an axis only where nothing else was swept.
    """
    runs = comparison.ranked
    keys = [key for key in comparison.swept if key != "seed"] or comparison.swept
    counts = {key: len({run.value(key) for run in runs}) for key in keys}
    numeric = [key for key in keys if _is_numeric(runs, key) and counts[key] > 1]

    def worth(key: str) -> tuple[bool, bool, int]:
        return key == LEADING_KEYS[0], key == LEADING_KEYS[1], counts[key]

    across = max(numeric or keys, key=worth, default=None)
    others = [key for key in keys if key != across and 1 < counts[key] <= len(MARKERS)]
    return across, others[0] if others else None


def effect_keys(comparison: Comparison) -> list[str]:
    """Return the swept keys with an x axis: the main key, and the next one if it has no lines."""
    across, between = axis_keys(comparison)
    runs = comparison.ranked
    others = [key for key in comparison.swept if key not in (across, between, "seed")]
    free = [
        key for key in others if _is_numeric(runs, key) and len({r.value(key) for r in runs}) > 1
    ]
    return [key for key in (across, *free[:1]) if key]


def _draw_trade(axes: Axes, comparison: Comparison, pair: tuple[str, str]) -> None:
    """Draw two metrics, rate and distortion, against each other, with the Pareto front.

    With lines of equal bits per dimension, which are those two's sum.
    """
    import matplotlib
    from matplotlib.colors import LogNorm, Normalize

    runs = [run for run in comparison.ranked if run.metrics.keys() >= set(pair)]
    points = {run.name: (run.metrics[pair[0]], run.metrics[pair[1]]) for run in runs}
    costs = [[cost(key, run.metrics[key]) for key in pair] for run in runs]
    front = pareto_front(costs)
    if len(front) > 1:
        on_front = sorted(points[runs[i].name] for i in front)
        axes.plot(*zip(*on_front, strict=True), color=QUIET, linewidth=1.2, label="Pareto front")
    across, between = axis_keys(comparison)
    by_colour = across if across and _is_numeric(runs, across) else None
    values = [parse_number(run.value(by_colour)) or 0.0 for run in runs] if by_colour else []
    positive = [value for value in values if value > 0] or [1.0]
    norm = (LogNorm if is_log_scale(positive) else Normalize)(min(positive), max(positive))
    scale = matplotlib.colormaps["viridis"].with_extremes(bad="#cccccc")  # beta=0 has no log
    for marker, colour, label, members in _series(runs, between if by_colour else across):
        xs, ys = zip(*(points[run.name] for run in members), strict=True)
        if by_colour is None:
            axes.scatter(xs, ys, color=colour, marker=marker, label=label, **DOT)
            continue
        shades = [parse_number(run.value(by_colour)) or 0.0 for run in members]
        paint: dict[str, Any] = {"cmap": scale, "norm": norm, "plotnonfinite": True}
        drawn = axes.scatter(xs, ys, c=shades, marker=marker, **paint, **DOT)
        if label:  # in the legend a colour would be that of one run
            axes.scatter([], [], color=QUIET, marker=marker, label=label)
    if by_colour and min(values) <= 0 < min(positive):
        axes.scatter([], [], color="#cccccc", label=f"{SYMBOLS.get(by_colour, by_colour)} 0")
    if by_colour and (figure := axes.get_figure()):
        figure.colorbar(drawn, ax=axes, label=SYMBOLS.get(by_colour, by_colour), pad=0.02)
    best = comparison.best
    _ring(
        axes,
        [points[run.name] for run in comparison.front if run.name in points],
        f"best: {comparison.label(best)}" if best else "best trade-offs",
    )
    if pair == RATE_DISTORTION:
        _draw_equal_bpd(axes, {run.value("data.image_size") for run in runs})
    title = "Rate and distortion" if pair == RATE_DISTORTION else f"{pair[0]} and {pair[1]}"
    axes.set(xlabel=axis_label(pair[0]), ylabel=axis_label(pair[1]), title=title)
    _legend(axes)


def _draw_equal_bpd(axes: Axes, image_sizes: set[Any]) -> None:
    """Draw lines of equal bits per dimension; none if image sizes differ."""
    sizes = [size for size in image_sizes if isinstance(size, int)]
    if len(sizes) != 1:
        return
    xs, ys = axes.get_xlim(), axes.get_ylim()
    # linear in both, so that corners would do, but labels go where a line has points
    rates, distortions = (
        [low + (high - low) * i / 32 for i in range(33)] for low, high in (xs, ys)
    )
    bits = [[bits_per_dim(d, rate, 3 * sizes[0] ** 2) for rate in rates] for d in distortions]
    style: dict[str, Any] = {"colors": QUIET, "linewidths": 0.7, "linestyles": ":", "zorder": 0}
    lines = axes.contour(rates, distortions, bits, 7, **style)
    axes.clabel(lines, fmt="%g bpd", fontsize=8)


def _draw_effect(axes: Axes, comparison: Comparison, metric: str, across: str) -> None:
    """Draw a metric against a swept key: all runs as points, their means as lines."""
    runs = comparison.ranked
    _, between = axis_keys(comparison)
    numeric = _is_numeric(runs, across)
    values = sorted({run.value(across) for run in runs}, key=sort_key)
    places = {v: (parse_number(v) or 0.0) if numeric else float(i) for i, v in enumerate(values)}
    for marker, colour, label, members in _series(runs, between if numeric else across):
        xs = [places[run.value(across)] for run in members]
        ys = [run.metrics[metric] for run in members]
        axes.scatter(xs, ys, color=colour, marker=marker, label=label, **DOT)
        if numeric and _is_grid(comparison):
            means = [
                (x, fmean(y for at, y in zip(xs, ys, strict=True) if at == x)) for x in set(xs)
            ]
            axes.plot(*zip(*sorted(means), strict=True), color=colour, linewidth=1.2, zorder=1)
    mean = fmean(run.metrics[metric] for run in runs)
    if across == "seed":
        axes.axhline(mean, color=QUIET, linestyle="--", label=f"mean {mean:.4g}")
    _ring(axes, [(places[run.value(across)], run.metrics[metric]) for run in comparison.front])
    _scale_x(axes, places, numeric)
    better = "higher" if higher_is_better(metric) else "lower"
    axes.set_xlabel(across if across not in SYMBOLS else f"{SYMBOLS[across]}  ({across})")
    axes.set_ylabel(f"{axis_label(metric)} ({better} is better)")
    axes.set_title(f"{metric} by {SYMBOLS.get(across, across)}")
    _legend(axes)


def _series(
    runs: list[SweepRun], key: str | None
) -> list[tuple[str, str, str | None, list[SweepRun]]]:
    """Return marker, colour, label and runs per value of a key; one series for too many values."""
    values = sorted({run.value(key) for run in runs}, key=sort_key) if key else []
    if key is None or not 1 < len(values) <= len(MARKERS):
        return [("o", "C0", None, runs)]
    return [
        (marker, f"C{i}", f"{SYMBOLS.get(key, key)} {format_value(value)}", members)
        for i, (marker, value) in enumerate(zip(MARKERS, values, strict=False))
        if (members := [run for run in runs if run.value(key) == value])
    ]


def _ring(axes: Axes, points: Sequence[tuple[float, float]], label: str | None = None) -> None:
    """Ring the best points."""
    if points:
        xs, ys = zip(*points, strict=True)
        axes.scatter(xs, ys, label=label, **RING)


def _legend(axes: Axes) -> None:
    """Place the legend below the axes, where it hides no run."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles, labels, ncols=4 if max(map(len, labels)) < 24 else 3, **LEGEND)


def _scale_x(axes: Axes, places: dict[Any, float], numeric: bool) -> None:
    """Set the x scale: logarithmic for numbers far apart, values as ticks if few."""
    positive = [x for x in places.values() if x > 0]
    if numeric and positive and is_log_scale(positive):
        if len(positive) == len(places):
            axes.set_xscale("log")
        else:
            axes.set_xscale("symlog", linthresh=min(positive))  # a beta of 0 among them
    if not numeric:
        axes.set_xlim(-0.5, len(places) - 0.5)
    if len(places) <= len(MARKERS) or not numeric:
        labels = [format_value(value) for value in places]
        crowded = sum(map(len, labels)) > 60
        axes.set_xticks(list(places.values()), labels, rotation=30 if crowded else 0)
        axes.set_xticks([], minor=True)


def _is_numeric(runs: list[SweepRun], key: str) -> bool:
    return key != "seed" and all(parse_number(run.value(key)) is not None for run in runs)


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
            labels.append(key if len(shares) == 1 else f"{key} for {metric}")
            axes.barh(len(labels), value, color=f"C{list(shares).index(metric)}", height=0.5)
            axes.text(value + 0.005, len(labels), f"{value:.0%}", va="center", fontsize=9)
    axes.set_yticks(range(1, len(labels) + 1), labels)
    axes.set_ylim(max(len(labels), MIN_BARS) + 0.6, 0.4)  # downwards
    axes.set_xlim(0, 1.06)
    axes.set_xticks([])
    axes.set_title(f"What mattered for being good (PED-ANOVA, {runs} runs)")
    axes.spines[["top", "right", "bottom"]].set_visible(False)
