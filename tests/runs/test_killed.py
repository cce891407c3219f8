"""A killed and resumed run ends like an uninterrupted run, bit for bit."""

import random
import signal

import pytest

from tests.support.killed_runs import DeathAt, Interrupting, ends_as, finish, kill_after, start
from tests.support.run_files import state_of, timeless_rows

STEP = "vae.training.trainer:step_noise"  # called once a step
VALIDATION = "vae.training.metrics:loss_terms"  # for the model and its average, in turn


@pytest.mark.parametrize("times", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_repeatedly_at_random_runs_resume(times, whole, folder):
    draw = random.Random(times)
    runs, killed = 1, 0
    while killed < times:
        run = folder.with_name(f"run-{runs}")
        if kill_after(start(run), draw.uniform(0.1, 1) * whole[1]):
            killed += 1
        else:
            ends_as(run, whole[0])
            runs += 1
    ends_as(run, whole[0])


@pytest.mark.slow
def test_killed_at_every_write_runs_resume(whole, folder, tmp_path):
    """Also between the halves of a file and in a validation; and again as soon as it goes on."""
    counted = tmp_path / "count"
    assert finish(folder, (), DeathAt(None, counted)) == 0
    events = int(counted.read_text())
    assert events > 100
    for number in range(1, events + 1, 5):
        run = folder.with_name(f"run-{number}")
        assert finish(run, (), DeathAt(number)) == -signal.SIGKILL
        assert finish(run, (), DeathAt(1 + number % 8)) == -signal.SIGKILL
        ends_as(run, whole[0])


def test_killed_before_the_first_checkpoint_runs_start_anew(whole, folder):
    """With rows and an unfinished file, but nothing to resume from."""
    settings = ["trainer.log_every=1", "trainer.checkpoint_every=null"]
    assert finish(folder, settings, Interrupting(STEP, 3, signal.SIGKILL)) == -signal.SIGKILL
    assert [row["step"] for row in timeless_rows(folder)] == [1, 2]
    assert not (folder / "checkpoints" / "last.pt").exists()
    (folder / "checkpoints" / ".last.pt.999999999.tmp").touch()
    ends_as(folder, whole[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_interrupted_runs_lose_no_step(number, whole, folder):
    """Nor have they rows of their own: what was in no row yet is in the checkpoint."""
    assert finish(folder, (), Interrupting(STEP, 7, number)) == 128 + number
    assert state_of(folder)["step"] == 7
    assert len(state_of(folder)["pending"]["loss"]) == 1
    assert timeless_rows(folder) == [row for row in timeless_rows(whole[0]) if row["step"] <= 6]
    ends_as(folder, whole[0])


@pytest.mark.parametrize("call", [2, 3, 7], ids=["average", "model", "end"])
def test_an_interrupt_does_not_wait_for_a_validation(call, whole, folder):
    """What was measured by then is measured again, and the rest of it, when the run goes on."""
    assert finish(folder, (), Interrupting(VALIDATION, call)) == 128 + signal.SIGTERM
    step = 4 * ((call + 1) // 2)
    assert state_of(folder)["step"] == step
    assert timeless_rows(folder) == rows_before_validation(whole[0], step)
    assert finish(folder, (), DeathAt(9)) == -signal.SIGKILL  # once its row is written
    ends_as(folder, whole[0])


def test_an_interrupt_in_the_last_step_of_an_epoch(whole, folder):
    assert finish(folder, (), Interrupting(STEP, 8)) == 128 + signal.SIGTERM
    assert timeless_rows(folder) == rows_before_validation(whole[0], 8)
    ends_as(folder, whole[0])


def rows_before_validation(folder, step):
    return [r for r in timeless_rows(folder) if r["step"] < step + ("train/loss" in r)]
