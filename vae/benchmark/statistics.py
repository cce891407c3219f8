"""Samples from repeated rounds: what is typical, how it scatters, what to compare."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

QUIET = 0.25  # cores that other processes may take in a round that counts
ENOUGH = 3  # quiet rounds without which all rounds count


class Sample(NamedTuple):
    """What one round measured."""

    value: float
    others: float  # cores that other processes took meanwhile; 0 where it is not known


Series = Sequence[Sample]  # by round


def kept(*series: Series) -> list[int]:
    """The rounds that count: those in which no series was disturbed by other processes.

    All rounds where fewer than `ENOUGH` were quiet: a median of one or two says less than
    one of a busy machine does.
    """
    rounds = range(len(series[0]))
    quiet = [i for i in rounds if all(samples[i].others <= QUIET for samples in series)]
    return quiet if len(quiet) >= ENOUGH else list(rounds)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile, interpolated linearly between samples."""
    if len(values) == 1:
        return (values[0],) * 3
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def figure(samples: Series) -> dict[str, Any]:
    """The median, the quartiles, how many rounds were dropped, and every round."""
    rounds = kept(samples)
    low, median, high = quartiles([samples[i].value for i in rounds])
    return {
        "median": median,
        "low": low,
        "high": high,
        "dropped": len(samples) - len(rounds),
        "values": [sample.value for sample in samples],
        "others": [sample.others for sample in samples],
    }


def ratio(ours: Series, theirs: Series) -> float:
    """The median over the rounds of ours / theirs.

    Round by round, as what slows a machine down for seconds slows both.
    """
    return statistics.median(ours[i].value / theirs[i].value for i in kept(ours, theirs))
