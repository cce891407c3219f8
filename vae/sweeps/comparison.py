"""The runs of a sweep side by side, read from their folders, for any sweeper."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vae.runs.config import Constraint, constraints_of
from vae.runs.overrides import UNNAMED_KEYS
from vae.runs.run_dir import SWEEP_ENTRIES
from vae.sweeps.points import Point, group_by_seed
from vae.sweeps.results import RECORD_FILE, SweepRun, parse_number, read_run
from vae.utils.errors import UserError
from vae.utils.files import read_json, reject_unsafe_entries
from vae.utils.registry import find_metric, run_metrics
from vae.utils.text import truncate

LEADING_KEYS = ("loss.beta", "model.latent_dim")  # runs are ordered by these keys first
SYMBOLS = {"loss.beta": "β", "model.latent_dim": "z"}
UNSWEPT_KEYS = (*UNNAMED_KEYS, "hydra")  # overrides that do not affect training
MAX_LABEL = 120  # characters of a run's label
MIN_POINTS = 8  # of importances; of fewer, they would be chance
EVALUATORS = {  # of importances, and what they say
    "PED-ANOVA": "for being among the best",
    "fANOVA": "share of the variance",
}
LOG_RATIO = 8  # at a ratio of largest to smallest above this, a logarithmic scale is used


@dataclass(frozen=True)
class Comparison:
    """All runs of a sweep, ordered by the swept values."""

    folder: Path  # multirun/<sweep>
    name: str
    command: str | None  # that started it (last)
    objectives: list[str]
    started: str | None  # ISO time
    swept: list[str]  # keys whose values differ between runs
    runs: list[SweepRun]
    constraints: list[Constraint] = field(default_factory=list)  # that the best run keeps
    seeds: int = 1  # runs that a point is to have, as sweep.seeds says

    @cached_property
    def points(self) -> list[Point]:
        """The finished runs, those of several seeds as one point; the best point first.

        By the mean of the first objective. Points that lack a seed of `sweep.seeds` come after
        the others; those that break a constraint come last, by how far they break it.
        """
        finished = [
            run
            for run in self.runs
            if run.status == "finished" and all(key in run.metrics for key in self.objectives)
        ]
        points = group_by_seed(finished, self.swept)
        return sorted(points, key=self._rank)

    @property
    def ranked(self) -> list[SweepRun]:
        """The finished runs, the best by the first objective first, the infeasible last."""
        return sorted((run for point in self.points for run in point.runs), key=self._rank)

    @property
    def best_point(self) -> Point | None:
        """The best point, where there is one objective and a feasible point."""
        return self.front_points[0] if len(self.objectives) == 1 and self.front_points else None

    @property
    def best(self) -> SweepRun | None:
        """The best run of the best point."""
        return self.best_run(self.best_point) if self.best_point else None

    @cached_property
    def front_points(self) -> list[Point]:
        """The Pareto front of the feasible points, best by the first objective first."""
        feasible = [point for point in self.points if self.is_feasible(point)]
        points = [point for point in feasible if point.n >= self.seeds] or feasible
        return [points[i] for i in pareto_front([self._costs(point) for point in points])]

    @property
    def front(self) -> list[SweepRun]:
        """The best run of each point of the Pareto front."""
        return [self.best_run(point) for point in self.front_points]

    def best_run(self, point: Point) -> SweepRun:
        """Return a point's best run: a feasible one if there is one."""
        return min(point.runs, key=self._rank)

    def is_feasible(self, at: SweepRun | Point) -> bool:
        """Return whether a run's metrics, or a point's means, keep all constraints."""
        return not self.violations(at)

    def violations(self, at: SweepRun | Point) -> dict[Constraint, float]:
        """Return the constraints that a run's metrics, or a point's means, break, and by how much.

        By infinity where the metric was not measured.
        """
        metrics = at.metrics
        excesses = {constraint: constraint.excess(metrics) for constraint in self.constraints}
        return {constraint: excess for constraint, excess in excesses.items() if excess > 0}

    def label(self, run: SweepRun | Point) -> str:
        """Return a short label of a run: `β 1e-04, z 64`; of a point, without the seed."""
        several = isinstance(run, Point) and run.n > 1
        keys = [key for key in self.swept if not (several and key == "seed")]
        endings = Counter(key.rpartition(".")[2] for key in self.swept)
        parts = []
        for key in keys:
            ending = key.rpartition(".")[2]
            symbol = SYMBOLS.get(key, ending if endings[ending] == 1 else key)
            parts.append(f"{symbol} {format_value(run.value(key))}")
        name = run.runs[0].name if isinstance(run, Point) else run.name
        return truncate(", ".join(parts) or name, MAX_LABEL)

    def _rank(self, at: SweepRun | Point) -> tuple[float, bool, float]:
        """Sort key: excesses relative to the bounds (0: feasible), lack of a seed, cost."""
        broken = sum(excess / c.scale for c, excess in self.violations(at).items())
        return broken, isinstance(at, Point) and at.n < self.seeds, self._costs(at)[0]

    def _costs(self, at: SweepRun | Point) -> list[float]:
        metrics = at.metrics
        return [find_metric(key).cost(metrics[key]) for key in self.objectives]


def pareto_front(costs: Sequence[Sequence[float]]) -> list[int]:
    """Return the indices of the non-dominated points.

    Args:
        costs: points of values to minimise; negate values to maximise.
    """
    points = np.array(costs)
    dominated = (((points <= p).all(axis=1) & (points < p).any(axis=1)).any() for p in points)
    return [i for i, is_dominated in enumerate(dominated) if not is_dominated]


def format_value(value: Any) -> str:
    """Format a value with few digits: 1e-04 and not 0.0001."""
    if not isinstance(value, float):
        return str(value)
    if value == 0 or abs(value) >= 0.1:
        return f"{value:.4g}"
    digits, _, exponent = f"{value:.2e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{exponent}"


def read_sweep(folder: Path | str) -> Comparison:
    """Read all runs of a sweep's folder, in any state.

    Args:
        folder: `multirun/<sweep>`.

    Raises:
        UserError: there is no such folder, it is no sweep's, or not safe to write to.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder. Give a sweep's: multirun/SWEEP.")
    if (folder / ".hydra").is_dir():
        raise UserError(f"{folder}: this is one run. Give the folder of a sweep: multirun/SWEEP.")
    reject_unsafe_entries(folder, SWEEP_ENTRIES)
    children = [path for path in folder.iterdir() if not path.name.startswith(".")]
    runs = [read_run(child) for child in children if (child / ".hydra").is_dir()]
    if not runs:
        raise UserError(
            f"{folder}: there are no runs in it (folders with .hydra/ in them). "
            "Give the folder of a sweep: multirun/SWEEP."
        )
    swept = _swept(runs)
    order = dict.fromkeys([*LEADING_KEYS, *swept])
    runs.sort(key=lambda run: ([sort_key(run.value(key)) for key in order], run.name))
    about = read_json(folder / RECORD_FILE)
    search = about["search"] if isinstance(about.get("search"), dict) else {}
    objective = about.get("objective") or runs[0].config.get("objective") or "val/bpd"
    return Comparison(
        folder=folder,
        name=str(about.get("name") or folder.resolve().name),
        command=str(about["command"]) if about.get("command") else None,
        objectives=list(map(str, objective)) if isinstance(objective, list) else [str(objective)],
        started=str(about["started"]) if about.get("started") else None,
        swept=swept,
        runs=runs,
        constraints=_constraints(search.get("constraint")),
        seeds=seeds if isinstance(seeds := search.get("seeds"), int) else 1,
    )


def _constraints(recorded: Any) -> list[Constraint]:
    """Return the constraints in a sweep's record, which may be another version's, or edited."""
    try:
        return constraints_of(recorded)
    except UserError:
        return []


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the comparison as rows: one flat dict per run, equal keys in equal order."""
    keys = dict.fromkeys([*comparison.swept, *LEADING_KEYS, "seed"])
    return [
        {
            "run": run.name,
            "status": run.status,
            "trial": run.trial,
            **{key: run.value(key) for key in keys},
            "beta_elbo": run.beta_elbo,
            **{key: run.metrics.get(key) for key in [*run_metrics(), *comparison.objectives]},
            **({"feasible": comparison.is_feasible(run)} if comparison.constraints else {}),
            "step": run.step,
            "seconds": run.seconds,
            "folder": str(run.folder),
            "error": run.error,
        }
        for run in comparison.runs
    ]


def _swept(runs: list[SweepRun]) -> list[str]:
    """Return the overridden keys that differ between runs: beta, latent size, others, seed."""
    keys = {key for run in runs for key in run.overrides if not key.startswith(UNSWEPT_KEYS)}
    differ = {key for key in keys if len({run.value(key) for run in runs}) > 1}
    order = dict.fromkeys([*LEADING_KEYS, *sorted(differ - {"seed"}), "seed"])
    return [key for key in order if key in differ]


def sort_key(value: Any) -> tuple[bool, float, str]:
    """Sort key: numbers by size, then texts, then missing values."""
    found = parse_number(value)
    return (value is None, math.inf if found is None else found, str(value))


def importances(
    comparison: Comparison, metric: str, evaluator: str = "PED-ANOVA"
) -> dict[str, float]:
    """Return the importance of each swept key, the largest first.

    By PED-ANOVA (Watanabe et al. 2023): which keys decide who is among the best. Or by fANOVA
    (Hutter et al. 2014): the share of the variance over the whole space, in a random forest. For
    Optuna's sweeps and all others alike. A number is given by its rank, whatever its scale. Runs
    of several seeds are one point, constraints are left aside.

    Returns:
        Shares that sum to 1; {} for fewer than MIN_POINTS points or than two keys.
    """
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
    from optuna.importance import (
        FanovaImportanceEvaluator,
        PedAnovaImportanceEvaluator,
        get_param_importances,
    )

    points = comparison.points
    keys = [key for key in comparison.swept if key != "seed"]
    values = {key: sorted({p.value(key) for p in points}, key=sort_key) for key in keys}
    values = {key: found for key, found in values.items() if len(found) > 1}
    costs = [find_metric(metric).cost(point.metrics[metric]) for point in points]
    if len(points) < MIN_POINTS or len(values) < 2 or len(set(costs)) < 2:
        return {}
    distributions: dict[str, BaseDistribution] = {
        key: IntDistribution(0, len(found) - 1)
        if is_numeric(comparison.ranked, key)
        else CategoricalDistribution(range(len(found)))
        for key, found in values.items()
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces every study
    study = optuna.create_study()
    for point, cost in zip(points, costs, strict=True):
        places = {key: found.index(point.value(key)) for key, found in values.items()}
        trial = optuna.create_trial(params=places, distributions=distributions, value=cost)
        study.add_trial(trial)
    good = min(0.5, max(0.1, 5 / len(points)))  # share of good points: five at least
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        chosen = (
            PedAnovaImportanceEvaluator(target_quantile=good)
            if evaluator == "PED-ANOVA"
            else FanovaImportanceEvaluator(seed=0)
        )
        return dict(get_param_importances(study, evaluator=chosen))


def is_log_scale(values: list[float]) -> bool:
    """Return whether numbers belong on a logarithmic scale."""
    return min(values) > 0 and max(values) >= LOG_RATIO * min(values)


def is_numeric(runs: list[SweepRun], key: str) -> bool:
    """Return whether a key's values are numbers in all runs; seeds are names."""
    return key != "seed" and all(parse_number(run.value(key)) is not None for run in runs)
