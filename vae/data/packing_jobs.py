"""Packing jobs, done by several processes, and the journal of finished jobs."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

from vae.data.base import ImageError, ImageSource

POOL_PAYS_FROM = 5.0  # seconds of work: starting workers takes one to three


class Job(NamedTuple):
    """Images [start, stop) of a split, and the file position to write them to."""

    split: str
    start: int
    stop: int
    file: Path
    byte: int
    size: int  # of an image's side, pixels
    skip: bool  # go on where an image cannot be read


class JobResult(NamedTuple):
    """The result of a job: one line of the journal."""

    split: str
    start: int
    stop: int
    checksum: int  # CRC-32 of the bytes that were written
    skipped: list[tuple[int, str]]  # number and reason of each image that cannot be read


class Journal:
    """The finished jobs of this packing and of interrupted ones before it.

    What an earlier one noted counts only if the file still holds those bytes: a machine
    that lost power may have kept the line and not the image data.
    """

    NAME = "journal.jsonl"

    def __init__(self, folder: Path, jobs: list[Job]) -> None:
        by_place = {(job.split, job.start, job.stop): job for job in jobs}
        done = {}
        for one in _lines(folder / self.NAME):
            job = by_place.get((one.split, one.start, one.stop))
            # Images that could not be read may have been mended: they are tried again.
            if job and not one.skipped and _checksum(job) == one.checksum:
                done[job] = one
        self.done = list(done.values())
        self.left = [job for job in jobs if job not in done]
        self._file = open(folder / self.NAME, "a", encoding="utf-8")  # noqa: SIM115 - closed on exit
        self._file.write("\n")  # the last line may be half there

    def note(self, done: JobResult) -> None:
        """Append a line and flush it to the system, so that SIGKILL does not lose it."""
        self._file.write(json.dumps(done) + "\n")
        self._file.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()


def _lines(file: Path) -> Iterator[JobResult]:
    with suppress(FileNotFoundError), open(file, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with suppress(ValueError, TypeError):  # lines of another format
                yield JobResult(*json.loads(line))


def _checksum(job: Job) -> int:
    with open(job.file, "rb") as file:
        file.seek(job.byte)
        return zlib.crc32(file.read((job.stop - job.start) * 3 * job.size**2))


def run_jobs(
    source: ImageSource, jobs: list[Job], workers: int | None, report: Callable[[JobResult], object]
) -> None:
    """Run each job and report each result, in any order.

    Args:
        source: picklable, where there is enough to do for workers.
        jobs: what to read, and where to write it.
        workers: processes; None for one a core.
        report: called in this process.

    Raises:
        ImageError: an image cannot be read, and skipping is not configured.
        OSError: the disk is full.
        BrokenProcessPool: a worker process was killed.
    """
    if not jobs:
        return
    # The first job, done here, tells whether the rest is worth starting workers for.
    started = time.monotonic()
    report(_do(source, jobs[0]))
    rest = jobs[1:]
    work = (time.monotonic() - started) * len(rest)
    workers = min(workers or _cores(), len(rest))
    # A daemonic process (a multiprocessing pool's) may not have children.
    daemon = multiprocessing.current_process().daemon
    if workers <= 1 or work < POOL_PAYS_FROM or daemon:
        for job in rest:
            report(_do(source, job))
    else:
        _do_in_workers(source, rest, workers, report)


def _cores() -> int:
    """Return the number of cores that this process may use: Slurm grants fewer than all."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _do(source: ImageSource, job: Job) -> JobResult:
    """Read a job's images and write them.

    By write() and not through a memory map, where a full disk would kill the process.
    """
    images, skipped = _read(source, job)
    content = np.ascontiguousarray(images, np.uint8).data
    with open(job.file, "rb+") as file:
        file.seek(job.byte)
        file.write(content)
    return JobResult(job.split, job.start, job.stop, zlib.crc32(content), skipped)


def _read(source: ImageSource, job: Job) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """Read a job's images, zeros for unreadable ones, and the reasons."""
    try:
        return source.read(job.split, job.start, job.stop), []
    except ImageError:
        if not job.skip:
            raise
    images = np.zeros((job.stop - job.start, job.size, job.size, 3), np.uint8)
    skipped = []
    for number in range(job.start, job.stop):
        try:
            images[number - job.start] = source.read(job.split, number, number + 1)[0]
        except ImageError as error:
            skipped.append((number, str(error)))
    return images, skipped


def _do_in_workers(
    source: ImageSource, jobs: list[Job], workers: int, report: Callable[[JobResult], object]
) -> None:
    # Spawned, since a fork of a process with threads (torch's) can hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker, (source,))
    try:
        with _interrupts_blocked():
            running = [pool.submit(_do_in_worker, job) for job in jobs]
        for done in as_completed(running):
            report(done.result())
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block SIGINT, in this process and in those started inside the block."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_source: ImageSource | None = None  # a worker's copy: sent once, and not with every job


def _start_worker(source: ImageSource) -> None:
    global _source
    _source = source
    os.environ["OMP_NUM_THREADS"] = "1"  # a worker a core: threads would only get in the way
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, who stops us
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Exit when the parent process is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _do_in_worker(job: Job) -> JobResult:
    assert _source is not None
    return _do(_source, job)
