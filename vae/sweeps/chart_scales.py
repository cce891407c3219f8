"""Scales of a sweep's charts: positions of numbers, ticks and round values."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from vae.sweeps.comparison import format_value, is_log_scale
from vae.utils.text import printable, truncate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.colors import Normalize

MAX_LABEL = 80  # characters of a label
LEGEND_WIDTH = 34  # characters of a line in a legend
GLUE = "\u00a0"  # textwrap does not break a line at a no-break space
MAX_CATEGORIES = 20  # with labels
MAX_TICKS = 8  # distinct values with ticks of their own
CHARACTERS = 46  # that fit below a panel
LINES = 16  # that fit beside a colour bar
DECADES = 100  # at a ratio of largest to smallest below this, powers of ten are too few ticks


def literal(text: str, limit: int = MAX_LABEL) -> str:
    """Return text as matplotlib shows it literally, on one line: `$` begins a formula there."""
    return truncate(printable(text), limit).replace("$", r"\$")


def literal_lines(text: str) -> str:
    """Return text for a legend: literal, on at most three short lines.

    A line ends after a comma or a colon, or before an "or".
    """
    glued = re.sub("(?<![,:]) (?!or )", GLUE, text)
    lines = wrap(glued, LEGEND_WIDTH, max_lines=3, placeholder=" ...")
    return "\n".join(literal(line.replace(GLUE, " ")) for line in lines)


class Scale:
    """The scale for the values of a swept key: logarithmic if they are far apart.

    Attributes:
        name: linear, log or symlog: values far apart with a zero or negative ones among them.
        options: of matplotlib's scale.
    """

    def __init__(self, values: Sequence[float]) -> None:
        self.values = sorted(set(values))
        self.name, self.options = "linear", dict[str, Any]()
        positive = [value for value in self.values if value > 0]
        if positive and is_log_scale(positive):
            self.name = "log"
            if len(positive) < len(self.values):
                self.name, self.options = "symlog", {"linthresh": positive[0]}

    def norm(self) -> Normalize:
        """Return the norm of matplotlib from the values to [0, 1]."""
        from matplotlib import colors

        kinds = {"linear": colors.Normalize, "log": colors.LogNorm, "symlog": colors.SymLogNorm}
        kind: Callable[..., Normalize] = kinds[self.name]
        return kind(vmin=self.values[0], vmax=self.values[-1], **self.options)

    def shares(self, values: Sequence[float]) -> np.ndarray:
        """Return the place of each value between the least (0) and the greatest (1)."""
        return np.asarray(self.norm()(np.array(values, dtype=float)))

    def round_values(self) -> list[float]:
        """Return about three values for a legend: all if they are few, else round ones."""
        from matplotlib.ticker import MaxNLocator

        if len(self.values) <= 4:
            return self.values
        low, high = self.values[0], self.values[-1]
        locators = [MaxNLocator(6)]
        if self.name == "log":
            locators = [_log_locator(1, 2, 5), _log_locator(1, 1.5, 2, 3, 5, 7)]
        ticks = self.values
        for locator in locators if self.name != "symlog" else ():
            ticks = [float(t) for t in locator.tick_values(low, high) if low <= t <= high]
            if len(ticks) > 2:
                break
        return list(dict.fromkeys((ticks[0], ticks[len(ticks) // 2], ticks[-1])))

    def set_ticks(self, axis: Axis, is_grid: bool, *, upright: bool = False) -> None:
        """Set the ticks of an axis: round values; of a grid each value, if there is room.

        Args:
            axis: of a panel or of a colour bar.
            is_grid: the values are those of a grid.
            upright: the axis is a colour bar's.
        """
        from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

        labels = [literal(format_value(value)) for value in self.values]
        room = 1 / LINES if upright else (max(map(len, labels)) + 1) / CHARACTERS
        few = is_grid and len(labels) <= MAX_TICKS
        if few and (np.diff(self.shares(self.values)) > room).all():
            axis.set_ticks(self.values, labels)
            axis.set_minor_locator(NullLocator())
        elif self.name == "log":
            ratio = self.values[-1] / self.values[0]
            whole = self.values[0] >= 1 and ratio < 10 * DECADES  # sizes: 10, 20, 50
            if whole or ratio < DECADES:
                axis.set_major_locator(_log_locator(1, 2, 5))
                axis.set_major_formatter(FuncFormatter(lambda value, _: format_value(float(value))))
            axis.set_minor_formatter(NullFormatter())


def set_categories(axes: Axes, labels: Sequence[str]) -> None:
    """Label categories at 0, 1, 2 ... of the x axis; of many, as many as have room."""
    every = -(-len(labels) // MAX_CATEGORIES)
    shown = [literal(label, 32) for label in labels][::every]
    places = range(0, len(labels), every)
    slots = (max(map(len, shown)) + 1) * len(labels) / every
    turned: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(places, shown, **(turned if slots > CHARACTERS else {}))
    axes.set_xlim(-0.5, len(labels) - 0.5)


def _log_locator(*digits: float) -> Any:
    from matplotlib.ticker import LogLocator

    return LogLocator(subs=digits, numticks=99)
