"""The whole configuration, typed and checked.

YAML holds the values; the dataclasses beside the code that they configure hold the types
and the ranges. Here they come together; vae/runs/compose.py has Hydra fill them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from operator import attrgetter
from typing import Any

from omegaconf import MISSING

from vae.data import DataConfig
from vae.evaluation import EDITS, PARTS, MetricsConfig
from vae.losses import LossConfig
from vae.models import ModelConfig
from vae.runs.wandb_settings import WandbConfig
from vae.training import TrainerConfig
from vae.training.optim import OptimizerConfig
from vae.utils.errors import require, require_ranges, without_password
from vae.utils.registry import all_metrics, choices, groups, run_metrics

# Prefixes of metrics that need labels, by the kind of labels
NEEDS = {"factors": PARTS["factors"] + PARTS["counterfactual"], "attributes": PARTS["attributes"]}
NOT_OBJECTIVES = {"val/loss", "val/sharpness", *(f"val/edit_confounding{of}" for of in EDITS)}


@dataclass
class SweepConfig:
    """Settings of a sweep: name, study storage, pruner, failure limit."""

    name: str = MISSING  # names its folder under multirun/, its study and its W&B group
    storage: str | None = MISSING  # Optuna's storage URL; null: study.db in the sweep's folder
    max_failures: int | None = MISSING  # failed runs in a row that stop the sweep; null or int >= 1
    pruner: str | None = MISSING  # null, median or hyperband: ends bad trials early
    pruner_startup: int = MISSING  # median: trials that are never pruned; int >= 0
    pruner_warmup: int = MISSING  # epochs before which no trial is pruned; int >= 1
    trial: int | None = MISSING  # number of the Optuna trial; filled in by the sweeper
    seeds: int = 1  # runs per point, with seed, seed + 1, ...; int from 1 to 1000
    constraint: Any = None  # "METRIC <= NUMBER" or >=, a list of them, or null
    rungs: list[int] | None = None  # epochs at which trials stop, ascending; the best continue
    reduction: int = 3  # of the trials at a rung, one in so many continues; int from 2 to 1000
    stop_at: int | None = None  # epoch at which this run stops; filled in by the sweeper

    def __post_init__(self) -> None:
        name = self.name
        plain = name.isprintable() and not set(name) & set('/\\:*?"<>|')
        plain = plain and name == name.strip(". -")
        usable = plain and 0 < len(name.encode()) <= 100
        takes = (
            'a name of at most 100 bytes, none of them / \\ : * ? " < > | or a control character, '
            "with no dot, dash or space at its ends"
        )
        require(usable, "sweep.name", self.name, takes)
        takes = "the URL of a database, or null"  # "": of a variable that is empty
        require(self.storage != "", "sweep.storage", self.storage, takes)
        require_ranges("sweep", self, max_failures=(1, 10**9), trial=(0, 10**9))
        require_ranges("sweep", self, pruner_startup=(0, 10**9), pruner_warmup=(1, 10**9))
        require_ranges("sweep", self, seeds=(1, 1000), reduction=(2, 1000), stop_at=(1, 10**9))
        rungs = self.rungs or []
        epochs = all(type(rung) is int and 1 <= rung <= 10**9 for rung in rungs)
        takes = "epochs, ascending, from 1 on: [1, 3], or null"
        require(epochs and sorted(set(rungs)) == rungs, "sweep.rungs", self.rungs, takes)
        constraints_of(self.constraint)
        known = self.pruner in (None, "median", "hyperband")
        require(known, "sweep.pruner", self.pruner, "null, median or hyperband")


@dataclass
class RunConfig:
    """The whole configuration of a run (`conf/train.yaml`)."""

    seed: int = MISSING  # of the weights, the shuffling and the noise; int >= 0
    objective: Any = MISSING  # what train.py returns to a sweeper: a metric, or a list of them
    resume: str | None = MISSING  # a run folder, wandb:...; auto: that in hydra.run.dir, if any
    model: ModelConfig = MISSING
    data: DataConfig = MISSING
    optimizer: OptimizerConfig = MISSING
    loss: LossConfig = MISSING
    trainer: TrainerConfig = MISSING
    wandb: WandbConfig = MISSING
    sweep: SweepConfig = MISSING
    metrics: MetricsConfig = field(default_factory=MetricsConfig)  # older runs have none

    def __post_init__(self) -> None:
        require_ranges("", self, seed=(0, 2**32 - 1))
        objectives_of(self.objective)
        for group in groups():
            key = group.replace("/", ".")
            chosen = attrgetter(key)(self)
            fits = type(chosen) is choices(group).get(chosen.name)  # no name was set by hand
            require(fits, f"{key}.name", chosen.name, f"{group}=CHOICE instead")
        self.model.check_image_size(self.data.image_size)
        for key in self.objectives:
            for labels in self.data.lacks:
                measurable = not key.removeprefix("val/").startswith(NEEDS[labels])
                takes = f"another one: data={self.data.name} has no {labels}"
                require(measurable, "objective", key, takes)

    def as_dict(self) -> dict[str, Any]:
        """Return the configuration as a nested dict of plain values, for W&B and checkpoints.

        These are shown to others: the password in `sweep.storage` is hidden.
        """
        plain = asdict(self)
        if self.sweep.storage:
            plain["sweep"]["storage"] = without_password(self.sweep.storage)
        return plain

    @property
    def objectives(self) -> list[str]:
        """The objective as a list of metric keys."""
        return objectives_of(self.objective)


def objectives_of(objective: Any) -> list[str]:
    """Return `objective`, a metric key or a list of them, as a list.

    Raises:
        UserError: no metric, or one that can choose nothing.
    """
    several = isinstance(objective, Sequence) and not isinstance(objective, str)
    keys = (list(objective) or [None]) if several else [objective]
    usable = run_metrics().keys() - NOT_OBJECTIVES
    for key in keys:
        require(
            isinstance(key, str) and key in all_metrics() and key not in NOT_OBJECTIVES,
            "objective",
            key,
            f"one of {', '.join(sorted(usable))}, at the end of a run another that vae evaluate "
            "measures (docs/sweeps.md), or a list of them (not the trained loss: it contains beta, "
            "so the smallest beta would win; nor val/sharpness, which noise raises, or "
            "val/edit_confounding, which is best at 0)",
        )
    return keys


@dataclass(frozen=True)
class Constraint:
    """A bound on a metric at the end of a run: `val/rate <= 200`."""

    metric: str
    sign: str  # <= or >=
    bound: float

    def excess(self, metrics: Mapping[str, float]) -> float:
        """Return by how much the metrics break the bound; at most 0 if they keep it."""
        value = metrics.get(self.metric, math.nan)
        excess = value - self.bound if self.sign == "<=" else self.bound - value
        return excess if math.isfinite(excess) else math.inf  # not measured: not kept

    @property
    def scale(self) -> float:
        """The unit in which excesses over several bounds are added up: the size of the bound."""
        return abs(self.bound) or 1.0

    def __str__(self) -> str:
        return f"{self.metric} {self.sign} {self.bound:g}"


def seeds_of(first: int, count: int) -> list[int]:
    """Return the seeds of `sweep.seeds` runs per point: the configured one and those after it.

    Raises:
        UserError: they end beyond the largest seed.
    """
    fits = first + count <= 2**32
    require(fits, "seed", first, f"at most {2**32 - count} with sweep.seeds={count}")
    return list(range(first, first + count))


def constraints_of(constraint: Any) -> list[Constraint]:
    """Return `sweep.constraint`, a text, a list of texts or null, as a list.

    Raises:
        UserError: a text is no condition, or names no metric.
    """
    several = isinstance(constraint, Sequence) and not isinstance(constraint, str)
    texts = constraint if several else [] if constraint is None else [constraint]
    found = []
    for text in texts:
        words = re.fullmatch(r"\s*(\S+?)\s*(<=|>=)\s*(\S+)\s*", str(text))
        metric, sign, bound = words.groups() if words else ("", "", "nan")
        try:
            number = float(bound)
        except ValueError:
            number = math.nan
        require(
            metric in run_metrics() and math.isfinite(number),
            "sweep.constraint",
            text,
            "a condition such as 'val/rate <= 200', on one of " + ", ".join(sorted(run_metrics())),
        )
        found.append(Constraint(metric, sign, number))
    return found


def objective_values(objective: Any, metrics: Mapping[str, float]) -> Any:
    """Return the metric that `objective` names, or a list of them; None where one is missing."""
    if isinstance(objective, str):
        return metrics.get(objective)
    return [metrics.get(key) for key in objective]
