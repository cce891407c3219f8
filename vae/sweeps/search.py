"""The search loop of a study: ask for trials, launch their runs, tell the results."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from vae.runs.config import Constraint
from vae.runs.run_dir import read_summary
from vae.sweeps.jobs import Jobs
from vae.sweeps.open_trial import OpenTrial, announce, runs_of
from vae.sweeps.rungs import Rungs, is_open
from vae.sweeps.study import (
    CONTINUES,
    HEARTBEAT,
    claim,
    counted_trials,
    give_back,
    requeue,
    requeue_abandoned,
)
from vae.sweeps.trial import stop_after_failures_in_a_row
from vae.utils.errors import UserError
from vae.utils.files import write_text_atomically
from vae.utils.registry import find_metric
from vae.utils.text import hydra_value, plural

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn

log = logging.getLogger(__name__)

POLL = 5.0  # seconds between two looks at the trials of other processes
SeedOfTrial = tuple[OpenTrial, int | None]


@dataclass
class Search:
    """One process's search in a study, which other processes may share."""

    study: Study
    folder: Path  # of the sweep
    objectives: list[str]  # metric keys
    space: Mapping[str, BaseDistribution]  # by override key
    shared: list[str]  # overrides that all trials have
    total: int  # trials that the study is to have in the end, continued ones counted once
    at_once: Callable[[], int]  # runs to have at work together
    launch: Callable[..., Sequence[JobReturn]]  # Hydra's: (overrides of each job, first number)
    stop: Callable[[], None] = lambda: None  # end the jobs at work
    seeds: Sequence[int | None] = (None,)  # of the runs of each trial
    constraints: Sequence[Constraint] = ()
    rungs: Rungs | None = None
    max_failures: int | None = None  # failed runs in a row that stop the sweep
    has_waited: bool = False  # for trials of other processes
    open: list[OpenTrial] = field(default_factory=list)  # asked for, and not told yet

    def run(self) -> None:
        """Search until the study has its trials.

        Raises:
            UserError: no trial of it succeeded, or its storage is gone.
        """
        name, there = self.study.study_name, len(self.counted())
        log.info("study %s: %d of %s", name, there, plural(self.total, "trial"))
        jobs: Jobs[SeedOfTrial] = Jobs(self.launch)
        try:
            with self.heartbeats():
                try:
                    more = self._may_get_more()  # asked before: what ends in between is then seen
                    while self.start_jobs(jobs) or more:
                        if jobs.at_work:
                            (opened, seed), ended = jobs.wait()
                            self.take(opened, seed, ended)
                        else:
                            self._wait_for_others()
                        more = self._may_get_more()
                finally:
                    if jobs.at_work:
                        self.stop()
        except (StorageInternalError, SQLAlchemyError) as error:
            text = str(error.__cause__ or error).splitlines()[0]
            raise UserError(
                f"sweep.storage: the study can no longer be reached ({text}). Start the sweep "
                f"again with sweep.name={hydra_value(name)} to resume it."
            ) from error
        self.write_results()

    def counted(self) -> list[FrozenTrial]:
        """Return the trials that count towards `total`."""
        return [t for t in counted_trials(self.study) if CONTINUES not in t.user_attrs]

    def start_jobs(self, jobs: Jobs[SeedOfTrial]) -> int:
        """Start runs until `at_once` are at work; return how many are."""
        while jobs.at_work < self.at_once():
            waiting = [each for each in self.open if each.to_launch]
            if not waiting:
                trial = self.ask()
                if trial is None:
                    break
                # here, too: a job of Slurm's cannot end the sweep
                stop_after_failures_in_a_row(self.max_failures, self.folder)
                waiting = [each for each in self.open if each.trial is trial]
            chosen = waiting[0]
            seed = chosen.to_launch.pop(0)
            chosen.at_work += 1
            number = chosen.trial.number * len(self.seeds) + list(self.seeds).index(seed)
            alone = self.at_once() == 1
            jobs.start((chosen, seed), self.overrides(chosen.trial, seed), number, alone=alone)
        return jobs.at_work

    def ask(self) -> Trial | None:
        """Open the next trial: one to continue, else a new one; None when there is none (yet)."""
        requeue_abandoned(self.study, {each.trial.number for each in self.open})
        while (trial := self._next_trial()) is not None:
            opened = OpenTrial(trial, list(self.seeds))
            try:
                claim(self.study, trial)
                before = [t for t in self.counted() if t.number < trial.number]
                if CONTINUES not in trial.user_attrs and len(before) >= self.total:
                    # another process had asked for the last one
                    give_back(self.study, trial._trial_id)
                    continue
                self.open.append(opened)  # first: if the sampler fails, it is given back
                for key, values in self.space.items():
                    trial._suggest(key, values)
                announce(trial)
                return trial
            except UpdateFinishedTrialError:  # another process closed it meanwhile
                self.open = [each for each in self.open if each is not opened]
        return None

    def _next_trial(self) -> Trial | None:
        if len(self.counted()) < self.total:
            return self.study.ask()
        return self.rungs.take_next(self.study, self._cost, self._is_here) if self.rungs else None

    def _may_get_more(self) -> bool:
        """Return whether trials of other processes may still come to a rung."""
        return bool(self.rungs) and any(map(is_open, self.study.get_trials(deepcopy=False)))

    def _wait_for_others(self) -> None:
        """Wait for a while; say so the first time."""
        if not self.has_waited:
            log.info("waiting for trials of other processes")
        self.has_waited = True
        time.sleep(POLL)

    def _is_here(self, trial: FrozenTrial) -> bool:
        """Return whether a trial can be continued here: its runs are in this sweep's folder."""
        if trial.state != TrialState.PRUNED:
            return True
        return all((self.folder / run).is_dir() for run in trial.user_attrs.get("runs", ()))

    def _cost(self, trial: FrozenTrial) -> tuple[float, float]:
        """Return what trials at a rung are sorted by: broken constraints, then the objective."""
        excesses = trial.constraints
        broken = sum(max(excesses.get(str(c), inf), 0.0) / c.scale for c in self.constraints)
        return broken, find_metric(self.objectives[0]).cost(trial.value or 0.0)

    def overrides(self, trial: Trial, seed: int | None) -> list[str]:
        """Return the overrides of a trial's run."""
        words = [*(f"{key}={value}" for key, value in trial.params.items()), *self.shared]
        if seed is not None:
            words.append(f"seed={seed}")
        if self.rungs and (epoch := self.rungs.stop_at(trial)):
            words.append(f"sweep.stop_at={epoch}")
        return [*words, f"sweep.trial={trial.number}"]

    def take(self, opened: OpenTrial, seed: int | None, ended: JobReturn | Exception) -> None:
        """Note the end of a run; at the end of its trial's last run, tell the study."""
        opened.take(seed, ended)
        if opened.at_work or opened.to_launch:
            return
        if opened.lost:
            text = "a worker died with its run; its trial is queued again: %s"
            log.warning(text, opened.lost)
            requeue(self.study, opened.trial._trial_id)
        else:
            try:
                self.tell(opened)
            except UpdateFinishedTrialError:  # this host was taken for dead, while it slept
                number = opened.trial.number
                log.warning("trial %d was taken over by another process", number)
        self.open.remove(opened)

    def tell(self, opened: OpenTrial) -> None:
        """Tell the study how a trial ended: the means over its seeds.

        Raises:
            UpdateFinishedTrialError: another process has closed it.
        """
        trial, folders = opened.trial, opened.folders
        trial.set_user_attr("run", folders[0].name)
        trial.set_user_attr("runs", [folder.name for folder in folders])
        try:
            values = opened.values(self.objectives)
        except Exception as error:  # its run has logged the reason
            log.info("trial %d failed", trial.number)
            trial.set_user_attr("reason", str(error))
            self.study.tell(trial, state=TrialState.FAIL)
            return
        stop_at = self.rungs.stop_at(trial) if self.rungs else None
        metrics = opened.metrics(stop_at) if self.constraints else {}
        for constraint in self.constraints:
            trial.set_constraint(str(constraint), constraint.excess(metrics))
        pruned = any(read_summary(folder).get("status") == "pruned" for folder in folders)
        text = ", ".join(f"{k} {v:.5g}" for k, v in zip(self.objectives, values, strict=True))
        if stop_at is not None:
            trial.report(values[0], stop_at)
            text += f" after {plural(stop_at, 'epoch')}"
        if pruned or stop_at is not None:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, values)
        best = self.best()
        if best and len(values) == 1:
            text += f" (best {best[0].value:.5g}, trial {best[0].number})"
        log.info("trial %d: %s", trial.number, text)

    def best(self) -> list[FrozenTrial]:
        """Return the best completed trial, or the Pareto front; of those that keep constraints."""
        try:
            one = len(self.objectives) == 1
            return [self.study.best_trial] if one else self.study.best_trials
        except ValueError:  # there is none
            return []

    @contextmanager
    def heartbeats(self) -> Iterator[None]:
        """Send heartbeats for the open trials; at an early end, put them back in the queue."""
        ended = threading.Event()

        def send() -> None:
            while not ended.wait(HEARTBEAT):
                for each in list(self.open):
                    with suppress(Exception):  # told meanwhile, or no connection for the moment
                        claim(self.study, each.trial)

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            for each in self.open:
                give_back(self.study, each.trial._trial_id)

    def write_results(self) -> None:
        """Write optimization_results.yaml: the best trial, or the Pareto front.

        Raises:
            UserError: there is none.
        """
        best = self.best()
        if not best:
            name = self.study.study_name
            states = {trial.state for trial in self.study.get_trials(deepcopy=False)}
            if TrialState.RUNNING in states:
                log.info("study %s has no result yet: other processes are at work", name)
                return
            if TrialState.COMPLETE in states:
                kept = " and ".join(map(str, self.constraints))
                raise UserError(
                    f"sweep.constraint: no trial of {name} keeps {kept}. {self.folder}/report.md "
                    "has their metrics."
                )
            raise UserError(
                f"no trial of {name} succeeded. {self.folder}/report.md lists the reasons."
            )
        results: dict[str, Any] = {"name": "optuna"}
        if len(self.objectives) == 1:
            results |= {"best_params": best[0].params, "best_value": best[0].value}
            results |= {"best_trial": best[0].number, **runs_of(best[0], "best_")}
        else:
            results["solutions"] = [
                {"params": t.params, "values": t.values, **runs_of(t)} for t in best
            ]
        text = OmegaConf.to_yaml(OmegaConf.create(results))
        write_text_atomically(self.folder / "optimization_results.yaml", text)
