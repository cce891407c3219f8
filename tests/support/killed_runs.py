"""Runs in separate processes that are killed."""

import functools
import importlib
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.support.run_files import identical, state_of, timeless_rows
from tests.support.train_command import TINY
from vae.runs.compose import compose
from vae.sweeps import subprocess_runner
from vae.utils.signals import InterruptedRun

# A pytest has one fork server, started by the first test that needs it. Whichever it is, the
# processes of vae.sweeps.subprocess_runner and these find the same modules there. (None of
# tests: in another folder than this one, a package of that name is somebody else's.)
subprocess_runner.PRELOADED = ("torch._dynamo", *subprocess_runner.PRELOADED)
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(list(subprocess_runner.PRELOADED))
RUN = [
    *TINY,
    "optimizer.schedule=constant",
    "trainer.epochs=4",  # of 4 steps
    "trainer.log_every=3",
    "trainer.checkpoint_every=2",
    "trainer.figures_every=2",
    "trainer.ema=0.9",
    "loss/schedule=cyclical",
    "loss/regularizer=tc",
]


@functools.cache
def composed(*overrides):
    """The configuration of RUN: composed here, for it takes longer than the run."""
    return compose([*RUN, *overrides])


def train(folder, config, before=None):
    """Train in `folder`, or resume there; `before` is called first, in the same process."""
    from vae.runs.launch import prepare_run

    # vae.sweeps.subprocess_runner starts the fork server with signals blocked, if it is the first.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    torch.set_num_threads(1)
    os.environ["TQDM_DISABLE"] = "1"
    os.chdir(folder.parent)
    if before is not None:
        before()
    try:
        resume = (folder / "checkpoints").exists()
        prepare_run(config, folder, resume=resume).train()
    except InterruptedRun as interruption:
        sys.exit(interruption.exit_code)


def start(folder, overrides=(), before=None):
    """Start a process that trains RUN in `folder`, or resumes it."""
    process = CONTEXT.Process(target=train, args=(folder, composed(*overrides), before))
    process.start()
    return process


def finish(folder, *arguments, seconds=60):
    """Its exit code."""
    process = start(folder, *arguments)
    process.join(seconds)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def kill_after(process, seconds):
    """SIGKILL after so long, unless it has ended before; whether it was killed."""
    process.join(seconds)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The folder of RUN, never killed, and how many seconds it takes, its start included."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert finish(folder) == 0  # packs the images, and starts the server of processes
    again = folder.with_name("again")
    began = time.monotonic()
    assert finish(again) == 0
    seconds = time.monotonic() - began
    assert identical(state_of(folder), state_of(again))
    return folder, seconds


@pytest.fixture
def folder(whole, tmp_path):
    """Of another run on the same packed images."""
    (tmp_path / "data").symlink_to(whole[0].parent / "data")
    return tmp_path / "run"


def ends_as(folder, whole):
    """Resume a run and check that it ends like an uninterrupted one."""
    assert finish(folder) == 0
    assert identical(state_of(folder), state_of(whole))
    assert timeless_rows(folder) == timeless_rows(whole)
    assert not list(folder.rglob("*.tmp"))


class Interrupting:
    """Sends this process a signal in the n-th call of a function.

    Args:
        name: the function's, "MODULE:NAME".
        nth: from 1 on.
        number: of the signal.
    """

    def __init__(self, name, nth, number=signal.SIGTERM):
        self.name, self.nth, self.number, self.seen = name, nth, number, 0

    def __call__(self):
        module, _, name = self.name.partition(":")
        module = importlib.import_module(module)
        function = getattr(module, name)

        def interrupting(*args, **kwargs):
            self.seen += 1
            if self.seen == self.nth:
                signal.raise_signal(self.number)
            return function(*args, **kwargs)

        setattr(module, name, interrupting)


class DeathAt:
    """Kill this process at its n-th event: before or after a write.

    Args:
        number: of the event; None: only count them, in the file `counted`.
    """

    def __init__(self, number, counted=None):
        self.number, self.counted, self.seen = number, counted, 0

    def __call__(self):
        import vae.runs.run
        import vae.training.metrics

        for place, name in (
            (os, "replace"),
            (os, "link"),
            (os, "fsync"),
            (vae.training.metrics, "evaluate_split"),
            (vae.runs.run, "draw_figures"),
        ):
            setattr(place, name, self._deadly(getattr(place, name)))
        Path.write_bytes = self._half_written(Path.write_bytes)

    def _event(self):
        self.seen += 1
        if self.counted:
            self.counted.write_text(str(self.seen))
        if self.seen == self.number:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)

    def _deadly(self, function):
        def call(*args, **kwargs):
            self._event()
            result = function(*args, **kwargs)
            self._event()
            return result

        return call

    def _half_written(self, write):
        def call(path, content):
            with open(path, "wb") as file:
                file.write(content[: len(content) // 2])
            self._event()
            return write(path, content)

        return call
