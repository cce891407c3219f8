"""A trial that this process runs: one run for each seed, and how they ended."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from optuna.trial import FrozenTrial, Trial

from vae.runs.run_dir import read_summary
from vae.sweeps.jobs import is_lost_worker
from vae.sweeps.results import metrics_at
from vae.sweeps.study import CONTINUES
from vae.utils.errors import UserError

log = logging.getLogger(__name__)


@dataclass
class OpenTrial:
    """A trial that this process runs: one run for each seed."""

    trial: Trial
    to_launch: list[int | None]  # seeds whose runs have not been launched; None: that of all trials
    at_work: int = 0  # runs that have been launched and have not ended
    ended: dict[int | None, JobReturn] = field(default_factory=dict)  # by seed
    lost: Exception | None = None  # a worker died with a run

    def take(self, seed: int | None, ended: JobReturn | Exception) -> None:
        """Note the end of a seed's run: its result, or the launcher's error.

        Raises:
            Exception: the launcher's, if no worker has died.
        """
        self.at_work -= 1
        if isinstance(ended, Exception):
            if not is_lost_worker(ended):
                raise ended
            self.lost = ended
        else:
            self.ended[seed] = ended
        if self.lost or self.ended[seed].status == JobStatus.FAILED:
            self.to_launch.clear()  # the trial has failed: without its other seeds

    @property
    def _in_order(self) -> list[JobReturn]:
        return [self.ended[seed] for seed in sorted(self.ended, key=lambda seed: seed or 0)]

    @property
    def folders(self) -> list[Path]:
        """The folders of the runs that have ended, the first seed's first."""
        return list(map(_folder, self._in_order))

    def metrics(self, stop_at: int | None) -> dict[str, float]:
        """Return the means of the metrics that all runs have.

        Args:
            stop_at: the epoch at whose end they are wanted; None: the end of the runs.
        """
        found = [
            (metrics_at(folder, stop_at) if stop_at else {})
            or read_summary(folder).get("final")
            or {}
            for folder in self.folders
        ]
        shared = set(found[0]).intersection(*found[1:])
        return {key: fmean(metrics[key] for metrics in found) for key in shared}

    def values(self, objectives: Sequence[str]) -> list[float]:
        """Return the means of the objectives over the seeds.

        Raises:
            Exception: that ended a run.
            UserError: a run has no such metric.
        """
        found = []
        for returned in self._in_order:
            value = returned.return_value
            values = value if isinstance(value, list) else [value]
            missing = [key for key, v in zip(objectives, values, strict=True) if v is None]
            if missing:
                text = f"{_folder(returned)}: the run has no {missing[0]}, the objective."
                log.error(text)
                raise UserError(text)
            found.append(values)
        return [fmean(of_seeds) for of_seeds in zip(*found, strict=True)]


def _folder(returned: JobReturn) -> Path:
    assert returned.hydra_cfg is not None
    return Path(returned.hydra_cfg.hydra.runtime.output_dir)


def announce(trial: Trial) -> None:
    """Log the values of a new trial, and the trial that it continues."""
    values = ", ".join(f"{key}={value}" for key, value in trial.params.items())
    continued = trial.user_attrs.get(CONTINUES)
    what = "" if continued is None else f" continues trial {continued}"
    log.info("trial %d%s: %s", trial.number, what, values)


def runs_of(trial: FrozenTrial, prefix: str = "") -> dict[str, Any]:
    """Return the folder of a trial's first run, and those of all where there are several."""
    runs = trial.user_attrs.get("runs", ())
    several = {f"{prefix}runs": runs} if len(runs) > 1 else {}
    return {f"{prefix}run": trial.user_attrs.get("run"), **several}
