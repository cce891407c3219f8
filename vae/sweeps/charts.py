"""Charts of a sweep: rate against distortion, effect of each key, importances."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np

from vae.sweeps.chart_marks import COLOURS, QUIET, Marks
from vae.sweeps.chart_scales import literal, set_categories
from vae.sweeps.comparison import (
    EVALUATORS,
    SYMBOLS,
    Comparison,
    format_value,
    importances,
    pareto_front,
)
from vae.training.metrics import bits_per_dim
from vae.utils.errors import UserError
from vae.utils.files import write_atomically
from vae.utils.registry import find_metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    Panel = Callable[[Figure | SubFigure], None]

DOTS_PER_INCH = 110
MAX_PANELS = 12
PANEL = (6.8, 5.2)  # inches
CHARACTER = 0.068  # inches, in a legend
HANDLE = 0.7  # inches beside an entry's text
LABEL = (0.09, 0.045)  # half the size of a label within a panel, of the panel's
BOUND: dict[str, Any] = {"color": "#444444", "linestyle": "--", "linewidth": 1.1, "zorder": 1}
LEGEND: dict[str, Any] = {
    "loc": "outside lower center",
    "frameon": False,
    "fontsize": 9,
    "labelspacing": 0.7,
}
RATE_DISTORTION = ("val/rate", "val/distortion")


def draw_charts(comparison: Comparison, path: Path) -> None:
    """Write the figure of `draw_comparison` as a PNG."""
    figure = draw_comparison(comparison)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=DOTS_PER_INCH))


def draw_comparison(comparison: Comparison) -> Figure:
    """Draw the charts of a sweep's finished runs as a matplotlib figure.

    Rate against distortion, each objective against the swept keys, and the importance of the
    keys if there are enough runs. Runs that differ in the seed alone are one point: their mean,
    with the standard deviation as error bars.

    Raises:
        UserError: no run has finished yet.
    """
    from matplotlib.figure import Figure

    marks = Marks(comparison)
    if not marks.points:
        measured = " and ".join(comparison.objectives)
        raise UserError(f"no run has finished with {measured}, so there is nothing to draw yet.")
    pairs = [RATE_DISTORTION]
    if len(comparison.objectives) == 2 and set(comparison.objectives) != set(RATE_DISTORTION):
        pairs.append((comparison.objectives[0], comparison.objectives[1]))
    panels: list[Panel] = [
        partial(_draw_trade, marks=marks, pair=pair)
        for pair in pairs
        if any(point.metrics.keys() >= set(pair) for point in marks.points)
    ]
    panels += [
        partial(_draw_effect, marks=marks, metric=metric, across=across)
        for metric, across in product(comparison.objectives, marks.across)
    ]
    if not panels:
        raise UserError(
            f"the finished runs have no {' and no '.join(RATE_DISTORTION)}: nothing to draw."
        )
    shares = {
        (evaluator, metric): found
        for evaluator, metric in product(EVALUATORS, comparison.objectives)
        if (found := importances(comparison, metric, evaluator))
    }
    panels = panels[:MAX_PANELS]
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    bars = 1.1 + 0.24 * sum(map(len, shares.values()))  # inches
    in_corner = bool(shares) and len(panels) < lines * columns and bars < PANEL[1]
    heights = [PANEL[1]] * lines + [bars] * (bool(shares) and not in_corner)
    figure = Figure(figsize=(PANEL[0] * columns, sum(heights)), layout="constrained")
    cells = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    for place, draw in enumerate(panels):
        draw(figure.add_subfigure(cells[divmod(place, columns)]))
    if in_corner:
        free = cells[lines - 1, -1].subgridspec(2, 1, height_ratios=(bars, PANEL[1] - bars))
        _draw_importances(figure.add_subfigure(free[0]), shares, marks)
    elif shares:
        _draw_importances(figure.add_subfigure(cells[lines, :]), shares, marks)
    return figure


def draw_rate_distortion(comparison: Comparison) -> Figure:
    """Draw the panel of rate and distortion alone: of a sweep with a run that measured both."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 4.6), layout="constrained")
    _draw_trade(figure, Marks(comparison), RATE_DISTORTION)
    return figure


def _draw_trade(figure: Figure | SubFigure, marks: Marks, pair: tuple[str, str]) -> None:
    """Draw two metrics, rate and distortion, against each other, with the Pareto front.

    With lines of equal bits per dimension, which are those two's sum.
    """
    axes = figure.add_subplot()
    comparison = marks.comparison
    points = [point for point in marks.points if point.metrics.keys() >= set(pair)]
    places = np.array([[point.metrics[key] for key in pair] for point in points])
    feasible = [i for i, point in enumerate(points) if comparison.is_feasible(point)]
    costs = [[find_metric(k).cost(points[i].metrics[k]) for k in pair] for i in feasible]
    front = [feasible[i] for i in pareto_front(costs)]
    if len(front) > 1:
        on_front = sorted(map(tuple, places[front]))
        axes.plot(*zip(*on_front, strict=True), color=QUIET, linewidth=1.2, label="Pareto front")
    marks.draw(axes, points, places, pair)
    if comparison.best_point or set(pair) == set(comparison.objectives):  # else others' front
        marks.ring(axes, points, places)
    for of, key in zip("xy", pair, strict=True):
        _draw_bounds(axes, comparison, of, key)
    if pair == RATE_DISTORTION:
        _draw_equal_bpd(axes, {point.value("data.image_size") for point in points}, places)
    title = "Rate and distortion" if pair == RATE_DISTORTION else f"{pair[0]} and {pair[1]}"
    xlabel, ylabel = (literal(find_metric(key).label) for key in pair)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=literal(title))
    _finish(figure, axes, marks)


def _draw_equal_bpd(axes: Axes, image_sizes: set[Any], places: np.ndarray) -> None:
    """Draw lines of equal bits per dimension; none if image sizes differ."""
    sizes = [size for size in image_sizes if isinstance(size, int)]
    if len(sizes) != 1:
        return
    # linear in both, so that corners would do, but a label goes to a point of its line
    rates, distortions = (np.linspace(*ends, 33) for ends in (axes.get_xlim(), axes.get_ylim()))
    bits = np.vectorize(bits_per_dim)(distortions[:, None], rates, 3 * sizes[0] ** 2)
    style: dict[str, Any] = {"colors": QUIET, "linewidths": 0.7, "linestyles": ":", "zorder": 0}
    lines = axes.contour(rates, distortions, bits, 7, **style)
    to_panel = axes.transAxes.inverted().transform  # 0 to 1
    drawn = [axes.transData.transform(places)]
    for line in axes.lines:
        path = line.get_transform().transform_path(line.get_path()).interpolated(24)
        drawn.append(np.asarray(path.vertices))
    taken = to_panel(np.concatenate(drawn))
    free = []  # the place on each line that is farthest from all that is drawn
    for path in lines.get_paths():
        at = to_panel(axes.transData.transform(path.vertices))
        if len(at):
            distance = np.abs((at[:, None] - taken) / LABEL).max(axis=-1).min(axis=1)
            room = np.minimum(distance, (np.minimum(at, 1 - at) / LABEL).min(axis=1))
            if room.max() > 1:
                free.append(np.asarray(path.vertices)[room.argmax()])
    axes.clabel(lines, fmt="%g bpd", fontsize=8, manual=free)


def _draw_bounds(axes: Axes, comparison: Comparison, of: str, metric: str) -> None:
    """Draw the bounds on the metric of an axis, `of` x or y, if they are near to its points."""
    limits = axes.get_xlim() if of == "x" else axes.get_ylim()
    span = limits[1] - limits[0]
    for constraint in comparison.constraints:
        if constraint.metric == metric and abs(constraint.bound - fmean(limits)) < span:
            draw = axes.axvline if of == "x" else axes.axhline
            draw(constraint.bound, label=literal(str(constraint)), **BOUND)


def _draw_effect(figure: Figure | SubFigure, marks: Marks, metric: str, across: str) -> None:
    """Draw a metric against a swept key: points, and in a grid lines through their means."""
    axes = figure.add_subplot()
    points, values = marks.points, marks.values[across]
    if scale := marks.scales.get(across):
        xs = np.array([float(point.value(across)) for point in points])
        axes.set_xscale(scale.name, **scale.options)
        scale.set_ticks(axes.xaxis, marks.is_grid)
    else:
        xs = np.array([values.index(point.value(across)) for point in points])
        xs = xs + marks.dodge(points)
        set_categories(axes, [format_value(value) for value in values])
    places = np.column_stack([xs, [point.metrics[metric] for point in points]])
    if marks.has_lines(across):
        colours = marks.colours(points, across)
        for members in marks.series(points).values():
            at = places[members]
            means = [(x, fmean(at[at[:, 0] == x, 1])) for x in sorted(set(at[:, 0]))]
            colour = colours[members[0]] if marks.between else QUIET
            axes.plot(*zip(*means, strict=True), color=colour, linewidth=1.2, zorder=1)
    marks.draw(axes, points, places, (None, metric), across)
    marks.ring(axes, points, places)
    _draw_bounds(axes, marks.comparison, "y", metric)
    if across == "seed":
        mean, sd = fmean(places[:, 1]), stdev(places[:, 1])
        label = f"mean {mean:.4g} (sd {sd:.2g}, n = {len(points)})"
        axes.axhline(mean, color=QUIET, linestyle="--", label=label)
    better = "higher" if find_metric(metric).higher_is_better else "lower"
    axes.set_xlabel(_name(across))
    axes.set_ylabel(literal(f"{find_metric(metric).label} ({better} is better)"))
    axes.set_title(literal(f"{metric} by {SYMBOLS.get(across, across)}"))
    _finish(figure, axes, marks, across)


def _finish(
    figure: Figure | SubFigure, axes: Axes, marks: Marks, across: str | None = None
) -> None:
    """Add the colour bar, and below the axes, where it hides no point, the legend."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import PathCollection

    if marks.colour and marks.shows_colour_bar(across):
        scale = marks.scales[marks.colour]
        label = _name(marks.colour)
        mappable = ScalarMappable(scale.norm(), COLOURS)
        bar = figure.colorbar(mappable, ax=axes, label=label, pad=0.02)
        scale.set_ticks(bar.ax.yaxis, marks.is_grid, upright=True)
    entries = list(zip(*axes.get_legend_handles_labels(), strict=True))
    if entries:
        entries.sort(key=lambda entry: not isinstance(entry[0], PathCollection))  # dots first
        handles, labels = zip(*entries, strict=True)
        lengths = [max(map(len, label.splitlines()), default=0) for label in labels]
        fitting = (
            count
            for count in (4, 3, 2)
            if count <= len(labels)
            and sum(HANDLE + CHARACTER * max(part) for part in np.array_split(lengths, count))
            < figure.bbox.width / figure.dpi
        )
        columns = next(fitting, 1)
        columns = -(-len(labels) // -(-len(labels) // columns))  # no fewer rows, but even ones
        symbols = [key for key in (marks.between, marks.size) if key in SYMBOLS and key != across]
        title = ", ".join(f"{SYMBOLS[key]}: {key}" for key in symbols)
        figure.legend(handles, labels, ncols=columns, title=title, title_fontsize=9, **LEGEND)


def _name(key: str) -> str:
    return literal(f"{SYMBOLS[key]}  ({key})" if key in SYMBOLS else key)


def _draw_importances(
    figure: Figure | SubFigure, shares: dict[tuple[str, str], dict[str, float]], marks: Marks
) -> None:
    """Draw bars: the importance of each swept key for each objective, by each evaluator."""
    axes = figure.add_subplot()
    metrics = list(dict.fromkeys(metric for _, metric in shares))
    rows = [(metric, key) for metric in metrics for key in shares[next(iter(EVALUATORS)), metric]]
    for i, (evaluator, meaning) in enumerate(EVALUATORS.items()):
        for row, (metric, key) in enumerate(rows):
            value = shares.get((evaluator, metric), {}).get(key)
            if value is not None:
                at = row + (i - 0.5) * 0.38
                label = f"{meaning} ({evaluator})" if row == 0 else None
                axes.barh(at, value, color=f"C{i}", height=0.36, label=label)
                axes.text(value + 0.005, at, f"{value:.0%}", va="center", fontsize=8)
    labels = [key if len(metrics) == 1 else f"{key} for {metric}" for metric, key in rows]
    axes.set_yticks(range(len(rows)), list(map(literal, labels)))
    axes.set_ylim(len(rows) - 0.5, -0.5)  # downwards
    axes.set_xlim(0, 1.08)
    axes.set_xticks([])
    what = "points" if any(point.n > 1 for point in marks.points) else "runs"
    of = f"for {metrics[0]} " if len(metrics) == 1 else ""
    some = ", feasible or not" if marks.comparison.constraints else ""
    axes.set_title(literal(f"What mattered {of}({len(marks.points)} {what}{some})"))
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    figure.legend(ncols=2, **LEGEND)
