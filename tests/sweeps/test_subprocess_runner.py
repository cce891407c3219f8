"""Calls in a subprocess: results, errors, signals."""

import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support import subprocess_functions
from tests.support.subprocess_functions import LOGS
from tests.support.sweep_processes import is_gone, wait_until
from tests.support.train_command import ROOT
from vae.sweeps.subprocess_runner import run_in_subprocess
from vae.utils.errors import UserError


def call(function, *arguments, logs=LOGS):
    return run_in_subprocess(function, *arguments, logs=logs)


def log_to(file):
    handler = {"class": "logging.FileHandler", "filename": str(file)}
    return {**LOGS, "handlers": {"file": handler}, "root": {"handlers": ["file"]}}


def test_the_result_comes_from_another_process():
    """Also a large one."""
    assert call(subprocess_functions.add, b"x" * 2_000_000, b"y") == b"x" * 2_000_000 + b"y"
    (one, *_), (two, *_) = (call(subprocess_functions.surroundings, ()) for _ in range(2))
    assert len({one, two, os.getpid()}) == 3


@pytest.mark.parametrize(("level", "logged"), [("INFO", "looking\n"), ("WARNING", "")])
def test_folder_environment_and_logging_level_are_the_callers(level, logged, tmp_path, monkeypatch):
    """As they are now, not as they were when the first process was started."""
    call(subprocess_functions.add, 1, 2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("APART", "now")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(logging.getLogger(), "level", getattr(logging, level))
    names = "APART", "HOME"
    _, cwd, values = call(subprocess_functions.surroundings, names, logs=log_to(tmp_path / "log"))
    assert (cwd, values) == (str(tmp_path), ["now", None])
    assert (tmp_path / "log").read_text() == logged


def test_user_errors_keep_their_text():
    with pytest.raises(UserError, match=r"^loss\.beta: got -1\ntwo lines$"):
        call(subprocess_functions.refuse, "loss.beta: got -1\ntwo lines")


def test_other_errors_are_logged_with_traceback(tmp_path):
    with pytest.raises(UserError, match=r"^ZeroDivisionError: division by zero$"):
        call(subprocess_functions.divide, 1, 0, logs=log_to(tmp_path / "log"))
    text = (tmp_path / "log").read_text()
    assert "Traceback (most recent call last)" in text
    assert "return a / b" in text


@pytest.mark.parametrize(
    ("function", "argument", "words"),
    [
        (signal.raise_signal, signal.SIGKILL, "killed by SIGKILL, perhaps by the system for want "),
        (signal.raise_signal, signal.SIGSEGV, "killed by SIGSEGV"),
        (os._exit, 3, "its process ended with exit code 3"),
        (sys.exit, 4, "its process ended with exit code 4"),
    ],
)
def test_a_dead_process_is_reported_with_its_cause(function, argument, words):
    with pytest.raises(UserError) as caught:
        call(function, argument)
    assert str(caught.value).startswith(words)
    assert call(subprocess_functions.add, 1, 2) == 3  # the next is not concerned


def test_a_process_ended_from_outside_has_failed():
    with pytest.raises(UserError, match=r"^ended by SIGTERM$"):
        call(subprocess_functions.end_by_sigterm)


def test_signals_for_the_caller_are_ignored():
    numbers = [signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2]
    assert call(subprocess_functions.send_itself, numbers) == "alive"


def state():
    return (
        signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)],
        multiprocessing.active_children(),
        dict(os.environ),
    )


def test_the_callers_signal_handlers_are_restored():
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR1})
    try:
        before = state()
        for function, argument in ((int, "3"), (subprocess_functions.refuse, "no"), (os._exit, 3)):
            with suppress(UserError):
                call(function, argument)
            assert state() == before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def test_joblib_workers_can_start_subprocesses():
    from joblib import Parallel, delayed
    from joblib.externals.loky import get_reusable_executor

    found = Parallel(n_jobs=2)(delayed(subprocess_functions.add_apart)(n, 1) for n in range(2))
    get_reusable_executor().shutdown(wait=True)
    assert [total for *_, total in found] == [1, 2]
    assert all(len({worker, other, os.getpid()}) == 3 for worker, other, _ in found)


def start(function, folder):
    """A process that calls; (it, the id of the one that it has started).

    The other may be there before the caller is ready to pass SIGTERM on.
    """
    caller = subprocess.Popen(
        [sys.executable, "-m", "tests.support.subprocess_functions", function, str(folder)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    file = folder / "pid"
    pid = int(wait_until(lambda: file.exists() and file.read_text()))
    wait_until(lambda: catches(caller.pid, signal.SIGTERM))
    return caller, pid


def catches(pid, number):
    """Whether a process has a handler for a signal."""
    (mask,) = re.findall(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["the caller", "the whole job"])
def test_an_interrupt_waits_for_the_subprocess_to_save(send, number, tmp_path):
    """It gets one SIGTERM, and the caller ends after it, although a scheduler signals both."""
    caller, pid = start("save_when_asked", tmp_path)
    send(caller.pid, number)
    caller.wait(timeout=20)
    assert (tmp_path / "saved").read_text() == "SIGTERM"
    assert is_gone(pid)
    assert caller.communicate(timeout=20)[0] == "InterruptedRun\n"


def test_a_second_interrupt_does_not_wait(tmp_path):
    caller, pid = start("never_end", tmp_path)
    caller.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        caller.wait(timeout=1)
    assert not is_gone(pid)
    caller.send_signal(signal.SIGINT)
    assert caller.communicate(timeout=20)[0] == "KeyboardInterrupt\n"
    wait_until(lambda: is_gone(pid), timeout=10)


def test_a_killed_caller_ends_the_subprocess(tmp_path):
    caller, pid = start("save_when_asked", tmp_path)
    caller.kill()
    caller.communicate(timeout=20)
    wait_until(lambda: is_gone(pid), timeout=10)
    assert (tmp_path / "saved").read_text() == "SIGTERM"  # in an orderly way
