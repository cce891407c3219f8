"""Ends of a run before its last step: by Ctrl-C, a scheduler's signals, a search."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from vae.utils.distributed import all_max


def known_signals(*names: str) -> tuple[signal.Signals, ...]:
    """Return those of the signals that this system has."""
    return tuple(signal.Signals[name] for name in names if hasattr(signal, name))


def signal_name(number: int) -> str:
    """Return the name of a signal, "signal 40" for a number without one.

    >>> signal_name(2)
    'SIGINT'
    """
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


# systemd, Kubernetes and Slurm end a job by SIGTERM; Slurm warns by SIGUSR1 where asked to
# (sbatch --signal=USR1@60). Windows has no SIGUSR1.
SIGNALS = known_signals("SIGINT", "SIGTERM", "SIGUSR1")


class InterruptedRun(KeyboardInterrupt):
    """A signal was received; the current step was finished.

    Args:
        number: the signal.
    """

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number)
        self.number = number
        self.exit_code = 128 + number  # as shells count: 130 for Ctrl-C, 143 for SIGTERM

    def __str__(self) -> str:
        return self.number.name


class PrunedRun(Exception):  # noqa: N818 - nothing is wrong with it
    """The search ended this run of a sweep."""


def stop_if_interrupted(interrupts: Interrupts) -> None:
    """Raise an InterruptedRun on all ranks if a signal came to one of them."""
    if all_max(bool(interrupts.received)):
        raise InterruptedRun(interrupts.received or signal.SIGTERM)  # another rank's


class Interrupts:
    """A context manager that records the first of some signals as `received`.

    The loop looks at it after each step, so the weights are never half updated when
    they are saved. A second Ctrl-C acts at once, as it would without this; other
    signals do not, since schedulers send several. A signal that the process ignores
    stays ignored. Outside the main thread, where Python delivers no signals, and
    unless it is entered, it does nothing.

    Args:
        numbers: the signals.
        on_first: called at the first one, in its handler.
    """

    def __init__(
        self,
        numbers: Iterable[signal.Signals] = SIGNALS,
        on_first: Callable[[], object] = lambda: None,
    ) -> None:
        self.numbers, self.on_first = numbers, on_first
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}  # handlers

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in self.numbers:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number)
            self.on_first()
        if signal.SIGINT in self._before:
            signal.signal(signal.SIGINT, self._before[signal.SIGINT])


@contextmanager
def blocked(*numbers: signal.Signals) -> Iterator[None]:
    """Block signals in this thread, and for good in processes that are started inside the block.

    Windows cannot block signals: nothing is blocked there.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
