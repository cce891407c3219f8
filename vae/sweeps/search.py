"""The search loop of a study: ask for trials, launch them, tell the results."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from vae.runs.run_dir import read_summary
from vae.sweeps.study import (
    HEARTBEAT,
    claim,
    counted_trials,
    give_back,
    requeue,
    requeue_abandoned,
)
from vae.utils.errors import UserError
from vae.utils.files import write_text_atomically
from vae.utils.text import hydra_value, plural

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn

log = logging.getLogger(__name__)


@dataclass
class Search:
    """One process's search in a study, which other processes may share."""

    study: Study
    folder: Path  # of the sweep
    objectives: list[str]  # metric keys
    space: Mapping[str, BaseDistribution]  # by override key
    shared: list[str]  # overrides that all trials have
    total: int  # trials that the study is to have in the end
    at_once: int  # trials to launch together
    launch: Callable[..., Sequence[JobReturn]]  # Hydra's: (overrides of each job, first number)
    running: list[Trial] = field(default_factory=list)  # asked for, and not told yet

    def run(self) -> None:
        """Search until the study has its trials.

        Raises:
            UserError: no trial of it succeeded, or its storage is gone.
        """
        name, there = self.study.study_name, len(counted_trials(self.study))
        log.info("study %s: %d of %s", name, there, plural(self.total, "trial"))
        try:
            with self.heartbeats():
                while self.ask():
                    self.try_out()
        except (StorageInternalError, SQLAlchemyError) as error:
            text = str(error.__cause__ or error).splitlines()[0]
            raise UserError(
                f"sweep.storage: the study can no longer be reached ({text}). Start the sweep "
                f"again with sweep.name={hydra_value(name)} to resume it."
            ) from error
        self.write_results()

    def ask(self) -> list[Trial]:
        """Ask for the next trials, at most `at_once`; none when the study is complete."""
        requeue_abandoned(self.study)
        while len(self.running) < self.at_once and len(counted_trials(self.study)) < self.total:
            trial = self.study.ask()
            try:
                claim(self.study, trial)
                earlier = [t for t in counted_trials(self.study) if t.number < trial.number]
                if len(earlier) >= self.total:  # another process had asked for the last one
                    give_back(self.study, trial._trial_id)
                    continue
                self.running.append(trial)  # first: if the sampler fails, it is given back
                for key, values in self.space.items():
                    trial._suggest(key, values)
            except UpdateFinishedTrialError:  # another process closed it meanwhile
                self.running = [each for each in self.running if each is not trial]
        return self.running

    def try_out(self) -> None:
        """Run the trials that were asked for, and tell the study the results."""
        overrides = [
            [*(f"{k}={v}" for k, v in t.params.items()), *self.shared, f"sweep.trial={t.number}"]
            for t in self.running
        ]
        try:
            returns = self.launch(overrides, initial_job_idx=self.running[0].number)
            for trial, returned in zip(self.running, returns, strict=True):
                try:
                    self.tell(trial, returned)
                except UpdateFinishedTrialError:  # this host was taken for dead, while it slept
                    log.warning("trial %d was taken over by another process", trial.number)
        except Exception as error:
            # joblib's and submitit's own; neither is imported for it
            lost = isinstance(error, BrokenProcessPool)
            if not (lost or type(error).__name__ == "UncompletedJobError"):
                raise
            log.warning("a worker died with its run; its trials are queued again: %s", error)
            for trial in self.running:
                requeue(self.study, trial._trial_id)
        self.running.clear()

    def tell(self, trial: Trial, returned: JobReturn) -> None:
        """Tell the study how one trial ended.

        Raises:
            UpdateFinishedTrialError: another process has closed it.
        """
        assert returned.hydra_cfg is not None
        folder = Path(returned.hydra_cfg.hydra.runtime.output_dir)
        trial.set_user_attr("run", folder.name)
        try:
            value = returned.return_value
            values = value if isinstance(value, list) else [value]
            missing = [key for key, v in zip(self.objectives, values, strict=True) if v is None]
            if missing:
                log.error(text := f"{folder}: the run has no {missing[0]}, the objective.")
                raise UserError(text)
        except Exception as error:  # its run has logged the reason
            log.info("trial %d failed", trial.number)
            trial.set_user_attr("reason", str(error))
            self.study.tell(trial, state=TrialState.FAIL)
            return
        if read_summary(folder).get("status") == "pruned":
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, value)
        text = ", ".join(f"{k} {v:.5g}" for k, v in zip(self.objectives, values, strict=True))
        if len(values) == 1 and self.succeeded():
            best = self.study.best_trial
            text += f" (best {best.value:.5g}, trial {best.number})"
        log.info("trial %d: %s", trial.number, text)

    def succeeded(self) -> bool:
        """Return whether any trial of the study was completed."""
        return bool(self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))

    @contextmanager
    def heartbeats(self) -> Iterator[None]:
        """Send heartbeats for the running trials; at an early end, put them back in the queue."""
        ended = threading.Event()

        def send() -> None:
            while not ended.wait(HEARTBEAT):
                for trial in list(self.running):
                    with suppress(Exception):  # told meanwhile, or no connection for the moment
                        claim(self.study, trial)

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            for trial in self.running:
                give_back(self.study, trial._trial_id)

    def write_results(self) -> None:
        """Write optimization_results.yaml: the best trial, or the Pareto front.

        Raises:
            UserError: there is none.
        """
        if not self.succeeded():
            raise UserError(
                f"no trial of {self.study.study_name} succeeded. {self.folder}/report.md lists "
                "the reasons."
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
