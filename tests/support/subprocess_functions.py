"""Functions for tests/sweeps/test_subprocess_runner.py that a new process can import.

`python -m tests.support.subprocess_functions NAME FOLDER` is a caller to send signals to.
"""

import logging
import os
import signal
import sys
import time
from pathlib import Path

from vae.sweeps import subprocess_runner
from vae.utils.errors import UserError
from vae.utils.signals import InterruptedRun, Interrupts

LOGS = {"version": 1, "disable_existing_loggers": False}


def add(a, b):
    return a + b


def surroundings(names):
    """The process, its folder, and some variables of its environment."""
    logging.getLogger("tests").info("looking")
    return os.getpid(), os.getcwd(), [os.environ.get(name) for name in names]


def refuse(text):
    raise UserError(text)


def divide(a, b):
    return a / b


def send_itself(numbers):
    """Signals to its own process, of which it should live to tell."""
    for number in numbers:
        os.kill(os.getpid(), number)
    time.sleep(0.05)
    return "alive"


def end_by_sigterm():
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGTERM)
        while not interrupts.received:
            time.sleep(0.01)
        raise InterruptedRun(interrupts.received)


def add_apart(a, b):
    """For a worker of joblib's: (its process, the other one's, the sum)."""
    subprocess_runner.PRELOADED = subprocess_runner.PRELOADED[-1:]  # torch takes seconds
    other, _, _ = subprocess_runner.run_in_subprocess(surroundings, (), logs=LOGS)
    return os.getpid(), other, subprocess_runner.run_in_subprocess(add, a, b, logs=LOGS)


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


def main():
    subprocess_runner.PRELOADED = ()
    function = {"save_when_asked": save_when_asked, "never_end": never_end}[sys.argv[1]]
    try:
        subprocess_runner.run_in_subprocess(function, Path(sys.argv[2]), logs=LOGS)
    except BaseException as error:
        print(type(error).__name__)


if __name__ == "__main__":
    main()
