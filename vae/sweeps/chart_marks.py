"""Marks of a sweep's charts: the colour, size, marker, error bars and legend of each point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from vae.sweeps.chart_scales import Scale, literal_lines
from vae.sweeps.comparison import (
    LEADING_KEYS,
    SYMBOLS,
    Comparison,
    format_value,
    is_numeric,
    sort_key,
)
from vae.sweeps.points import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_AXES = 4  # swept keys with panels of their own
MAX_GRID = 12  # values of a key; with more it is a search, whose points are not joined
MARKERS = "osD^vPX*"  # more values of one key cannot be told apart
COLOURS = "viridis"
QUIET = "#999999"
BARS = "#555555"
DOT: dict[str, Any] = {"edgecolors": "white", "linewidths": 0.6, "zorder": 3}
HOLLOW: dict[str, Any] = {"c": "none", "edgecolors": QUIET, "linewidths": 1.1, "zorder": 2.5}
RING: dict[str, Any] = {"c": "none", "edgecolors": "#d62728", "linewidths": 1.4, "zorder": 4}
AREAS = (16.0, 52.0, 110.0)  # of the smallest, an ordinary and the largest dot, in points²
MANY = 30  # points; the dots of more are smaller


class Marks:
    """The marks of a sweep's points: the same in all panels of a figure.

    Attributes:
        points: the finished runs, those of several seeds as one point.
        across: swept keys with an x axis. The first is beta, else the latent size, else the
            number with most values. Seeds are repetitions, and have an axis only where nothing
            else was swept.
        between: the key whose few values have a marker each, and a line each in a grid. In a
            search, only the categories of a key have markers.
        colour: the key that colours show, the first of `across`.
        size: the key that areas show, the next number.
        is_grid: the points fill at least half of a grid of few values, so lines have a meaning.
    """

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.points = comparison.points
        found = {
            key: sorted({point.value(key) for point in self.points}, key=sort_key)
            for key in [key for key in comparison.swept if key != "seed"] or comparison.swept
        }
        self.values = {key: values for key, values in found.items() if len(values) > 1}
        self.scales = {
            key: Scale([float(value) for value in values])
            for key, values in self.values.items()
            if is_numeric(comparison.ranked, key)
        }
        counts = {key: len(values) for key, values in self.values.items()}
        filled = {tuple(point.value(key) for key in counts) for point in self.points}
        few = max(counts.values(), default=0) <= MAX_GRID
        self.is_grid = few and 2 * len(filled) >= prod(counts.values())

        def worth(key: str) -> tuple[bool, bool, int]:
            return key == LEADING_KEYS[0], key == LEADING_KEYS[1], counts[key]

        self.colour = max(self.scales or counts, key=worth, default=None)
        others = [key for key in counts if key != self.colour]
        series = [key for key in others if counts[key] <= len(MARKERS)]
        self.between = next((k for k in series if self.is_grid or k not in self.scales), None)
        rest = [key for key in others if key != self.between]
        rest.sort(key=lambda key: key not in self.scales)  # numbers first
        self.across = [key for key in (self.colour, *rest) if key][:MAX_AXES]
        self.size = next((key for key in rest if key in self.scales), None)

    def has_lines(self, across: str) -> bool:
        """Return whether the means are joined along a swept key."""
        return self.is_grid and across in self.scales

    def sizes(self, points: Sequence[Point]) -> np.ndarray:
        """Return the area of each point's dot."""
        if not self.size:
            return np.full(len(points), self._area(None))
        shares = self.scales[self.size].shares([float(p.value(self.size)) for p in points])
        return np.asarray(self._area(shares))

    def colours(self, points: Sequence[Point], across: str | None) -> np.ndarray:
        """Return the colour of each point as RGBA, (points, 4), in the panel of a swept key."""
        from matplotlib import colormaps
        from matplotlib.colors import to_rgba_array

        key = self._coloured_by(across)
        if key == self.colour and key in self.scales:
            shares = self.scales[key].shares([float(point.value(key)) for point in points])
            return np.asarray(colormaps[COLOURS](shares))
        return to_rgba_array([f"C{self._place(point, key)}" for point in points])

    def series(self, points: Sequence[Point]) -> dict[str, list[int]]:
        """Return the points of each marker, by their index; the small ones last, thus on top."""
        found: dict[str, list[int]] = {}
        for i in np.argsort(-self.sizes(points), kind="stable"):
            found.setdefault(MARKERS[self._place(points[i], self.between)], []).append(int(i))
        return dict(sorted(found.items(), key=lambda pair: MARKERS.index(pair[0])))

    def dodge(self, points: Sequence[Point]) -> np.ndarray:
        """Return offsets that keep the series apart, where the x axis has categories."""
        count = len(self.values[self.between]) if self.between else 1
        places = np.array([self._place(point, self.between) for point in points])
        return (places - (count - 1) / 2) * min(0.15, 0.6 / count)

    def draw(
        self,
        axes: Axes,
        points: Sequence[Point],
        places: np.ndarray,
        spread: Sequence[str | None],
        across: str | None = None,
    ) -> None:
        """Draw points at `places`, (points, 2), the infeasible ones hollow, and a legend's entries.

        Args:
            axes: the panel.
            points: in any order.
            places: where they are.
            spread: the metrics of the x and the y axis, whose standard deviations over the seeds
                are drawn; None for an axis of no metric.
            across: the swept key of the x axis, if it has one.
        """
        (x, y), sizes, colours = places.T, self.sizes(points), self.colours(points, across)
        feasible = [self.comparison.is_feasible(point) for point in points]
        for marker, members in self.series(points).items():
            kept = [i for i in members if feasible[i]]
            broken = [i for i in members if not feasible[i]]
            if kept:
                dots = {"c": colours[kept], "marker": marker, **DOT}
                axes.scatter(x[kept], y[kept], sizes[kept], **dots)
            if broken:
                axes.scatter(x[broken], y[broken], sizes[broken], marker=marker, **HOLLOW)
        several = [i for i, point in enumerate(points) if point.n > 1]
        if several:
            counts = [points[i].n for i in several]
            n = " to ".join(map(str, sorted({min(counts), max(counts)})))
            style: dict[str, Any] = {"fmt": "none", "elinewidth": 1.1, "zorder": 2}
            for error, metric in zip(("xerr", "yerr"), spread, strict=True):
                if metric:
                    style[error] = [points[i].sd(metric) for i in several]
            in_series = self.between and self._coloured_by(across) == self.between
            style["ecolor"] = colours[several] if in_series else BARS
            axes.errorbar(x[several], y[several], label=f"mean ± sd, n = {n} seeds", **style)
        self._add_entries(axes, across)
        if not all(feasible):
            text = "breaks " + " or ".join(map(str, self.comparison.constraints))
            axes.scatter([], [], AREAS[1], label=literal_lines(text), **HOLLOW)

    def ring(self, axes: Axes, points: Sequence[Point], places: np.ndarray) -> None:
        """Ring the best point, or with several objectives those of the Pareto front."""
        best = self.comparison.best_point
        front = [best] if best else self.comparison.front_points
        ringed = [i for i, point in enumerate(points) if any(point is one for one in front)]
        if ringed:
            label = "best trade-offs"
            if best:
                label = f"best {self.comparison.objectives[0]}: {self.comparison.label(best)}"
            areas = (self.sizes(points)[ringed] ** 0.5 + 5) ** 2  # 2.5 points around the dot
            axes.scatter(places[ringed, 0], places[ringed, 1], areas, **RING)
            axes.scatter([], [], AREAS[2], label=literal_lines(label), **RING)

    def shows_colour_bar(self, across: str | None) -> bool:
        """Return whether the colours of a panel are those of numbers that no axis has."""
        key = self._coloured_by(across)
        return key in self.scales and key == self.colour != across

    def _add_entries(self, axes: Axes, across: str | None) -> None:
        """Add what markers, categories' colours and sizes mean to the legend."""
        key = self._coloured_by(across)

        def add(of: str, values: Sequence[Any], style: Callable[[int], dict[str, Any]]) -> None:
            for i, value in enumerate(values):
                label = literal_lines(f"{SYMBOLS.get(of, of)} = {format_value(value)}")
                marks: dict[str, Any] = {"s": AREAS[1], "c": QUIET, **style(i)}
                axes.scatter([], [], label=label, **marks)

        has_colours = key and key not in self.scales and len(self.values[key]) <= len(MARKERS)
        if key and has_colours and key not in (self.between, across):
            add(key, self.values[key], lambda i: {"c": f"C{i}"})
        if self.between:
            coloured = key == self.between
            add(
                self.between,
                self.values[self.between],
                lambda i: {"marker": MARKERS[i], **({"c": f"C{i}"} if coloured else {})},
            )
        if self.size and self.size != across:
            scale = self.scales[self.size]
            areas = self._area(scale.shares(scale.round_values()))
            add(self.size, scale.round_values(), lambda i: {"s": areas[i]})

    def _coloured_by(self, across: str | None) -> str | None:
        """Return the key that colours show: in a panel with lines, that of the lines."""
        has_series = self.is_grid or self.colour not in self.scales
        return self.between if across and self.between and has_series else self.colour

    def _place(self, point: Point, key: str | None) -> int:
        """Return the index of a point's value of a key; 0 if the key has too many values."""
        values = self.values[key] if key else []
        return values.index(point.value(key)) if key and len(values) <= len(MARKERS) else 0

    def _area(self, shares: Any) -> Any:
        smallest, ordinary, largest = AREAS
        shrink = min(1.0, (MANY / max(len(self.points), 1)) ** 0.5)
        return shrink * (ordinary if shares is None else smallest + (largest - smallest) * shares)
