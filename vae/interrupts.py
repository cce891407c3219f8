"""Ctrl-C and SIGTERM end a run between two steps, not in the middle of one."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class InterruptedRun(KeyboardInterrupt):
    """A signal was received, and the step that it fell into has been finished."""


class Interrupts:
    """A context manager: `received` turns true at the first SIGINT or SIGTERM.

    The loop looks at it after each step, so the weights are never half updated when
    they are saved. A second signal acts at once, as it would without this. Outside the
    main thread, where Python delivers no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}
