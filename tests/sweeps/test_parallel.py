"""Several runs at once: joblib, submitit, and several sweeps on one study."""

import os
import signal
from pathlib import Path

import pytest

from tests.support.sweep_processes import (
    EPOCHS,
    FROM_STUDY,
    LONG,
    STEPS,
    finish,
    is_training,
    kill,
    process_of,
    run_sweep,
    start,
    statuses,
    trials_of,
    validated,
    wait_until,
)
from tests.support.wandb_files import read_run
from vae.runs.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow


def test_joblib_runs_trials_in_parallel(tmp_path):
    """Two at a time: one cache, the cores divided, a W&B run each, a failure among them."""
    arguments = [
        "hydra/launcher=joblib", "loss.beta=0.1,0.2,-1,0.3", "sweep.name=j", "wandb.mode=offline",
        "trainer.num_threads=null",
    ]  # fmt: skip
    code, out = run_sweep(arguments, tmp_path)
    assert code != 0
    assert "loss.beta: got -1" in out
    folder = tmp_path / "multirun" / "j"
    good = [folder / f"loss.beta={beta}" for beta in (0.1, 0.2, 0.3)]
    expected = {"loss.beta=-1": "failed", **{run.name: "finished" for run in good}}
    assert statuses(folder) == expected
    assert out.count("packed 80 images") == 1
    runs = [read_run(run) for run in good]
    assert len({run.id for run in runs}) == 3
    threads = f"on cpu (threads: {max(1, (os.cpu_count() or 1) // 2)})"
    for run, path in zip(runs, good, strict=True):
        assert (run.name, run.group, run.exit_code) == (path.name, "j", 0)
        assert run.config["loss"]["beta"] == float(path.name.partition("=")[2])
        assert threads in (path / "train.log").read_text()


def test_submitit_requeues_a_run_that_is_preempted(tmp_path):
    """Slurm's part is played by submitit's local executor, with the signal that Slurm sends."""
    launcher = ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10"]
    run = tmp_path / "multirun" / "s" / "defaults"
    process = start([*launcher, *LONG, "sweep.name=s"], tmp_path)
    wait_until(lambda: is_training(run))
    job = wait_until(lambda: process_of(run))
    while "submitit.core._submit" not in Path(f"/proc/{job}/cmdline").read_text():
        job = int(Path(f"/proc/{job}/stat").read_text().rpartition(")")[2].split()[1])  # its parent
        assert job > 1
    os.kill(job, signal.SIGUSR2)
    code, out = finish(process)
    assert code == 0, out
    assert "resuming at step" in (run / "train.log").read_text()
    assert validated(run) == EPOCHS
    assert statuses(run.parent) == {run.name: "finished"}


def test_two_processes_share_a_study(tmp_path):
    """From the first trial on, with the same seed, and one of them killed: none lost or doubled.

    In SQLite, in a place that both see; test_postgres.py does the same in PostgreSQL.
    """
    shared = tmp_path / "shared.db"
    arguments = [
        *FROM_STUDY, "sweep.name=o", "hydra.sweeper.n_trials=4", "hydra.sweeper.sampler.seed=1",
        f"sweep.storage=sqlite:///{shared}", *LONG,
    ]  # fmt: skip
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = start(arguments, tmp_path / "one"), start(arguments, tmp_path / "two")
    wait_until(lambda: any(map(is_training, (tmp_path / "two").glob("multirun/o/loss*"))))
    kill(two)
    code, out = finish(one)
    assert code == 0, out
    trials = trials_of(shared)
    done = [t.params for t in trials if t.state.name == "COMPLETE"]
    assert len({params["loss.beta"] for params in done}) == len(done) == 4
    (cut,) = [t for t in trials if t.state.name != "COMPLETE"]
    assert cut.state.name == "FAIL"
    assert cut.params in done  # taken over by the one that lived


def test_a_run_in_two_sweeps_is_trained_once(tmp_path):
    arguments = ["loss.beta=0.1,0.2", "sweep.name=s", *LONG]
    one, two = start(arguments, tmp_path), start(arguments, tmp_path)
    (code, out), (other_code, other_out) = finish(one), finish(two)
    assert (code, other_code) == (0, 0), out + other_out
    for run in ("loss.beta=0.1", "loss.beta=0.2"):
        folder = tmp_path / "multirun" / "s" / run
        assert validated(folder) == EPOCHS
        assert load_checkpoint(folder / "checkpoints/last.pt")["step"] == STEPS
        assert (folder / "train.log").read_text().count(f"{STEPS} steps in fp32 on") == 1
