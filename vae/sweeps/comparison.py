"""A sweep's runs side by side: read from their folders, so at any time and for any sweeper."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep, as its folder tells."""

    folder: Path
    status: str  # finished, pruned, failed, interrupted, running or cut (its process is gone)
    error: str | None  # why it failed
    trial: int | None  # number of the Optuna trial
    overrides: dict[str, str]  # what the run was started with, `loss.beta` -> `1e-05`
    config: dict[str, Any]  # composed, nested
    metrics: dict[str, float]  # val/* as they last stood
    beta_elbo: float | None
    step: int
    total_steps: int | None
    seconds: float | None

    @property
    def name(self) -> str:
        """What differs from the other runs: the folder's name."""
        return self.folder.name


@dataclass(frozen=True)
class Comparison:
    """All runs of a sweep, in the order of what was swept."""

    folder: Path  # multirun/<sweep>
    name: str
    command: str | None  # that started it (last)
    objectives: list[str]
    swept: list[str] = field(default_factory=list)  # keys whose values differ between runs
    runs: list[SweepRun] = field(default_factory=list)
