"""Several runs at once: joblib, submitit, and several sweeps on one study."""

import os
import signal
from pathlib import Path

import optuna
import pytest

from tests.support.sweep_processes import (
    FROM_STUDY,
    LONG,
    STEPS,
    finish,
    is_training,
    kill,
    process_of,
    rows,
    start,
    summaries,
    wait_until,
)
from tests.support.wandb_files import read_run
from vae.runs.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow


def test_joblib_runs_trials_in_parallel(sweep, tmp_path):
    """Two at a time: one cache, the cores divided, a W&B run each, a failure among them."""
    arguments = [
        "hydra/launcher=joblib", "loss.beta=0.1,0.2,-1,0.3", "sweep.name=j", "wandb.mode=offline",
        "trainer.num_threads=null",
    ]  # fmt: skip
    code, out = sweep(arguments, tmp_path)
    assert code != 0
    assert "loss.beta: got -1" in out
    folder = tmp_path / "multirun" / "j"
    found = {name: summary["status"] for name, summary in summaries(folder).items()}
    assert found == {
        "loss.beta=0.1": "finished", "loss.beta=0.2": "finished", "loss.beta=0.3": "finished",
        "loss.beta=-1": "failed",
    }  # fmt: skip
    assert out.count("packed 80 images") == 1
    good = [folder / name for name, status in found.items() if status == "finished"]
    runs = [read_run(run) for run in good]
    assert len({run.id for run in runs}) == 3
    for run, path in zip(runs, good, strict=True):
        assert (run.name, run.group, run.exit_code) == (path.name, "j", 0)
        assert run.config["loss"]["beta"] == float(path.name.partition("=")[2])
        assert (
            f"on cpu (threads: {max(1, (os.cpu_count() or 1) // 2)})"
            in (path / "train.log").read_text()
        )


def test_submitit_requeues_a_run_that_is_preempted(tmp_path):
    """Slurm's part is played by submitit's local executor, with the signal that Slurm sends."""
    launcher = ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10"]
    run = tmp_path / "multirun" / "s" / "defaults"
    process = start([*launcher, *LONG, "sweep.name=s"], tmp_path)
    wait_until(lambda: is_training(run))
    os.kill(submitit_process_of(run), signal.SIGUSR2)
    code, out = finish(process)
    assert code == 0, out
    assert "resuming at step" in (run / "train.log").read_text()
    assert [row["step"] for row in rows(run) if "val/bpd" in row] == list(range(4, STEPS + 1, 4))
    assert summaries(run.parent)[run.name]["status"] == "finished"


def submitit_process_of(run):
    """The process of the job that waits for the one that trains."""
    pid = wait_until(lambda: process_of(run))
    while "submitit.core._submit" not in Path(f"/proc/{pid}/cmdline").read_text():
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])  # its parent
        assert pid > 1
    return pid


def test_two_processes_share_a_study(tmp_path):
    """From the first trial on, with the same seed, and one of them killed: none lost or doubled.

    By hand the same was done with PostgreSQL; here it is SQLite, in a place that both see.
    """
    arguments = [
        *FROM_STUDY, "sweep.name=o", "hydra.sweeper.n_trials=4", "hydra.sweeper.sampler.seed=1",
        f"sweep.storage=sqlite:///{tmp_path}/shared.db", *LONG,
    ]  # fmt: skip
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = start(arguments, tmp_path / "one"), start(arguments, tmp_path / "two")
    wait_until(lambda: any(map(is_training, (tmp_path / "two").glob("multirun/o/loss*"))))
    kill(two)
    code, out = finish(one)
    assert code == 0, out
    study = optuna.load_study(study_name="o", storage=f"sqlite:///{tmp_path}/shared.db")
    done = [t for t in study.trials if t.state.name == "COMPLETE"]
    assert len(done) == 4
    assert len({t.params["loss.beta"] for t in done}) == 4
    (cut,) = [t for t in study.trials if t.state.name == "FAIL"]
    assert cut.params in [t.params for t in done]  # taken over by the one that lived
    assert len(study.trials) == 5


def test_a_run_in_two_sweeps_is_trained_once(tmp_path):
    arguments = ["loss.beta=0.1,0.2", "sweep.name=s", *LONG]
    one, two = start(arguments, tmp_path), start(arguments, tmp_path)
    (code, out), (other_code, other_out) = finish(one), finish(two)
    assert (code, other_code) == (0, 0), out + other_out
    for run in ("loss.beta=0.1", "loss.beta=0.2"):
        folder = tmp_path / "multirun" / "s" / run
        assert [r["step"] for r in rows(folder) if "val/bpd" in r] == list(range(4, STEPS + 1, 4))
        assert load_checkpoint(folder / "checkpoints/last.pt")["step"] == STEPS
        assert (folder / "train.log").read_text().count(f"{STEPS} steps in fp32 on") == 1
