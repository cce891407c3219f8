"""Choices of settings, and differences between settings, over the seeds of an experiment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

import numpy as np

from vae.sweeps.pages.tables import (
    Row,
    by_settings,
    cell,
    format_figure,
    format_setting,
    means_table,
)
from vae.sweeps.points import CONFIDENCE
from vae.utils.errors import UserError
from vae.utils.registry import find_metric
from vae.utils.tables import markdown_table
from vae.utils.text import Markdown, markdown_code


def chosen_rows(found: Sequence[Row], keys: Sequence[str], metric: str) -> list[Row]:
    """Return the runs of the best settings: for each value of `keys`, all seeds of the best.

    Args:
        found: one row a run.
        keys: settings; the others are chosen. None: one choice of all.
        metric: the best mean over the seeds is chosen by it.

    Raises:
        UserError: the rows lack one of these.
    """
    by_settings: dict[str, list[Row]] = {}
    for row in found:
        settings = [part for part in cell(row, "run").split(",") if not part.startswith("seed=")]
        by_settings.setdefault(",".join(settings), []).append(row)

    def cost(rows: list[Row]) -> float:
        return find_metric(metric).cost(fmean(float(cell(row, metric)) for row in rows))

    best: dict[tuple[str, ...], list[Row]] = {}
    for rows in by_settings.values():
        values = tuple(cell(rows[0], key) for key in keys)
        if values not in best or cost(rows) < cost(best[values]):
            best[values] = rows
    return [row for rows in best.values() for row in rows]


def choice(words: Sequence[str]) -> tuple[list[str], str]:
    """Split the words `KEY KEY by METRIC` of a block into keys and metric.

    Raises:
        ValueError: they have another form.
    """
    *keys, by, metric = words
    if by != "by":
        raise ValueError("it takes KEYS by METRIC")
    return keys, metric


def chosen_table(found: Sequence[Row], words: Sequence[str], columns: Sequence[str]) -> str:
    """Return a Markdown table of the best setting for each value of keys: means over its seeds."""
    keys, metric = choice(words)
    return means_table(chosen_rows(found, keys, metric), keys, columns)


def pairs_of(found: Sequence[Row], words: Sequence[str]) -> list[tuple[str, list[Row], list[Row]]]:
    """Return each pair of settings of a block, with the runs of both in the order of the seeds.

    Args:
        found: one row a run.
        words: `A:B ...`, or `A:B ... by METRIC`, where A and B are KEY=VALUE,KEY=VALUE. By a
            metric, each side is its best setting.

    Raises:
        UserError: a side has no runs, several per seed, or other seeds than the other side.
    """
    by = choice(words)[1] if "by" in words else None
    pairs = []
    for word in choice(words)[0] if by else words:
        first, second = (_runs_of(found, side, by) for side in word.split(":"))
        seeds = [[cell(row, "seed") for row in rows] for rows in (first, second)]
        if seeds[0] != seeds[1] or len(set(seeds[0])) != len(seeds[0]) or len(first) < 2:
            raise UserError(f"{word}: needs the same seeds on both sides, each once, two or more.")
        pairs.append((word, first, second))
    return pairs


def _runs_of(found: Sequence[Row], side: str, by: str | None) -> list[Row]:
    wanted = dict(part.split("=", 1) for part in side.split(","))
    rows = [row for row in found if all(cell(row, key) == wanted[key] for key in wanted)]
    rows = chosen_rows(rows, [], by) if by else rows
    return sorted(rows, key=lambda row: int(cell(row, "seed")))


def paired_table(found: Sequence[Row], words: Sequence[str], columns: Sequence[str]) -> str:
    """Return a Markdown table of mean differences, first minus second, with their intervals.

    Runs of the same seed are paired: the weights' start, the order of images and the noise are
    equal in both. The interval is Student's, of the differences.

    Args:
        found: one row a run.
        words: as `pairs_of`.
        columns: metrics.
    """
    lines = []
    for word, first, second in pairs_of(found, words):
        one, other = map(markdown_code, word.split(":"))
        cells = [
            _difference(
                key,
                [
                    float(cell(a, key)) - float(cell(b, key))
                    for a, b in zip(first, second, strict=True)
                ],
            )
            for key in columns
        ]
        lines.append([Markdown(f"{one} − {other}"), str(len(first)), *cells])
    return markdown_table(["difference", "seeds", *map(markdown_code, columns)], lines)


def within_table(found: Sequence[Row], keys: Sequence[str], columns: Sequence[str]) -> str:
    """Return a Markdown table of mean differences between two metrics of the same runs.

    Args:
        found: one row per run.
        keys: settings; each combination of their values has a line, with Student's intervals
            over its runs.
        columns: `A:B`, metrics; A minus B.

    Raises:
        UserError: the rows lack a key or metric, or a combination has only one run.
        ValueError: a column has another form.
    """
    pairs = [tuple(column.split(":")) for column in columns]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("it takes KEYS | A:B ...")
    lines = []
    for values, rows in by_settings(found, keys):
        if len(rows) < 2:
            line = ", ".join(f"{key}={value}" for key, value in zip(keys, values, strict=True))
            raise UserError(f"{line}: needs two runs or more.")
        gaps = [
            _difference(a, [float(cell(row, a)) - float(cell(row, b)) for row in rows])
            for a, b in pairs
        ]
        lines.append([*map(format_setting, values), str(len(rows)), *gaps])
    heads = [Markdown(f"{markdown_code(a)} − {markdown_code(b)}") for a, b in pairs]
    return markdown_table([*map(markdown_code, keys), "runs", *heads], lines)


def _difference(key: str, values: Sequence[float]) -> str:
    """Format a mean with its interval."""
    mean, half = interval(values)
    low, high = (format_figure(key, bound) for bound in (mean - half, mean + half))
    return f"{format_figure(key, mean)} ({low} to {high})"


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half the width of Student's interval of it; needs two values."""
    from scipy.stats import t

    quantile = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return fmean(values), quantile * stdev(values) / math.sqrt(len(values))


def fits_table(found: Sequence[Row], figures: Sequence[str], keys: Sequence[str]) -> str:
    """Return a Markdown table of least-squares fits of figures, and of their logarithms.

    The regressors are the logarithms of settings, which are > 0: all of them, and each alone.

    Returns:
        A line for each figure > 0 and one for its logarithm: R² of all settings and of each alone,
        and the exponents of the power law, which are the slopes of the fit of the logarithm.

    Raises:
        UserError: the rows lack a figure or setting.
        ValueError: a value is no number > 0.
    """
    settings = np.log([[float(cell(row, key)) for key in keys] for row in found])
    lines = []
    for figure in figures:
        values = np.array([float(cell(row, figure)) for row in found])
        if not (values > 0).all() or not np.isfinite(settings).all():
            raise ValueError("it takes figures and settings > 0")
        for label, y in (("", values), ("log ", np.log(values))):
            slopes, fit = _least_squares(settings, y)
            alone = [_least_squares(column[:, None], y)[1] for column in settings.T]
            exponents = [f"{slope:.2f}" if label else "" for slope in slopes]
            name = Markdown(label + markdown_code(figure))
            lines.append([name, *(f"{value:.2f}" for value in (fit, *alone)), *exponents])
    names = [markdown_code(key) for key in keys]
    heads = ["figure", "R²", *(f"R², {name} alone" for name in names)]
    heads = [*heads, *(f"exponent of {name}" for name in names)]
    return markdown_table([*map(Markdown, heads)], lines)


def _least_squares(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the slopes and R² of y (n,) on x (n, k) and a constant."""
    centred, target = x - x.mean(axis=0), y - y.mean()
    slopes, *_ = np.linalg.lstsq(centred, target, rcond=None)
    residual = target - centred @ slopes
    return slopes, 1 - float(residual @ residual) / float(target @ target)
