"""Call a function in a subprocess that may die without the caller.

A run of a sweep that takes too much memory is killed by the system. In a process of its
own it dies alone, and its resources (memory, the GPU, threads) are free for the next run.
"""

from __future__ import annotations

import logging
import logging.config
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess, parent_process
from pathlib import Path
from typing import Any

from vae.utils.errors import UserError
from vae.utils.signals import InterruptedRun

log = logging.getLogger(__name__)

LINUX = sys.platform == "linux"
LAUNCHER = os.getppid()  # whose worker this process is, if it is one
SCHEDULERS = {signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}  # signals that they send
# Imported once, by the process from which the others are forked: a start takes 20 ms then.
# loky is joblib's: from its workers, a process can only be started where it is known.
PRELOADED = ("__main__", "vae.runs.launch", "wandb", "joblib.externals.loky")


class SubprocessFailedError(UserError):
    """The subprocess died, or the function raised an error that is not a UserError."""


def run_in_subprocess(
    function: Callable[..., Any], *arguments: Any, logs: Mapping[str, Any]
) -> Any:
    """Call `function(*arguments)` in a new process; all are pickled.

    The process is asked to end (SIGTERM) when this one is interrupted, and when this one
    dies, be it by SIGKILL. Ctrl-C reaches it through this one only.

    Args:
        function: importable by its name.
        logs: how the new process logs, for logging.config.dictConfig.

    Raises:
        UserError: the function raised it, or failed in another way; the traceback is
            in the log then.
        InterruptedRun: SIGTERM came to this process.
    """
    # A fork of this process would copy its threads' locks, but not its threads.
    # (And macOS does not let a program fork that has threads of the system's own.)
    context: Any = multiprocessing.get_context("forkserver" if LINUX else "spawn")
    if LINUX:
        context.set_forkserver_preload(list(PRELOADED))
    receiver, sender = context.Pipe(duplex=False)
    environment = dict(os.environ)  # a fork has that of the process it is forked from
    level = logging.getLogger().level
    process = context.Process(
        target=_answer, args=(sender, function, arguments, environment, dict(logs), level)
    )
    resource_tracker.ensure_running()  # the first process's start would, and unblock SIGTERM
    with _blocked():
        process.start()
    sender.close()
    try:
        with _sigterm_passed_on(process):
            while not wait([receiver, process.sentinel], timeout=1.0):
                if _launcher_is_gone():  # nobody is left to answer to
                    process.terminate()
                    process.join()
                    os._exit(1)
            outcome = receiver.recv() if receiver.poll() else None
            process.join()
    except EOFError:  # it died before it could answer
        process.join()
        outcome = None
    finally:  # here by Ctrl-C or a scheduler's signal: it saves and ends; or, the second time, ends
        if process.is_alive():
            process.terminate()
            try:
                process.join()
            finally:
                process.kill()
    return _result(outcome, process.exitcode)


def _launcher_is_gone() -> bool:
    """Return whether the launcher is gone; joblib's workers outlive it when it is killed."""
    return parent_process() is not None and os.getppid() != LAUNCHER


def _result(outcome: tuple[str, Any] | None, exit_code: int | None) -> Any:
    if outcome is None:
        assert exit_code is not None
        if exit_code == -signal.SIGKILL:
            raise SubprocessFailedError(
                "killed by SIGKILL, perhaps by the system for want of memory"
            )
        killer = f"killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else None
        raise SubprocessFailedError(killer or f"its process ended with exit code {exit_code}")
    kind, value = outcome
    if kind == "returned":
        return value
    raise UserError(value) if kind == "refused" else SubprocessFailedError(value)


@contextmanager
def _blocked() -> Iterator[None]:
    """Block scheduler signals in processes started inside the block.

    A scheduler sends them to every process of a job, also to the one that forks. What they
    mean is for the caller to decide, who asks the new process to end by SIGTERM.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SCHEDULERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _sigterm_passed_on(process: BaseProcess) -> Iterator[None]:
    """Forward SIGTERM to the subprocess, which saves; then interrupt this process."""
    received = []

    def pass_on(number: int, frame: object) -> None:
        received.append(number)
        process.terminate()

    here = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, pass_on) if here else None
    try:
        yield
    finally:
        if here:
            signal.signal(signal.SIGTERM, before)
    if received:
        raise InterruptedRun(signal.SIGTERM)


def _answer(
    sender: Connection,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    environment: dict[str, str],
    logs: dict[str, Any],
    level: int,
) -> None:
    """Call the function in the subprocess and send (kind, value) back."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, SCHEDULERS - {signal.SIGTERM})
    with suppress(OSError):  # when memory is short, this process goes first, not the sweep
        Path("/proc/self/oom_score_adj").write_text("500")
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    os.environ.clear()
    os.environ.update(environment)
    logging.config.dictConfig(logs)
    logging.getLogger().setLevel(level)
    try:
        outcome = "returned", function(*arguments)
    except UserError as error:
        outcome = "refused", str(error)
    except InterruptedRun as error:
        outcome = "failed", f"ended by {error}"
    except Exception as error:
        log.exception("the run failed")
        outcome = "failed", f"{type(error).__name__}: {error}"
    with suppress(OSError):  # the caller may be gone
        sender.send(outcome)


def _end_with_the_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
