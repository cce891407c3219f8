"""Sweeps as jobs of a real Slurm."""

import subprocess

import pytest

from tests.support.run_files import identical, weights
from tests.support.slurm import slurm_cluster
from tests.support.sweep_processes import (
    finish,
    is_training,
    run_sweep,
    start,
    statuses,
    validated,
    wait_until,
)

pytestmark = pytest.mark.slow

SLURM = ["hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1"]
SLURM += ["hydra.launcher.mem_gb=1"]
LONG = ["trainer.epochs=null", "trainer.max_steps=600", "trainer.figures_every=1000"]


@pytest.fixture
def slurm():
    """Return a function that calls a command of a cluster; its `environment` leads there."""
    with slurm_cluster() as environment:

        def call(*command):
            output = subprocess.check_output(command, env=environment, text=True)
            return output.strip()

        call.environment = environment
        yield call


def test_requeued_jobs_end_as_if_they_had_not_been_interrupted(tmp_path, slurm):
    """Two of three jobs: one by `scontrol requeue`, one by the signal before the time limit."""
    arguments = [*SLURM, *LONG, "loss.beta=0.1,0.2,0.3", "sweep.name=s"]
    runs = [tmp_path / "multirun" / "s" / f"loss.beta={beta}" for beta in (0.1, 0.2, 0.3)]
    process = start(arguments, tmp_path, env=slurm.environment)
    try:
        wait_until(lambda: is_training(runs[0]) and is_training(runs[1]))
        slurm("scontrol", "requeue", "1_0")
        slurm("scancel", "--signal=USR2", "1_1")
        for job in ("1_0", "1_1"):  # Slurm lets a requeued job wait for two minutes
            wait_until(lambda job=job: slurm("squeue", "-h", "-j", job, "-o", "%T") == "PENDING")
            slurm("scontrol", "update", f"JobId={job}", "StartTime=now")
        code, out = finish(process)
    finally:
        process.kill()
    assert code == 0, out
    assert statuses(tmp_path / "multirun" / "s") == {run.name: "finished" for run in runs}
    assert "3 runs (3 finished)" in (runs[0].parent / "report.md").read_text()
    resumed = ["resuming at step" in (run / "train.log").read_text() for run in runs]
    assert resumed == [True, True, False]
    code, out = run_sweep([*LONG, "loss.beta=0.1,0.2", "sweep.name=local"], tmp_path)
    assert code == 0, out
    for run in runs[:2]:
        alone = tmp_path / "multirun" / "local" / run.name
        assert validated(run) == validated(alone)
        assert identical(weights(run), weights(alone))
