"""A killed and resumed run ends like an uninterrupted run, bit for bit."""

import functools
import multiprocessing
import os
import pkgutil
import random
import signal
import sys
import time

import pytest
import torch

from tests.support.run_files import identical, state_of, timeless_rows
from tests.support.train_command import TINY
from vae.runs.compose import compose
from vae.runs.launch import prepare_run
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
    "loss/perceptual=ms_ssim",
    "model.activation=silu",
    "model.last_layer=subpixel",
]
STEP = "vae.training.trainer.step_noise"  # called once a step
VALIDATION = "vae.training.metrics.loss_terms"  # for the model and its average, in turn
WRITES = ["os.replace", "os.link", "os.fsync", "pathlib.Path.write_bytes"]
WRITES += ["vae.training.metrics.evaluate_split", "vae.runs.run.draw_figures"]


class SignalAt:
    """Send this process a signal at the n-th event: the begin or the end of a call.

    `Path.write_bytes` begins with half of the file.

    Args:
        event: from 1 on; None: only count them, in the file `counted`.
        functions: "MODULE.NAME", those whose calls are counted.
    """

    def __init__(self, event, functions=WRITES, number=signal.SIGKILL, counted=None):
        self.event, self.functions, self.number = event, functions, number
        self.counted, self.seen = counted, 0

    def __call__(self):
        for function in self.functions:
            place, _, name = function.rpartition(".")
            owner = pkgutil.resolve_name(place)
            setattr(owner, name, self._watched(getattr(owner, name)))

    def _watched(self, function):
        def call(*args, **kwargs):
            if function.__name__ == "write_bytes":
                path, content = args
                function(path, content[: len(content) // 2])
            self._count()
            result = function(*args, **kwargs)
            self._count()
            return result

        return call

    def _count(self):
        self.seen += 1
        if self.counted:
            self.counted.write_text(str(self.seen))
        if self.seen == self.event:
            signal.raise_signal(self.number)


def in_call(nth, function, number=signal.SIGTERM):
    return SignalAt(2 * nth - 1, [function], number)


@functools.cache
def composed(*overrides):
    """The configuration of RUN: composed here, for it takes longer than the run."""
    return compose([*RUN, *overrides])


def train(folder, config, before):
    """Train in `folder`, or resume there; `before` is called first, in the same process."""
    # vae.sweeps.subprocess_runner starts the fork server with signals blocked, if it is the first.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    torch.set_num_threads(1)
    os.environ["TQDM_DISABLE"] = "1"
    os.chdir(folder.parent)
    if before:
        before()
    try:
        prepare_run(config, folder, resume=(folder / "checkpoints").exists()).train()
    except InterruptedRun as interruption:
        sys.exit(interruption.exit_code)


def start(folder, before=None, overrides=()):
    """Start a process that trains RUN in `folder`, or resumes it."""
    process = CONTEXT.Process(target=train, args=(folder, composed(*overrides), before))
    process.start()
    return process


def finish(folder, *arguments):
    """Its exit code."""
    process = start(folder, *arguments)
    process.join(60)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


@pytest.fixture(scope="module")
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


@pytest.mark.parametrize("times", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_repeatedly_at_random_runs_resume(times, whole, folder):
    draw = random.Random(times)
    runs, killed = 1, 0
    while killed < times:
        run = folder.with_name(f"run-{runs}")
        process = start(run)
        process.join(draw.uniform(0.1, 1) * whole[1])
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            killed += 1
        else:
            ends_as(run, whole[0])
            runs += 1
    ends_as(run, whole[0])


@pytest.mark.slow
def test_killed_at_every_write_runs_resume(whole, folder, tmp_path):
    """Also between the halves of a file and in a validation; and again as soon as it goes on."""
    counted = tmp_path / "count"
    assert finish(folder, SignalAt(None, counted=counted)) == 0
    events = int(counted.read_text())
    assert events > 100
    for event in range(1, events + 1, 5):
        run = folder.with_name(f"run-{event}")
        assert finish(run, SignalAt(event)) == -signal.SIGKILL
        assert finish(run, SignalAt(1 + event % 8)) == -signal.SIGKILL
        ends_as(run, whole[0])


def test_killed_before_the_first_checkpoint_runs_start_anew(whole, folder):
    """With rows and an unfinished file, but nothing to resume from."""
    settings = ["trainer.log_every=1", "trainer.checkpoint_every=null"]
    assert finish(folder, in_call(3, STEP, signal.SIGKILL), settings) == -signal.SIGKILL
    assert [row["step"] for row in timeless_rows(folder)] == [1, 2]
    assert not (folder / "checkpoints" / "last.pt").exists()
    (folder / "checkpoints" / ".last.pt.999999999.tmp").touch()
    ends_as(folder, whole[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_interrupted_runs_lose_no_step(number, whole, folder):
    """Nor have they rows of their own: what was in no row yet is in the checkpoint."""
    assert finish(folder, in_call(7, STEP, number)) == 128 + number
    assert state_of(folder)["step"] == 7
    assert len(state_of(folder)["pending"]["loss"]) == 1
    assert timeless_rows(folder) == [row for row in timeless_rows(whole[0]) if row["step"] <= 6]
    ends_as(folder, whole[0])


@pytest.mark.parametrize(
    ("call", "function", "step"),
    [(2, VALIDATION, 4), (3, VALIDATION, 8), (7, VALIDATION, 16), (8, STEP, 8)],
    ids=["average", "model", "end", "last step of an epoch"],
)
def test_an_interrupt_does_not_wait_for_a_validation(call, function, step, whole, folder):
    """What was measured by then is measured again, and the rest of it, when the run goes on."""
    assert finish(folder, in_call(call, function)) == 128 + signal.SIGTERM
    assert state_of(folder)["step"] == step
    before = [r for r in timeless_rows(whole[0]) if r["step"] < step + ("train/loss" in r)]
    assert timeless_rows(folder) == before
    assert finish(folder, SignalAt(9)) == -signal.SIGKILL  # once its row is written
    ends_as(folder, whole[0])
