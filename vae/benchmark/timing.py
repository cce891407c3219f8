"""How long work takes, and how much of the processor others took meanwhile."""

from __future__ import annotations

import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

WARM_UP = 2  # calls before timing: memory, kernels and caches find their places
LINUX = sys.platform == "linux"


def synchronize(device: str) -> None:
    """Wait until a device has done what it was given; a CPU always has."""
    if device != "cpu":
        torch.accelerator.synchronize()


def seconds_per_call(work: Callable[[], object], calls: int, device: str) -> float:
    """Seconds that one of so many calls takes, until the device has done them all."""
    synchronize(device)
    started = time.perf_counter()
    for _ in range(calls):
        work()
    synchronize(device)
    return (time.perf_counter() - started) / calls


class Timer:
    """Times a piece of work by calling it again and again, equally often in every round.

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
        """Seconds a call, in this round."""
        return seconds_per_call(self.work, self.calls, self.device)


class Others:
    """How many cores processes other than this one and its children take, from now on.

    Linux tells; elsewhere it is always 0.
    """

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.busy = busy_seconds() - own_seconds()

    def cores(self) -> float:
        """Cores, on average, since this object was made."""
        seconds = busy_seconds() - own_seconds() - self.busy
        return max(0.0, seconds / (time.perf_counter() - self.started))


def busy_seconds() -> float:
    """Seconds that all cores together have worked, also for other machines on the same host."""
    if not LINUX:
        return 0.0
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """Seconds that cores have worked for this process and its children."""
    if not LINUX:
        return 0.0
    living = sum(_process_seconds(child.pid) for child in multiprocessing.active_children())
    return living + sum(os.times()[:4])  # user and system, its own and of children that ended


def _process_seconds(pid: int | None) -> float:
    """Of a living child: os.times() counts it when it has ended only."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:  # it has just ended
        return 0.0
    user, system = stat.rpartition(")")[2].split()[11:13]  # fields 14 and 15 of proc(5)
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
