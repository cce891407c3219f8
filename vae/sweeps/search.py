"""The search loop of a study: ask for trials, launch them, tell the results."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from vae.runs.config import SweepConfig
from vae.runs.run_dir import read_summary
from vae.sweeps.study import (
    Participant,
    build_pruner,
    check_space,
    close_failed,
    counts_towards_total,
    directions,
    open_storage,
    open_study,
    requeue,
    storage_url,
)
from vae.utils.errors import UserError
from vae.utils.files import write_text_atomically

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from optuna.distributions import BaseDistribution

log = logging.getLogger(__name__)

HEARTBEAT = 30.0  # seconds between signs of life, for processes on other machines


class Search:
    """One process's search in a study, which other processes may share.

    Args:
        sweep: its name, its storage, its pruner.
        folder: the sweep's.
        objectives: metric keys.
        space: the search space, by override key.
        shared: overrides that all trials have.
        sampler: as Hydra made it.
        epochs: of a trial, for the pruner; None if not known.
        total: trials that the study is to have in the end.
        at_once: trials to launch together.
        launch: Hydra's launcher: (overrides of each job, number of the first) -> returns.

    Raises:
        UserError: the study cannot be used.
    """

    def __init__(
        self,
        sweep: SweepConfig,
        folder: Path,
        *,
        objectives: list[str],
        space: Mapping[str, BaseDistribution],
        shared: list[str],
        sampler: Any,
        epochs: int | None,
        total: int,
        at_once: int,
        launch: Callable[..., Sequence[JobReturn]],
    ) -> None:
        if sweep.pruner and len(objectives) > 1:
            raise UserError(
                f"sweep.pruner: got {sweep.pruner!r}, but with several objectives no trial is "
                "clearly bad: take sweep.pruner=null, or one objective."
            )
        self.folder, self.objectives, self.space, self.shared = folder, objectives, space, shared
        self.total, self.at_once, self.launch = total, at_once, launch
        self.storage = open_storage(storage_url(sweep, folder))
        ways = directions(objectives)
        pruner = build_pruner(sweep, epochs)
        self.study = open_study(self.storage, sweep.name, ways, sampler, pruner)
        check_space(self.study, space)
        self.me = Participant()
        self.running: list[optuna.Trial] = []

    def run(self) -> None:
        """Search until the study has its trials.

        Raises:
            UserError: no trial of it succeeded, or its storage is gone.
        """
        there = len(self.counted())
        log.info("study %s: %d trials of %d", self.study.study_name, there, self.total)
        try:
            with self.heartbeats():
                while trials := self.ask():
                    self.try_out(trials)
        except (StorageInternalError, SQLAlchemyError) as error:
            text = str(error.__cause__ or error).splitlines()[0]
            raise UserError(
                f"sweep.storage: the study can no longer be reached ({text}). Start the sweep "
                f"again with sweep.name={self.study.study_name}: it goes on where it was."
            ) from error
        self.write_results()

    def counted(self) -> list[optuna.trial.FrozenTrial]:
        """Return the trials that count, finished and running, of all processes."""
        return [
            trial for trial in self.study.get_trials(deepcopy=False) if counts_towards_total(trial)
        ]

    def ask(self) -> list[optuna.Trial]:
        """Ask for the next trials, at most `at_once`; none when the study is complete."""
        for left in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self.me.is_abandoned(left):
                log.info("trial %d was interrupted; its values are queued again", left.number)
                requeue(self.study, self.storage, left, set(self.space))
        trials = []
        for _ in range(min(self.at_once, self.total - len(self.counted()))):
            trial = self.study.ask()
            trial.set_user_attr("owner", self.me.heartbeat())
            if sum(other.number < trial.number for other in self.counted()) >= self.total:
                trial.set_user_attr("void", True)  # another process had asked for the last one
                close_failed(self.study, self.storage, trial.number, "one too many")
                continue
            for key, values in self.space.items():
                trial._suggest(key, values)
            trials.append(trial)
        return trials

    def try_out(self, trials: list[optuna.Trial]) -> None:
        """Run trials and tell the study the results."""
        overrides = [
            [*(f"{k}={v}" for k, v in t.params.items()), *self.shared, f"sweep.trial={t.number}"]
            for t in trials
        ]
        self.running = trials
        try:
            returns = self.launch(overrides, initial_job_idx=trials[0].number)
            for trial, returned in zip(trials, returns, strict=True):
                self.tell(trial, returned)
        except Exception as error:
            if not is_lost_worker(error):
                raise
            log.warning("a worker died with its run; its trials are queued again: %s", error)
            self.requeue_running()
        self.running = []

    def tell(self, trial: optuna.Trial, returned: JobReturn) -> None:
        """Tell the study how one trial ended."""
        assert returned.hydra_cfg is not None
        folder = Path(returned.hydra_cfg.hydra.runtime.output_dir)
        trial.set_user_attr("run", folder.name)
        try:
            value = returned.return_value
        except Exception as error:
            log.info("trial %d failed", trial.number)
            close_failed(self.study, self.storage, trial.number, str(error))
            return
        if read_summary(folder).get("status") == "pruned":
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, value)
        log.info("trial %d: %s", trial.number, self.described(value))

    def described(self, value: float | list[float]) -> str:
        """Format a value for the log: `val/bpd 6.213 (best 6.101, trial 3)`."""
        values = value if isinstance(value, list) else [value]
        text = ", ".join(f"{k} {v:.5g}" for k, v in zip(self.objectives, values, strict=True))
        if len(values) > 1 or not self.succeeded():
            return text
        best = self.study.best_trial
        return f"{text} (best {best.value:.5g}, trial {best.number})"

    def succeeded(self) -> bool:
        """Return whether any trial of the study was completed."""
        return any(trial.state == TrialState.COMPLETE for trial in self.counted())

    @contextmanager
    def heartbeats(self) -> Iterator[None]:
        """Send heartbeats for the running trials; requeue them at an early end."""
        ended = threading.Event()

        def heartbeat() -> None:
            while not ended.wait(HEARTBEAT):
                for trial in self.running:
                    try:
                        trial.set_user_attr("owner", self.me.heartbeat())
                    except Exception as error:  # told meanwhile, or no connection for the moment
                        log.debug("no sign of life at trial %d: %s", trial.number, error)

        thread = threading.Thread(target=heartbeat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.requeue_running(orderly=True)

    def requeue_running(self, orderly: bool = False) -> None:
        """Requeue the trials that this process has asked for and not told."""
        mine = {trial.number for trial in self.running}
        for trial in self.study.get_trials(deepcopy=False):
            if trial.number in mine and not trial.state.is_finished():
                requeue(self.study, self.storage, trial, set(self.space), orderly)

    def write_results(self) -> None:
        """Write optimization_results.yaml: the best trial, or the Pareto front.

        Raises:
            UserError: there is none.
        """
        from omegaconf import OmegaConf

        if not self.succeeded():
            raise UserError(
                f"no trial of {self.study.study_name} succeeded: {self.folder}/report.md has "
                "each one's reason."
            )
        results: dict[str, Any] = {"name": "optuna"}
        if len(self.objectives) == 1:
            best = self.study.best_trial
            results |= {"best_params": best.params, "best_value": best.value}
            results |= {"best_trial": best.number, "best_run": best.user_attrs.get("run")}
        else:
            results["solutions"] = [
                {"params": t.params, "values": t.values, "run": t.user_attrs.get("run")}
                for t in self.study.best_trials
            ]
        text = OmegaConf.to_yaml(OmegaConf.create(results))
        write_text_atomically(self.folder / "optimization_results.yaml", text)


def is_lost_worker(error: Exception) -> bool:
    """Return whether a launcher's process died, as opposed to a run that failed in it."""
    # joblib's and submitit's own; neither is imported for it
    lost = isinstance(error, BrokenProcessPool)
    return lost or type(error).__name__ == "UncompletedJobError"
