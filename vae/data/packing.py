"""A source's images into .npy files, by as many processes as there are cores."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vae.data.source import DataConfig, ImageSource

CHUNK = 64  # images a job: 12 MB in memory at 256 px
POOL_PAYS_FROM = 5.0  # seconds of work: starting workers takes one to three


class Job(NamedTuple):
    """Images [start, stop) of a split, to be written into a file from a byte on."""

    split: str
    start: int
    stop: int
    file: Path
    byte: int


def pack_images(source: ImageSource, config: DataConfig, folder: Path) -> None:
    """Write `<split>.npy`, (n, size, size, 3) uint8, of each split into a folder.

    A bar on stderr shows the progress.

    Raises:
        UserError: an image cannot be read.
        OSError: the disk is full.
        BrokenProcessPool: a worker process was killed.
    """
    from tqdm import tqdm

    sizes = source.sizes()
    size = config.image_size
    jobs = []
    for split, count in sizes.items():
        file = folder / f"{split}.npy"
        # Only lays out the file (header, then zeros): the jobs write into it.
        first = np.lib.format.open_memmap(file, "w+", np.uint8, (count, size, size, 3)).offset
        for start in range(0, count, CHUNK):
            stop = min(start + CHUNK, count)
            jobs.append(Job(split, start, stop, file, first + start * 3 * size**2))
    with tqdm(
        total=sum(sizes.values()),
        desc=f"packing {source.name} {size} px",
        unit=" images",
        mininterval=0.2 if sys.stderr.isatty() else 10,  # a log file wants fewer lines
    ) as bar:
        # The first job, done here, tells whether the rest is worth starting workers for.
        started = time.monotonic()
        bar.update(_do(source, jobs[0]))
        rest = jobs[1:]
        work = (time.monotonic() - started) * len(rest)
        workers = min(config.num_workers or _cores(), len(rest))
        # A daemonic process (a multiprocessing pool's) may not have children.
        daemon = multiprocessing.current_process().daemon
        if workers <= 1 or work < POOL_PAYS_FROM or daemon:
            for job in rest:
                bar.update(_do(source, job))
        else:
            _do_in_workers(source, rest, workers, bar.update)


def _cores() -> int:
    """Cores this process may use: fewer than the machine's in a container or a Slurm job."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _do(source: ImageSource, job: Job) -> int:
    """Read a job's images and write them; how many.

    By write() and not through a memory map, where a full disk would kill the process.
    """
    images = source.read(job.split, job.start, job.stop)
    with open(job.file, "rb+") as file:
        file.seek(job.byte)
        file.write(images.astype(np.uint8, copy=False).tobytes())
    return job.stop - job.start


def _do_in_workers(
    source: ImageSource, jobs: list[Job], workers: int, report: Callable[[int], object]
) -> None:
    # Spawned, since a fork of a process with threads (torch's) can hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker, (source,))
    try:
        for done in as_completed([pool.submit(_do_in_worker, job) for job in jobs]):
            report(done.result())
    finally:
        pool.shutdown(cancel_futures=True)


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
    """A killed parent cannot stop its workers, and they would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _do_in_worker(job: Job) -> int:
    assert _source is not None
    return _do(_source, job)
