"""The Optuna study of a sweep, shared by all participating processes.

A trial whose process is gone is closed, and its values are queued: the next ask gets them, and
the run resumes from its checkpoint. Processes of this host are known by their ids, those of other
hosts by Optuna's heartbeat.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import warnings
from collections.abc import Collection, Mapping
from contextlib import suppress
from copy import deepcopy
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, UpdateFinishedTrialError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import URL, event
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

from vae.runs.config import SweepConfig
from vae.sweeps.settings import reject_other_search
from vae.utils.errors import UserError, without_password
from vae.utils.files import is_alive
from vae.utils.registry import find_metric

log = logging.getLogger(__name__)

HEARTBEAT = 30  # seconds between the heartbeats of a running trial
HEARTBEAT_TIMEOUT = 180  # seconds without heartbeat after which a process is gone
CLAIM_TIMEOUT = 30  # seconds without an owner after which the process that asked for it is gone
RUNG = "rung"  # user attribute: the number of the rung that the trial runs to; without, 0
CONTINUES = "continues"  # user attribute: the number of the trial that it continues
KEPT = (RUNG, CONTINUES)  # user attributes of a trial that its retry has, too
SETTINGS = "settings"  # user attribute of a study: as `search_settings` returns them
MAX_TRIES = 3  # a trial that took its worker down this often is not tried again
MAX_STARTS = 10  # nor one in which the sweep was killed this often; its runs have other processes

optuna.logging.set_verbosity(optuna.logging.WARNING)  # the sweeper logs the course of a study
# Optuna calls the heartbeat experimental, and means it for Study.optimize; a launcher of
# Hydra's, which runs several trials at a time, needs ask and tell.
warnings.filterwarnings("ignore", category=ExperimentalWarning)
warnings.filterwarnings("ignore", "Heartbeat of storage is supposed to be used")


def open_storage(sweep: SweepConfig, folder: Path) -> RDBStorage:
    """Connect to the storage of the study of the sweep in `folder`; create missing tables.

    Raises:
        UserError: there is no such storage, or no driver for it.
    """
    own = URL.create("sqlite", database=str(folder.resolve() / "study.db"))  # with % and ? quoted
    url = sweep.storage or own.render_as_string()
    sqlite = url.startswith("sqlite")
    # Many processes write to one SQLite file: they wait for one another.
    arguments = {"timeout": 60, "isolation_level": None} if sqlite else {}
    for attempt in range(5):
        try:
            storage = RDBStorage(
                url,
                engine_kwargs={"connect_args": arguments},
                heartbeat_interval=HEARTBEAT,
                grace_period=HEARTBEAT_TIMEOUT,
                heartbeat_stale_trial_callback=queue_again,
            )
            break
        except (ImportError, SQLAlchemyError, ValueError) as error:
            # two processes may be making the tables at the same time: one of them fails
            twice = isinstance(error, IntegrityError | ProgrammingError)
            if attempt < 4 and (twice or "already exists" in str(error)):
                time.sleep(0.2 * (attempt + 1))
                continue
            text = without_password(str(error).splitlines()[0])
            if isinstance(error, ImportError):
                text += ". PostgreSQL needs: pip install 'psycopg[binary]'."
            raise UserError(
                f"sweep.storage: {without_password(url)} cannot be used: {text}"
            ) from error
    if sqlite:
        # Optuna reads a trial's state and then writes it, with a row lock in between: SQLite has
        # none, and of two processes that take the same trial, both would get it.
        event.listen(storage.engine, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))
    return storage


def open_study(
    storage: RDBStorage,
    name: str,
    objectives: list[str],
    sampler: BaseSampler | None = None,
    pruner: BasePruner | None = None,
) -> Study:
    """Open the study; create it if missing.

    The first process uses the sampler's seed. The others, and those of a later start, draw
    from other streams: with the same seed, they would repeat the same points.

    Args:
        objectives: metric keys.

    Raises:
        UserError: the study is there, but has other objectives.
    """
    ways = directions_of(objectives)
    arguments: Any = {"study_name": name, "storage": storage, "sampler": sampler, "pruner": pruner}
    try:
        study = optuna.create_study(**arguments, directions=ways)
        study.set_metric_names(objectives)  # for plots; no effect on the search
        return study
    except DuplicatedStudyError:
        study = optuna.load_study(**arguments)
    found = [way.name.lower() for way in study.directions]
    if found != ways:
        raise UserError(
            f"objective: the study {name} has {len(found)} ({', '.join(found)}), and now it "
            f"would be {len(ways)} ({', '.join(ways)}). Take another sweep.name."
        )
    if sampler is not None:
        sampler.reseed_rng()
    return study


def directions_of(objectives: list[str]) -> list[Any]:
    """Return Optuna's direction for each objective, a metric key."""
    return ["maximize" if find_metric(key).higher_is_better else "minimize" for key in objectives]


def build_pruner(sweep: SweepConfig, epochs: int | None) -> BasePruner | None:
    """Build the pruner that `sweep.pruner` names; it counts in epochs.

    Median: a trial ends whose best so far is worse than the median of the others at the
    same epoch. Hyperband (Li et al. 2018): brackets of successive halving.
    """
    if sweep.pruner == "median":
        return optuna.pruners.MedianPruner(sweep.pruner_startup, sweep.pruner_warmup)
    if sweep.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(sweep.pruner_warmup, epochs or "auto")
    return None


def check_space(study: Study, space: Mapping[str, BaseDistribution]) -> None:
    """Check that earlier trials were drawn from the same keys, kinds and choices.

    Intervals may be widened and narrowed.

    Raises:
        UserError: they were drawn from another space.
    """
    for trial in study.get_trials(deepcopy=False):
        before = trial.distributions
        try:
            if trial.values and before.keys() != space.keys():  # others may lack some values
                raise ValueError
            for key, values in before.items():
                check_distribution_compatibility(values, space[key])
        except (KeyError, ValueError) as error:
            was, now = (
                ", ".join(f"{key} in {value}" for key, value in sorted(each.items())) or "nothing"
                for each in (before, space)
            )
            raise UserError(
                f"sweep.name: the study {study.study_name} searched {was}, and now it would "
                f"search {now}. Take another sweep.name."
            ) from error


def check_settings(study: Study, settings: dict[str, Any]) -> None:
    """Check that the study's trials were made with these settings; note them in a new study.

    Args:
        settings: as `search_settings` returns them.

    Raises:
        UserError: another setting, by its key.
    """
    before = study.user_attrs.get(SETTINGS)
    if before is not None or study.get_trials(deepcopy=False):  # of an earlier version: none
        reject_other_search(before, settings)
    if before is None:
        study.set_user_attr(SETTINGS, settings)


def counted_trials(study: Study) -> list[FrozenTrial]:
    """Return the trials that count towards `n_trials`: not waiting, and not tried again."""
    trials = study.get_trials(deepcopy=False)
    retried = {n for trial in trials for n in trial.system_attrs.get("retry_history", ())}
    return [
        trial
        for trial in trials
        if trial.state != TrialState.WAITING
        and trial.number not in retried
        and not trial.user_attrs.get("void")  # in studies of earlier versions
    ]


def claim(study: Study, trial: Trial) -> None:
    """Note this process as the one that runs the trial, and that it is alive.

    Raises:
        UpdateFinishedTrialError: another process has closed the trial.
    """
    # first the heartbeat: a trial without an owner is found by it
    study._storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined]
    trial.set_user_attr("owner", {"host": socket.gethostname(), "pid": os.getpid()})


def take_queued(study: Study, trial: FrozenTrial) -> Trial | None:
    """Take a waiting trial out of the queue; None if another process was quicker."""
    try:
        taken = study._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
    except UpdateFinishedTrialError:
        return None
    return Trial(study, trial._trial_id) if taken else None


def requeue_abandoned(study: Study, own: Collection[int] = ()) -> None:
    """Close the trials of processes that are gone, and queue their values.

    Args:
        own: numbers of the trials that this process runs.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if trial.number not in own and is_abandoned(trial):
            requeue(study, trial._trial_id, MAX_STARTS)
    fail_stale_trials(study)  # of other hosts; it calls queue_again


def is_abandoned(trial: FrozenTrial) -> bool:
    """Return whether a process of this host ran the trial and is gone."""
    owner = trial.user_attrs.get("owner")
    if owner is None:  # its process was killed before it could claim it, or is about to
        age = datetime.now() - (trial.datetime_start or datetime.now())
        return age > timedelta(seconds=CLAIM_TIMEOUT)
    if owner["host"] != socket.gethostname():
        return False
    earlier = owner["pid"] == os.getpid()  # a sweep of this process
    return earlier or not is_alive(owner["pid"])


def requeue(study: Study, trial_id: int, tries: int = MAX_TRIES) -> None:
    """Close a trial whose process has died, and queue its values.

    Args:
        tries: of its values in all.
    """
    try:
        study._storage.set_trial_user_attr(trial_id, "reason", "its process died")
        study._storage.set_trial_state_values(trial_id, TrialState.FAIL)
    except UpdateFinishedTrialError:  # another process was quicker
        return
    queue_again(study, deepcopy(study._storage.get_trial(trial_id)), tries)


def queue_again(study: Study, trial: FrozenTrial, tries: int = MAX_STARTS) -> None:
    """Queue the values of a closed trial, but no more than `tries` times in all."""
    log.info("trial %d: its process died; in all it is tried %d times", trial.number, tries)
    # its owner and its reason are not the next one's
    trial.user_attrs = {key: trial.user_attrs[key] for key in KEPT if key in trial.user_attrs}
    retry = RetryHeartbeatStaleTrialCallback(tries - 1, inherit_intermediate_values=True)
    retry(study, trial)


def give_back(study: Study, trial_id: int) -> None:
    """Put a trial that this process runs back into the queue, with its values."""
    with suppress(UpdateFinishedTrialError):  # it was told already
        # in this order, or another process on this host could find a dead owner in a popped trial
        study._storage.set_trial_user_attr(trial_id, "owner", None)
        study._storage.set_trial_state_values(trial_id, TrialState.WAITING)
