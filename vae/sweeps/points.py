"""Points of a sweep: the runs that differ in the seed alone, their means, and the lead of one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from vae.sweeps.results import SweepRun

CONFIDENCE = 0.95  # of an interval


@dataclass(frozen=True)
class Point:
    """The finished runs of a sweep that differ in the seed alone, in the order of their seeds."""

    runs: list[SweepRun]

    @property
    def n(self) -> int:
        """The number of runs (seeds)."""
        return len(self.runs)

    @property
    def metrics(self) -> dict[str, float]:
        """The means of the metrics that all runs have, by key."""
        shared = set.intersection(*(set(run.metrics) for run in self.runs))
        return {key: fmean(self.values(key)) for key in self.runs[0].metrics if key in shared}

    def values(self, metric: str) -> list[float]:
        """Return a metric of each run."""
        return [run.metrics[metric] for run in self.runs]

    def sd(self, metric: str) -> float | None:
        """Return the standard deviation of a metric (of a sample, n - 1); None for one run."""
        return stdev(self.values(metric)) if self.n > 1 else None

    def value(self, key: str) -> Any:
        """Return a key's value in the runs, as `SweepRun.value`; of `seed`, the first run's."""
        return self.runs[0].value(key)


def group_by_seed(runs: Sequence[SweepRun], swept: Sequence[str]) -> list[Point]:
    """Group runs that differ in the seed alone, in the order of the first run of each.

    Of several runs with the same values and seed, which are equal, the first counts.

    Args:
        runs: in any order.
        swept: the keys that differ between runs. If the seed is the only one, the sweep compares
            seeds, and each run is a point of its own.
    """
    keys = [key for key in swept if key != "seed"] or list(swept)
    if not keys:  # runs of the same values
        return [Point([run]) for run in runs]
    groups: dict[tuple[str, ...], dict[str, SweepRun]] = {}
    for run in runs:
        group = groups.setdefault(tuple(str(run.value(key)) for key in keys), {})
        group.setdefault(str(run.value("seed")), run)
    return [Point(sorted(group.values(), key=_seed)) for group in groups.values()]


def _seed(run: SweepRun) -> int:
    seed = run.value("seed")
    return seed if isinstance(seed, int) else 0


def lead(best: Point, other: Point, metric: str) -> tuple[float, float, float] | None:
    """Return how far apart two points are, with Welch's interval.

    Welch (1947): the difference of two means whose variances may differ, with the number of
    degrees of freedom by Welch and Satterthwaite. For this pair alone: of many pairs, one in
    twenty lies outside its interval by chance.

    Returns:
        The difference of the means, best minus other, and the ends of its 95 % interval; None
        where a point has one run, or neither varies.
    """
    from scipy.stats import ttest_ind

    first, second = best.values(metric), other.values(metric)
    if min(best.n, other.n) < 2 or not (stdev(first) or stdev(second)):
        return None
    with warnings.catch_warnings():  # of equal values, as seeds may have
        warnings.simplefilter("ignore", RuntimeWarning)
        low, high = ttest_ind(first, second, equal_var=False).confidence_interval(CONFIDENCE)
    return fmean(first) - fmean(second), float(low), float(high)
