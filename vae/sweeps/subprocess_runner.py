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
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import parent_process
from pathlib import Path
from typing import Any

from vae.utils.compat import short_socket_paths
from vae.utils.errors import UserError, prepare_process
from vae.utils.signals import InterruptedRun, Interrupts, blocked, known_signals, signal_name

log = logging.getLogger(__name__)

AT_WORK = threading.Lock()  # held while this process waits for a run's
LINUX = sys.platform == "linux"
SCHEDULERS = {*known_signals("SIGTERM", "SIGUSR1", "SIGUSR2")}  # signals that they send
PROBABLE_CAUSES = {  # of a signal that the system sent
    "SIGKILL": ", perhaps by the system because memory ran out",
    "SIGBUS": ": a file that it reads was made shorter meanwhile (the packed images?), or its "
    "disk failed, or there is no room in /dev/shm",
}
# Imported once, by the process from which the others are forked: a start takes 20 ms then.
# loky is joblib's: from its workers, a process can only be started where it is known.
PRELOADED = ("__main__", "vae.runs.launch", "wandb", "joblib.externals.loky")


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
        UserError: the function raised it, or failed in another way (the traceback is in the
            log then), or its process died.
        InterruptedRun: SIGINT or SIGTERM came to this process; the new one has saved and ended.
        KeyboardInterrupt: a second Ctrl-C came; the new process was killed.
    """
    # A fork of this process would copy its threads' locks, but not its threads.
    # (And macOS does not let a program fork that has threads of the system's own.)
    context: Any = multiprocessing.get_context("forkserver" if LINUX else "spawn")
    if LINUX:
        context.set_forkserver_preload(list(PRELOADED))
    receiver, sender = context.Pipe(duplex=False)
    # a fork has the environment of the process that it is forked from
    surroundings = dict(os.environ), dict(logs), logging.getLogger().level
    process = context.Process(target=_answer, args=(sender, *surroundings, function, arguments))
    resource_tracker.ensure_running()  # the first process's start would, and unblock SIGTERM
    # Schedulers signal every process of a job, also the one that forks. What a signal means is
    # for this process to decide, which asks the new one to end by SIGTERM.
    try:
        with blocked(*SCHEDULERS), short_socket_paths():
            process.start()
    except (OSError, EOFError) as error:  # EOFError: the fork server has died
        raise UserError(
            f"no process can be started for a run ({type(error).__name__}: {error}). It needs "
            "memory, open files (ulimit -n), processes (ulimit -u), and a folder for temporary "
            f"files with room: {tempfile.gettempdir()}, as TMPDIR says."
        ) from error
    sender.close()
    answer: tuple[Any, str | None] | None = None
    # It is passed on at once, and once: a later SIGTERM could come when the run has saved.
    interrupts = Interrupts((signal.SIGINT, signal.SIGTERM), on_first=process.terminate)
    try:
        with interrupts, AT_WORK:
            while not wait([receiver, process.sentinel], timeout=1.0):
                if _is_orphaned():
                    process.terminate()
                    process.join()
                    os._exit(1)
            with suppress(EOFError):  # it died before it could answer
                if receiver.poll():
                    answer = receiver.recv()
            process.join()
    except BaseException:
        if not interrupts.received:  # a launcher's handler raised it: submitit's
            process.terminate()
            process.join()
        raise
    finally:
        process.kill()
    if interrupts.received:
        raise InterruptedRun(interrupts.received)
    if answer is None:
        raise UserError(_cause_of_death(process.exitcode))
    value, failure = answer
    if failure is not None:
        raise UserError(failure)
    return value


def _is_orphaned() -> bool:
    """Return whether this is a worker of joblib whose launcher is gone. (It outlives a kill.)"""
    launcher = parent_process()
    return launcher is not None and os.getppid() != launcher.pid


def end_with_launcher() -> None:
    """Start a thread that ends this idle worker of joblib when its launcher is gone."""

    def watch() -> None:
        while not (_is_orphaned() and not AT_WORK.locked()):
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _cause_of_death(exit_code: int) -> str:
    if exit_code >= 0:
        return f"its process ended with exit code {exit_code}"
    name = signal_name(-exit_code)
    return f"killed by {name}{PROBABLE_CAUSES.get(name, '')}"


def _answer(
    sender: Connection,
    environment: dict[str, str],
    logs: dict[str, Any],
    level: int,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    """Call the function in the subprocess; send back its value and why it failed, or None."""
    prepare_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_SETMASK, SCHEDULERS - {signal.SIGTERM})
    with suppress(OSError):  # when memory is short, this process goes first, not the sweep
        score = Path("/proc/self/oom_score_adj")  # Ray's workers have 1000
        score.write_text(str(max(500, int(score.read_text()))))
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    os.environ.clear()
    os.environ.update(environment)
    logging.config.dictConfig(logs)
    logging.getLogger().setLevel(level)
    value = failure = None
    try:
        value = function(*arguments)
    except UserError as error:
        failure = str(error)
    except InterruptedRun as error:
        failure = f"ended by {error}"
    except Exception as error:
        log.exception("the run failed")
        failure = f"{type(error).__name__}: {error}"
    with suppress(OSError):  # the caller may be gone
        sender.send((value, failure))


def _end_with_the_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)  # so that it saves
