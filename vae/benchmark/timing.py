"""Timing: measurements in processes that take turns, and statistics of repeated rounds.

An allocator's setting cannot be undone within a process, nor the state that a compiler or a
thread pool leaves behind. Taking turns (A B C A B C ...) spreads other load over all of them.
"""

from __future__ import annotations

import math
import multiprocessing
import signal
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch

from vae.utils.errors import UserError

WARM_UP = 2  # calls before timing: memory, kernels and caches find their places

Figures: TypeAlias = dict[str, float]  # of one round, by name
Measure: TypeAlias = Callable[[], Figures]  # one round
Prepare: TypeAlias = Callable[[], Measure]  # picklable: it is called in the worker
Series: TypeAlias = dict[str, list[float]]  # the rounds' figures, by name

_measure: Measure  # of this worker process


def measure_in_turns(prepares: Mapping[str, Prepare], threads: int | None, rounds: int) -> Series:
    """Prepare each measurement in a process of its own, then measure each once per round.

    Args:
        prepares: by name, for messages.
        threads: CPU threads of each process; None: torch's own choice.
        rounds: int >= 1.

    Raises:
        UserError: a process died; its own traceback, if it had one, is on stderr.
    """
    series: Series = {}
    # spawn: a process forked from one that has computed would have half of its threads
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(ProcessPoolExecutor(1, context, _start, (prepare, threads)))
            for name, prepare in prepares.items()
        }
        for task in [dict] + [_round] * rounds:  # a worker prepares itself before its first
            for name, worker in workers.items():
                try:
                    figures = worker.submit(task).result()
                except BrokenProcessPool as error:
                    raise UserError(
                        f"{name}: its process died; its output is above. If there is none, it "
                        "was killed, perhaps because memory ran out."
                    ) from error
                for key, value in figures.items():
                    series.setdefault(key, []).append(value)
    return series


def _start(prepare: Prepare, threads: int | None) -> None:
    """Prepare the measurement of this worker process."""
    global _measure
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    if threads:
        torch.set_num_threads(threads)
    _measure = prepare()


def _round() -> Figures:
    return _measure()


def timer(work: Callable[[], object], device: str, seconds: float) -> Callable[[], float]:
    """Return a function that times `work`, repeated equally often in every round.

    Args:
        work: called a few times at once, for warming up.
        device: where it computes.
        seconds: for how long to repeat it, about; at least one call.

    Returns:
        A function that returns the seconds per call, including the device's pending work.
    """

    def measure(calls: int) -> float:
        synchronize(device)
        started = time.perf_counter()
        for _ in range(calls):
            work()
        synchronize(device)
        return (time.perf_counter() - started) / calls

    measure(WARM_UP)
    return partial(measure, math.ceil(seconds / measure(1)))


def synchronize(device: str) -> None:
    """Wait for the device's pending work; a CPU has none."""
    if device != "cpu":
        torch.accelerator.synchronize()


def summarize(values: Sequence[float]) -> dict[str, Any]:
    """Return the median, the quartiles (interpolated linearly) and every round."""
    low, median, high = np.percentile(values, [25, 50, 75]).tolist()
    return {"median": median, "low": low, "high": high, "values": list(values)}


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median over the rounds of ours / theirs.

    Round by round, as what slows a machine down for seconds slows both.
    """
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
