"""A failing run is one failed run; the sweep continues."""

import os
import signal
import subprocess
import sys

import optuna
import pytest

from tests.support.sweep_processes import (
    FROM_STUDY,
    LONG,
    finish,
    is_training,
    process_of,
    start,
    summaries,
    wait_until,
)
from tests.support.train_command import ROOT, TINY
from vae.runs.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow


def test_a_study_survives_diverging_and_refused_runs(sweep, tmp_path):
    """NaN, a value out of range, and good ones: every trial is told, with its reason.

    With this seed, the eight trials draw each of the three learning rates.
    """
    arguments = [
        "hydra/sweeper=study", "hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=4",
        "optimizer.lr=choice(1e-3,1e30,-1)", "loss.beta=interval(0.1,0.2)",
        "hydra.sweeper.n_trials=8", "sweep.name=o", "sweep.max_failures=null",
    ]  # fmt: skip
    code, out = sweep(arguments, tmp_path)
    assert code == 0, out
    storage = f"sqlite:///{tmp_path}/multirun/o/study.db"
    trials = optuna.load_study(study_name="o", storage=storage).trials
    assert len(trials) == 8
    reasons = {1e30: "= nan", -1.0: "optimizer.lr: got -1"}
    seen = set()
    for trial in trials:
        lr = float(trial.params["optimizer.lr"])
        seen.add(lr)
        if lr in reasons:
            assert trial.state.name == "FAIL"
            assert reasons[lr] in trial.user_attrs["reason"]
        else:
            assert trial.state.name == "COMPLETE"
    assert len(seen) == 3


def test_a_run_killed_by_the_system_is_reported(sweep, tmp_path):
    """SIGKILL to the process that trains, as the kernel does when memory is short."""
    arguments = ["loss.beta=0.1,0.2,0.3", "sweep.name=s", *LONG]
    folder = tmp_path / "multirun" / "s"
    process = start(arguments, tmp_path)
    run = folder / "loss.beta=0.2"
    wait_until(lambda: is_training(run))
    os.kill(wait_until(lambda: process_of(run)), signal.SIGKILL)
    code, out = finish(process)
    assert code != 0
    assert "Traceback" not in out
    found = summaries(folder)
    assert [found[f"loss.beta={b}"]["status"] for b in (0.1, 0.2, 0.3)] == [
        "finished", "failed", "finished",
    ]  # fmt: skip
    assert "SIGKILL" in found["loss.beta=0.2"]["error"]
    code, out = sweep(arguments, tmp_path)  # started again, it goes on from its checkpoint
    assert code == 0
    assert out.count("resuming at step") == 1
    assert {summary["status"] for summary in summaries(folder).values()} == {"finished"}


TROUBLED = """
import os, sys
from pathlib import Path

sys.path.insert(0, {root!r})
import torch
import train
from tests.support.disks import fill
from vae.runs.run import Run
from vae.training.trainer import Trainer

save, update = Run._save, Trainer.train_step

def full(run, name):
    if run.config.seed == 1 and "LEFT" in os.environ:
        fill(Path("."))
        os.truncate("others", os.path.getsize("others") - int(os.environ["LEFT"]))
    save(run, name)

def greedy(trainer, images):
    lacks = (trainer.batches.seed, trainer.step) == (1, 5)
    return torch.empty(1 << 60) if lacks else update(trainer, images)

Run._save = full
if "GREEDY" in os.environ:
    Trainer.train_step = greedy
if __name__ == "__main__":
    train.main()
"""


def troubled_sweep(cwd, *overrides, **environment):
    """Three runs, the second of which comes into trouble: (exit code, what was printed)."""
    script = cwd / "troubled.py"
    script.write_text(TROUBLED.format(root=str(ROOT)))
    words = ["-m", *TINY, *overrides, "seed=0,1,2", "sweep.name=s"]
    done = subprocess.run(
        [sys.executable, str(script), *words], cwd=cwd, env={**os.environ, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "Traceback" not in done.stdout, done.stdout
    return done.stdout


def statuses(folder):
    return {name: summary["status"] for name, summary in summaries(folder).items()}


def test_a_run_out_of_memory_is_reported(tmp_path):
    """A real allocation that fails, in one of three runs."""
    out = troubled_sweep(tmp_path, GREEDY="1")
    folder = tmp_path / "multirun" / "s"
    assert statuses(folder) == {"seed=0": "finished", "seed=1": "failed", "seed=2": "finished"}
    reason = summaries(folder)["seed=1"]["error"]
    assert reason.startswith("out of memory at step 5: data.batch_size=16 images of 16 px")
    assert reason in out
    assert load_checkpoint(folder / "seed=1" / "checkpoints" / "last.pt")["step"] == 4


@pytest.mark.parametrize(
    ("left", "after"), [(200 << 10, {"seed=2": "failed"}), (16 << 10, {})], ids=["some", "none"]
)
def test_a_full_disk_ends_the_run_with_a_message(sweep, left, after, small_disk, tmp_path):
    """Failed runs with their reason; where no run could begin any more, the sweep ends."""
    disk = small_disk(8 << 20)
    larger = ["model.channels=[16,32]", "model.latent_dim=16"]  # 300 kB a checkpoint
    out = troubled_sweep(disk, *larger, LEFT=str(left))
    folder = disk / "multirun" / "s"
    assert statuses(folder) == {"seed=0": "finished", "seed=1": "failed", **after}
    assert ("the sweep stops: " in out) == (not after)
    for failed in ("seed=1", *after):
        reason = summaries(folder)[failed]["error"]
        assert "best.pt: the disk is full (0." in reason
        assert reason in out
    (disk / "others").unlink()
    code, out = sweep([*larger, "seed=0,1,2", "sweep.name=s"], disk)
    assert code == 0, out
    assert set(statuses(folder).values()) == {"finished"}
    assert len(statuses(folder)) == 3


@pytest.mark.parametrize("preset", [[], FROM_STUDY], ids=["grid", "study"])
def test_failures_in_a_row_stop_the_sweep(sweep, preset, tmp_path):
    grid = ["loss.beta=0.1,0.2,0.3,0.4"] if not preset else ["hydra.sweeper.n_trials=4"]
    arguments = [*preset, *grid, "sweep.name=s", "sweep.max_failures=2", "optimizer.lr=1e30"]
    code, out = sweep(arguments, tmp_path)
    assert code != 0
    assert "its last 2 runs failed (sweep.max_failures=2)" in out
    assert "Traceback" not in out
    assert len(summaries(tmp_path / "multirun" / "s")) == 2
    code, out = sweep(arguments, tmp_path)  # a new start, new hope
    assert out.count("failed: training stopped at step") == 2
