"""Calls in a subprocess: results, errors, signals.

`python -m tests.sweeps.test_subprocess_runner NAME FOLDER` is a caller to send signals to.
"""

import logging
import multiprocessing
import operator
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import Mock

import pytest

from tests.support.sweep_processes import is_gone, wait_until
from tests.support.train_command import ROOT
from vae.sweeps import subprocess_runner
from vae.utils.errors import UserError
from vae.utils.signals import InterruptedRun, Interrupts, blocked

NO_NAME = getattr(signal, "SIGRTMIN", 28) + 1  # a signal
LOGS = {"version": 1, "disable_existing_loggers": False}


def call(function, *arguments, logs=LOGS):
    return subprocess_runner.run_in_subprocess(function, *arguments, logs=logs)


def log_to(file):
    handler = {"class": "logging.FileHandler", "filename": str(file)}
    return {**LOGS, "handlers": {"file": handler}, "root": {"handlers": ["file"]}}


def surroundings(names):
    """The process, its folder, and some variables of its environment."""
    logging.getLogger("tests").info("looking")
    return os.getpid(), os.getcwd(), [os.environ.get(name) for name in names]


def fail(error):
    raise error


def save_when_asked(folder):
    """Behave like a run at a signal: save for a moment, then end, without a handler."""
    with Interrupts() as interrupts:
        (folder / "pid").write_text(str(os.getpid()))
        while not interrupts.received:
            time.sleep(0.01)
        time.sleep(0.3)
    time.sleep(1.2)  # as W&B's upload
    (folder / "saved").write_text(interrupts.received.name)
    raise InterruptedRun(interrupts.received)


def never_end(folder):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / "pid").write_text(str(os.getpid()))
    while True:
        time.sleep(1)


def test_the_result_comes_from_another_process():
    """Also a large one."""
    assert call(operator.add, b"x" * 2_000_000, b"y") == b"x" * 2_000_000 + b"y"
    (one, *_), (two, *_) = (call(surroundings, ()) for _ in range(2))
    assert len({one, two, os.getpid()}) == 3


@pytest.mark.parametrize(("level", "logged"), [("INFO", "looking\n"), ("WARNING", "")])
def test_folder_environment_and_logging_level_are_the_callers(level, logged, tmp_path, monkeypatch):
    """As they are now, not as they were when the first process was started."""
    call(int)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("APART", "now")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(logging.getLogger(), "level", getattr(logging, level))
    _, cwd, values = call(surroundings, ("APART", "HOME"), logs=log_to(tmp_path / "log"))
    assert (cwd, values) == (str(tmp_path), ["now", None])
    assert (tmp_path / "log").read_text() == logged


def state():
    return (
        signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)],
        multiprocessing.active_children(),
        dict(os.environ),
    )


@pytest.mark.parametrize(
    ("function", "argument", "words"),
    [
        (fail, UserError("loss.beta: got -1\ntwo lines"), r"loss\.beta: got -1\ntwo lines$"),
        (fail, ZeroDivisionError("by zero"), "ZeroDivisionError: by zero$"),
        (fail, InterruptedRun(signal.SIGTERM), "ended by SIGTERM$"),  # from outside
        (
            signal.raise_signal,
            signal.SIGKILL,
            "killed by SIGKILL, perhaps by the system because memory ran out",
        ),
        (
            signal.raise_signal,
            signal.SIGBUS,
            "killed by SIGBUS: a file that it reads was made shor",
        ),
        (signal.raise_signal, signal.SIGSEGV, "killed by SIGSEGV$"),
        (signal.raise_signal, NO_NAME, f"killed by signal {NO_NAME}$"),
        (os._exit, 3, "its process ended with exit code 3$"),
        (sys.exit, 4, "its process ended with exit code 4$"),
    ],
)
def test_each_end_is_a_user_error_with_its_reason(function, argument, words, tmp_path):
    """With a traceback in the log, if the function raised something else."""
    call(int)
    with blocked(signal.SIGUSR1):
        before = state()
        with pytest.raises(UserError, match=f"^{words}"):
            call(function, argument, logs=log_to(tmp_path / "log"))
        assert call(operator.add, 1, 2) == 3  # the next is not concerned
        assert state() == before
    log = (tmp_path / "log").read_text()
    assert ("Traceback" in log) == ("raise error" in log) == ("by zero" in log)
    assert ("by zero" in log) == isinstance(argument, ZeroDivisionError)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems use no socket for it")
def test_a_long_tmpdir_holds_no_run_back(tmp_path):
    """The path of a socket has 107 bytes at most."""
    folder = tmp_path / ("x" * 130)
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tests.sweeps.test_subprocess_runner", "gettempdir"],
        cwd=ROOT, env={**os.environ, "TMPDIR": str(folder)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == f"{folder}\n", done.stderr  # the run itself uses it


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), EOFError()])
def test_a_process_that_cannot_be_started_is_a_user_error(error, monkeypatch):
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", Mock(side_effect=error))
    with pytest.raises(UserError, match=f"^no process can .*{type(error).__name__}.*TMPDIR"):
        call(int)


def test_signals_for_the_caller_are_ignored():
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        assert call(signal.raise_signal, number) is None


def start(function, folder):
    """A process that calls; (it, the id of the one that it has started).

    The other may be there before the caller is ready to pass SIGTERM on.
    """
    caller = subprocess.Popen(
        [sys.executable, "-m", "tests.sweeps.test_subprocess_runner", function.__name__, folder],
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
    caller, pid = start(save_when_asked, tmp_path)
    send(caller.pid, number)
    caller.wait(timeout=20)
    assert (tmp_path / "saved").read_text() == "SIGTERM"
    assert is_gone(pid)
    assert caller.communicate(timeout=20)[0] == "InterruptedRun\n"


def test_a_second_interrupt_does_not_wait(tmp_path):
    caller, pid = start(never_end, tmp_path)
    os.killpg(caller.pid, signal.SIGUSR2)  # sent by a scheduler to the fork server, too
    caller.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        caller.wait(timeout=1)
    assert not is_gone(pid)
    caller.send_signal(signal.SIGINT)
    assert caller.communicate(timeout=20)[0] == "KeyboardInterrupt\n"
    wait_until(lambda: is_gone(pid), timeout=10)


def test_a_killed_caller_ends_the_subprocess(tmp_path):
    caller, pid = start(save_when_asked, tmp_path)
    caller.kill()
    caller.communicate(timeout=20)
    wait_until(lambda: is_gone(pid), timeout=10)
    assert (tmp_path / "saved").read_text() == "SIGTERM"  # in an orderly way


if __name__ == "__main__":
    subprocess_runner.PRELOADED = ()
    signal.signal(signal.SIGUSR2, lambda *_: None)  # as submitit has a handler
    try:
        if sys.argv[1] == "gettempdir":
            print(call(tempfile.gettempdir))
        else:
            call(globals()[sys.argv[1]], Path(sys.argv[2]))
    except BaseException as error:
        print(type(error).__name__)
