"""Sentences on the result of a sweep: the lead of the best point, and the constraints."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from statistics import fmean, stdev

from vae.runs.config import Constraint
from vae.sweeps.comparison import Comparison
from vae.sweeps.points import CONFIDENCE, Point, lead
from vae.utils.registry import find_metric
from vae.utils.text import plural

MAX_NAMED = 10  # points in a list


def lead_sentences(comparison: Comparison) -> list[str]:
    """Return sentences on the lead of the best point, as plain text.

    Returns:
        Whether its lead over the second is larger than the noise between seeds, and which
        points cannot be told apart from it. Of several objectives, and of seeds alone, what can
        be said instead; [] for fewer than two points that keep the constraints.
    """
    points = comparison.points
    if comparison.swept == ["seed"]:
        return _spread_over_seeds(comparison)
    if len(comparison.objectives) > 1:
        one_each = all(point.n == 1 for point in points)
        front = "The trade-offs are chosen by the means over seeds; no test says that one is real."
        return [] if one_each else [front]
    feasible = [point for point in points if comparison.is_feasible(point)]
    if len(feasible) < 2 or not comparison.swept:
        return []
    (metric,), (best, *others) = comparison.objectives, feasible
    names = f"{comparison.label(best)} over {comparison.label(others[0])}"
    gained = abs(best.metrics[metric] - others[0].metrics[metric])
    about = f"The lead of {names}, {gained:.3g} in {metric},"
    if all(point.n == 1 for point in points):
        return [
            f"{about} cannot be judged from one seed: with sweep.seeds=3 in the command, each "
            "point is trained with three."
        ]
    if best.n == 1 or others[0].n == 1:
        return [f"{about} cannot be judged: one of the two has a single run."]
    # the best has the best mean, so the upper end is never below 0
    intervals = [(point, _interval(best, point, metric)) for point in others]
    unclear = [point for point, found in intervals if found and found[0] <= 0]
    unknown = [point for point, found in intervals if not found]
    second = intervals[0][1]
    if second is None:
        said = [f"{about} has no interval: no seed changes {metric}."]
    else:
        within = "within" if second[0] <= 0 else "larger than"
        said = [
            f"{about} is {within} the noise between seeds: Welch's {CONFIDENCE:.0%} interval of "
            f"it is {second[0]:.3g} to {second[1]:.3g}."
        ]
    if unclear:
        named = _listed(comparison, unclear)
        said.append(f"Not to be told apart from {comparison.label(best)} by its interval: {named}.")
    if unknown and unknown != others:
        named = _listed(comparison, unknown)
        said.append(f"Without an interval (one run, or seeds that change nothing): {named}.")
    return said


def _interval(best: Point, other: Point, metric: str) -> tuple[float, float] | None:
    """Return the ends of the interval of a lead, positive where `best` is better."""
    found = lead(best, other, metric)
    if found is None:
        return None
    low, high = sorted(-find_metric(metric).cost(end) for end in found[1:])
    return low, high


def _listed(comparison: Comparison, points: Sequence[Point]) -> str:
    more = len(points) - MAX_NAMED
    named = "; ".join(map(comparison.label, points[:MAX_NAMED]))
    return f"{named}; and {more:,} more" if more > 0 else named


def _spread_over_seeds(comparison: Comparison) -> list[str]:
    """Return the mean and the standard deviation of the objectives, where seeds were compared."""
    if len(comparison.points) < 2:
        return []
    figures = []
    for key in comparison.objectives:
        values = [point.metrics[key] for point in comparison.points]
        mean, sd = map(find_metric(key).format, (fmean(values), stdev(values)))
        figures.append(f"{key} {mean} ± {sd}")
    seeds = plural(len(comparison.points), "seed")
    return [f"Over {seeds}: {', '.join(figures)} (mean ± standard deviation)."]


def constraint_sentence(comparison: Comparison) -> str | None:
    """Return the constraints and the number of points that keep them; None without any."""
    if not comparison.constraints:
        return None
    points = comparison.points
    kept = sum(map(comparison.is_feasible, points))
    said = [f"Constraint: {' and '.join(map(str, comparison.constraints))}."]
    if points:
        by = " by its mean over the seeds" if any(point.n > 1 for point in points) else ""
        keep = "keep" if kept > 1 else "keeps"
        text = f"{kept or 'None'} of {plural(len(points), 'point')} {keep} it{by}"
        if not kept:
            breaks = describe_violations(comparison.violations(points[0]))
            text += f"; {comparison.label(points[0])} is nearest ({breaks})"
        said.append(f"{text}.")
    return " ".join(said)


def describe_violations(broken: dict[Constraint, float]) -> str:
    """Return the constraints that are broken, and by how much; "" for none."""
    said = []
    for constraint, excess in broken.items():
        how = f"by {excess:.3g}" if isfinite(excess) else "(not measured)"
        said.append(f"breaks {constraint} {how}")
    return ", ".join(said)
