"""Jobs of a search that run at once, through any launcher of Hydra's."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn

Key = TypeVar("Key")
# Of joblib, submitit and Ray, which are not imported for it: a worker died with its run.
LOST_WORKERS = ("UncompletedJobError",)


def is_lost_worker(error: BaseException) -> bool:
    """Return whether a launcher's error means that a worker has died."""
    return isinstance(error, BrokenProcessPool) or type(error).__name__ in LOST_WORKERS


class Jobs(Generic[Key]):
    """Start jobs one by one, several at once, and take their results as they end.

    A launcher of Hydra's takes a batch, and returns when the slowest job of it has ended. So
    each job is a batch of its own: in this thread if there is one job at a time (the launcher may
    train in this process), else in a thread of its own, which waits for a worker.

    Args:
        launch: Hydra's: (overrides of each job, number of the first).
    """

    def __init__(self, launch: Callable[..., Sequence[JobReturn]]) -> None:
        self.launch = launch
        self.at_work = 0
        self._ended: queue.SimpleQueue[tuple[Key, JobReturn | BaseException]] = queue.SimpleQueue()

    def start(self, key: Key, overrides: list[str], number: int, *, alone: bool) -> None:
        """Start a job.

        Args:
            key: `wait` returns it with the job's result.
            overrides: of the job.
            number: of the job, for Hydra.
            alone: whether jobs run one at a time: it has ended then when this returns.
        """
        self.at_work += 1
        if alone:
            self._run(key, overrides, number)
            return
        arguments = (key, overrides, number)
        threading.Thread(target=self._run, args=arguments, daemon=True).start()

    def wait(self) -> tuple[Key, JobReturn | Exception]:
        """Wait for the next job that ends; return its key, and its result or the launcher's error.

        Raises:
            BaseException: what ended the job and is no Exception, such as SystemExit.
        """
        key, ended = self._ended.get()
        self.at_work -= 1
        if isinstance(ended, BaseException) and not isinstance(ended, Exception):
            raise ended
        return key, ended

    def _run(self, key: Key, overrides: list[str], number: int) -> None:
        ended: JobReturn | BaseException
        try:
            (ended,) = self.launch([overrides], initial_job_idx=number)
        except BaseException as error:
            ended = error
        self._ended.put((key, ended))
