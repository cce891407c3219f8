"""The Optuna study of a sweep, shared by all participating processes.

Trials of a process that is gone are taken back: closed, and put in the queue again, so
that the next ask gets the same values and the run goes on from its checkpoint.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vae.runs.config import SweepConfig
from vae.utils.errors import UserError, without_password
from vae.utils.metric_registry import higher_is_better

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

Direction = Literal["minimize", "maximize"]
HEARTBEAT_TIMEOUT = 180.0  # seconds without heartbeat after which a remote process is gone
MAX_TRIES = 3  # a trial that took its process down this often is not tried again


def storage_url(sweep: SweepConfig, folder: Path) -> str:
    """Return the storage URL of the study of the sweep in `folder`."""
    from sqlalchemy import URL

    own = URL.create("sqlite", database=str(folder.resolve() / "study.db"))  # with % and ? quoted
    return sweep.storage or own.render_as_string()


def directions(objectives: list[str]) -> list[Direction]:
    """Return the direction of each objective."""
    return ["maximize" if higher_is_better(key) else "minimize" for key in objectives]


def open_storage(url: str) -> RDBStorage:
    """Connect to the storage; create missing tables.

    Raises:
        UserError: there is no such storage, or no driver for it.
    """
    import sqlalchemy.exc
    from optuna.storages import RDBStorage

    # Many processes write to one SQLite file: they wait for one another.
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    for attempt in range(5):
        try:
            storage = RDBStorage(url, engine_kwargs=options)
            if url.startswith("sqlite"):
                _lock_when_reading(storage)
            return storage
        except ImportError as error:
            raise UserError(
                f"sweep.storage: {without_password(url)} needs a driver ({error}). For PostgreSQL: "
                "pip install 'psycopg[binary]'."
            ) from error
        except (sqlalchemy.exc.SQLAlchemyError, ValueError) as error:
            # two processes may be making the tables at the same time: one of them fails
            made_twice = isinstance(
                error, sqlalchemy.exc.IntegrityError | sqlalchemy.exc.ProgrammingError
            ) or "already exists" in str(error)
            if not made_twice or attempt == 4:
                text = str(error).splitlines()[0]
                raise UserError(
                    f"sweep.storage: {without_password(url)} cannot be used: {text}"
                ) from error
            time.sleep(0.2 * (attempt + 1))
    raise AssertionError


def _lock_when_reading(storage: RDBStorage) -> None:
    """Begin SQLite transactions with the write lock.

    Optuna reads a trial's state and then writes it, with a row lock in between: SQLite has
    none, and of two processes that take the same trial, both would get it.
    """
    from sqlalchemy import event

    @event.listens_for(storage.engine, "connect")
    def leave_transactions_to_us(connection: Any, record: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(storage.engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    storage.engine.dispose()  # the connections from before


def open_study(
    storage: RDBStorage,
    name: str,
    ways: list[Direction],
    sampler: BaseSampler | None = None,
    pruner: BasePruner | None = None,
) -> Study:
    """Open the study; create it if missing.

    The first process to come uses the sampler's seed; the others, and those of a later
    start, draw from other streams: with the same seed, they would repeat the same points.

    Raises:
        UserError: the study is there, but has other objectives.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # what matters, the sweeper says
    arguments: dict[str, Any] = {"study_name": name, "storage": storage}
    arguments |= {"sampler": sampler, "pruner": pruner}
    try:
        return optuna.create_study(**arguments, directions=ways)
    except optuna.exceptions.DuplicatedStudyError:
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


def build_pruner(sweep: SweepConfig, epochs: int | None) -> BasePruner | None:
    """Build the pruner that `sweep.pruner` names; it counts in epochs.

    Median: a trial ends whose best so far is worse than the median of the others at the
    same epoch. Hyperband (Li et al. 2018): brackets of successive halving.
    """
    import optuna

    if sweep.pruner == "median":
        return optuna.pruners.MedianPruner(sweep.pruner_startup, sweep.pruner_warmup)
    if sweep.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(sweep.pruner_warmup, epochs or "auto")
    return None


def check_space(study: Study, space: Mapping[str, BaseDistribution]) -> None:
    """Raise a UserError if earlier trials were drawn from another space."""
    from optuna.distributions import CategoricalDistribution

    for trial in study.get_trials(deepcopy=False):
        for key, before in trial.distributions.items():
            now = space.get(key)
            categorical = CategoricalDistribution
            changed = type(before) is not type(now) or (
                isinstance(before, categorical) and before != now
            )
            if changed or set(trial.distributions) != set(space):
                raise UserError(
                    f"sweep.name: the study {study.study_name} searched "
                    f"{_described(trial.distributions)}, and now it would search "
                    f"{_described(space)}. Take another sweep.name."
                )


def _described(space: Mapping[str, BaseDistribution]) -> str:
    return ", ".join(f"{key} in {value}" for key, value in sorted(space.items())) or "nothing"


class Participant:
    """A process that takes part in a study and sends heartbeats."""

    def __init__(self) -> None:
        self.host, self.pid = socket.gethostname(), os.getpid()
        self.token = uuid.uuid4().hex  # two sweeps may follow one another in a process

    def heartbeat(self) -> dict[str, Any]:
        """Return the heartbeat of this process, for a trial's user attributes."""
        return {"host": self.host, "pid": self.pid, "token": self.token, "seen": time.time()}

    def is_abandoned(self, trial: FrozenTrial) -> bool:
        """Return whether the process that runs `trial` is gone."""
        owner = trial.user_attrs.get("owner")
        if owner is None:  # killed before it was set, or a trial of another program
            started = trial.datetime_start
            return started is not None and time.time() - started.timestamp() > HEARTBEAT_TIMEOUT
        if owner["token"] == self.token:
            return False
        here = owner["host"] == self.host
        if here and (owner["pid"] == self.pid or not _is_alive(owner["pid"])):
            return True
        return bool(time.time() - owner["seen"] > HEARTBEAT_TIMEOUT)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def counts_towards_total(trial: FrozenTrial) -> bool:
    """Return whether a trial counts towards `n_trials`: not waiting, not requeued."""
    return trial.state.name != "WAITING" and not trial.user_attrs.get("void")


def requeue(
    study: Study, storage: RDBStorage, trial: FrozenTrial, keys: set[str], orderly: bool = False
) -> None:
    """Close an interrupted trial and requeue its values.

    Args:
        keys: of its values, when it has them all.
        orderly: it was interrupted by somebody, and has taken no process down.
    """
    tries = trial.user_attrs.get("tries", 1) - orderly
    complete = set(trial.params) == keys  # else killed before it had all its values
    given_up = complete and tries >= MAX_TRIES
    try:
        storage.set_trial_user_attr(trial._trial_id, "void", not given_up)
        close_failed(study, storage, trial.number, f"cut {tries} times" if given_up else "cut")
    except (ValueError, RuntimeError):  # another process was quicker
        return
    if complete and not given_up:
        study.enqueue_trial(trial.params, user_attrs={"tries": tries + 1})


def close_failed(study: Study, storage: RDBStorage, number: int, reason: str) -> None:
    """Tell the study that a trial failed, with the reason."""
    from optuna.trial import TrialState

    trial_id = storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
    storage.set_trial_user_attr(trial_id, "reason", reason)
    study.tell(number, state=TrialState.FAIL)
