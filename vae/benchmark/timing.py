"""Timing: work in processes that take turns, and statistics of repeated rounds.

An allocator's setting cannot be undone within a process, nor the state that a compiler or a
thread pool leaves behind. Taking turns (A B C A B C ...) spreads other load over all of them.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch

from vae.utils.errors import UserError

BUSY_CORES = 0.25  # cores that other processes may take in a round that counts
MIN_QUIET_ROUNDS = 3  # quiet rounds without which all rounds count

WARM_UP = 2  # calls before timing: memory, kernels and caches find their places
LINUX = sys.platform == "linux"

Figures: TypeAlias = dict[str, float]  # of one round, by name
Measure: TypeAlias = Callable[[], Figures]  # one round
Prepare: TypeAlias = Callable[[], Measure]  # picklable: it is called in the worker


class Sample(NamedTuple):
    """Return one round's value."""

    value: float
    others: float  # cores that other processes took meanwhile; 0 where it is not known


Series = Sequence[Sample]  # by round


def undisturbed_rounds(*series: Series) -> list[int]:
    """Return the rounds in which no series was disturbed by other processes.

    All rounds where fewer than `MIN_QUIET_ROUNDS` were quiet: a median of one or two says less than
    one of a busy machine does.
    """
    rounds = range(len(series[0]))
    quiet = [i for i in rounds if all(samples[i].others <= BUSY_CORES for samples in series)]
    return quiet if len(quiet) >= MIN_QUIET_ROUNDS else list(rounds)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return lower quartile, median and upper quartile, interpolated linearly."""
    if len(values) == 1:
        return (values[0],) * 3
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def summarize(samples: Series) -> dict[str, Any]:
    """Return the median, the quartiles, the number of dropped rounds, and every round."""
    rounds = undisturbed_rounds(samples)
    low, median, high = quartiles([samples[i].value for i in rounds])
    return {
        "median": median,
        "low": low,
        "high": high,
        "dropped": len(samples) - len(rounds),
        "values": [sample.value for sample in samples],
        "others": [sample.others for sample in samples],
    }


def median_ratio(ours: Series, theirs: Series) -> float:
    """Return the median over the rounds of ours / theirs.

    Round by round, as what slows a machine down for seconds slows both.
    """
    return statistics.median(
        ours[i].value / theirs[i].value for i in undisturbed_rounds(ours, theirs)
    )


def synchronize(device: str) -> None:
    """Wait for the device's pending work; a CPU has none."""
    if device != "cpu":
        torch.accelerator.synchronize()


def seconds_per_call(work: Callable[[], object], calls: int, device: str) -> float:
    """Return the seconds per call, including the device's pending work."""
    synchronize(device)
    started = time.perf_counter()
    for _ in range(calls):
        work()
    synchronize(device)
    return (time.perf_counter() - started) / calls


class Timer:
    """Time a function by calling it repeatedly, equally often in every round.

    Args:
        work: called a few times at once, for warming up.
        device: where it computes.
        seconds: for how long to repeat it, about; at least one call.
    """

    def __init__(self, work: Callable[[], object], device: str, seconds: float) -> None:
        self.work = work
        self.device = device
        for _ in range(WARM_UP):
            work()
        self.calls = math.ceil(seconds / seconds_per_call(work, 1, device))

    def __call__(self) -> float:
        """Return the seconds per call in this round."""
        return seconds_per_call(self.work, self.calls, self.device)


class OtherProcesses:
    """Measure the cores that other processes use, from now on.

    Linux tells; elsewhere it is always 0.
    """

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.busy = busy_seconds() - own_seconds()

    def cores(self) -> float:
        """Return the average number of cores since this object was created."""
        seconds = busy_seconds() - own_seconds() - self.busy
        return max(0.0, seconds / (time.perf_counter() - self.started))


def busy_seconds() -> float:
    """Return the busy seconds of all cores, including steal time."""
    if not LINUX:
        return 0.0
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """Return the busy seconds of this process and its children."""
    if not LINUX:
        return 0.0
    living = sum(_process_seconds(child.pid) for child in multiprocessing.active_children())
    return living + sum(os.times()[:4])  # user and system, its own and of children that ended


def _process_seconds(pid: int | None) -> float:
    """Return the busy seconds of a running child, which os.times() does not count yet."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:  # it has just ended
        return 0.0
    user, system = stat.rpartition(")")[2].split()[11:13]  # fields 14 and 15 of proc(5)
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


class Worker:
    """A process that measures one round on request, and sleeps otherwise.

    Args:
        name: for messages.
        prepare: builds the measurement; the constructor waits for it.
        threads: CPU threads of the process; None: torch's own choice.

    Raises:
        UserError: the process died; its own traceback, if it had one, is on stderr.
    """

    def __init__(self, name: str, prepare: Prepare, threads: int | None) -> None:
        self.name = name
        # spawn: a process forked from one that has computed would have half of its threads
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, prepare, threads))
        self.process.start()
        theirs.close()  # so that its end is seen here
        self._receive()

    def round(self) -> dict[str, Sample]:
        """Return one round's value."""
        self.connection.send("round")
        return self._receive()

    def close(self) -> None:
        """End the process and wait for its end."""
        self.connection.close()
        self.process.join()

    def _receive(self) -> dict[str, Sample]:
        try:
            found: dict[str, Sample] = self.connection.recv()
        except EOFError:
            self.process.join()
            raise UserError(
                f"{self.name}: measuring it ended with code {self.process.exitcode}; "
                "its output is above (-9: killed, perhaps out of memory)."
            ) from None
        return found


def _serve(connection: Connection, prepare: Prepare, threads: int | None) -> None:
    """Serve rounds until the other end of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one at the other end
    if threads:
        torch.set_num_threads(threads)
    measure = prepare()
    with suppress(EOFError, ConnectionError):
        connection.send({})
        while connection.recv():
            others = OtherProcesses()
            figures = measure()
            cores = others.cores()
            connection.send({name: Sample(value, cores) for name, value in figures.items()})


@contextmanager
def running_workers(prepares: dict[str, Prepare], threads: int | None) -> Iterator[list[Worker]]:
    """Start one worker per measurement and stop them on exit."""
    workers: list[Worker] = []
    try:
        for name, prepare in prepares.items():
            workers.append(Worker(name, prepare, threads))
        yield workers
    finally:
        for worker in workers:
            worker.close()


def run_interleaved(
    rounds: int, turns: Sequence[Callable[[], dict[str, Sample]]]
) -> dict[str, Series]:
    """Call every turn once per round, in order; return the samples by name."""
    series: dict[str, list[Sample]] = {}
    for _ in range(rounds):
        for turn in turns:
            for name, sample in turn().items():
                series.setdefault(name, []).append(sample)
    return dict(series)
