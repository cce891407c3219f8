"""Schedules of β: pure functions of the epoch.

Nothing is counted here, so nothing is lost in a checkpoint, and validation moves no clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from vae.utils.errors import require


@dataclass
class ScheduleConfig:
    """`loss/schedule=constant`: β from the first step to the last."""

    name: str = "constant"  # which; set by the YAML, not by hand


@dataclass
class WarmupConfig(ScheduleConfig):
    """`loss/schedule=warmup`: from 0 to β in a straight line (Sønderby et al. 2016)."""

    epochs: float = MISSING  # until β is reached; a number > 0

    def __post_init__(self) -> None:
        _require_length(self.epochs)


@dataclass
class CyclicalConfig(ScheduleConfig):
    """`loss/schedule=cyclical`: from 0 to β again and again (Fu et al. 2019)."""

    epochs: float = MISSING  # of a cycle; a number > 0
    rising: float = MISSING  # share of a cycle until β is reached; above 0, at most 1

    def __post_init__(self) -> None:
        _require_length(self.epochs)
        fits = 0 < self.rising <= 1
        require(fits, "loss.schedule.rising", self.rising, "a number above 0 and at most 1")


def beta_multiplier(config: ScheduleConfig, epoch: float) -> float:
    """Return the factor of β, from 0 to 1.

    Args:
        config: the schedule.
        epoch: passes over the training images so far; infinity is the end of all schedules,
            where β has its full weight.
    """
    if epoch == float("inf"):
        return 1.0
    if isinstance(config, WarmupConfig):
        return min(1.0, epoch / config.epochs)
    if isinstance(config, CyclicalConfig):
        return min(1.0, epoch / config.epochs % 1 / config.rising)
    return 1.0


def _require_length(epochs: float) -> None:
    fits = 0 < epochs < float("inf")
    require(fits, "loss.schedule.epochs", epochs, "a number > 0")
