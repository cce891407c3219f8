"""Schedules of β: pure functions of the epoch.

Nothing is counted here, so nothing is lost in a checkpoint, and validation moves no clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from vae.utils.errors import require_ranges
from vae.utils.registry import register


@register("loss/schedule", "constant")
@dataclass
class ScheduleConfig:
    """`loss/schedule=constant`: β from the first step to the last; the base of every schedule."""

    name: str = "constant"  # the name it is registered by

    def multiplier(self, epoch: float) -> float:
        """Return the factor of β, from 0 to 1.

        Args:
            epoch: passes over the training images so far; infinity is the end of all schedules,
                where β has its full weight.
        """
        return 1.0


@register("loss/schedule", "warmup")
@dataclass
class WarmupConfig(ScheduleConfig):
    """`loss/schedule=warmup`: from 0 to β in a straight line (Sønderby et al. 2016)."""

    epochs: float = MISSING  # until β is reached; a number from 1e-6 to 1e9

    def __post_init__(self) -> None:
        require_ranges("loss.schedule", self, epochs=(1e-6, 1e9))

    def multiplier(self, epoch: float) -> float:
        return min(1.0, epoch / self.epochs)


@register("loss/schedule", "cyclical")
@dataclass
class CyclicalConfig(ScheduleConfig):
    """`loss/schedule=cyclical`: from 0 to β again and again (Fu et al. 2019)."""

    epochs: float = MISSING  # of a cycle; a number from 1e-6 to 1e9
    rising: float = MISSING  # share of a cycle until β is reached; a number from 1e-6 to 1

    def __post_init__(self) -> None:
        require_ranges("loss.schedule", self, epochs=(1e-6, 1e9), rising=(1e-6, 1))

    def multiplier(self, epoch: float) -> float:
        if epoch == float("inf"):
            return 1.0
        return min(1.0, epoch / self.epochs % 1 / self.rising)
