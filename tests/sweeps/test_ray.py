"""Sweeps on a Ray cluster: one of this machine's own, as `hydra/launcher=ray` starts it.

On clusters of two machines, and with a Ray that is killed, it was tried by hand.
"""

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.support.run_files import identical, state_of
from tests.support.sweep_processes import (
    EPOCHS,
    FROM_STUDY,
    LONG,
    finish,
    is_training,
    process_of,
    run_sweep,
    start,
    statuses,
    trials_of,
    validated,
    wait_until,
)
from vae.sweeps.ray_launcher import RayLauncher, run_on_worker
from vae.utils.errors import UserError

pytest.importorskip("ray", reason='needs pip install -e ".[ray]"')
pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason='needs pip install -e ".[ray]"')

RAY = ["hydra/launcher=ray", "hydra.launcher.num_cpus=0.5"]  # two at once, on any machine


def parent_of(pid):
    """The process that has started another one."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def worker_of(run):
    """The process of Ray's whose run is trained in a folder."""
    fork_server = parent_of(wait_until(lambda: process_of(run)))
    return parent_of(fork_server)


@pytest.mark.slow
def test_a_run_goes_on_when_its_worker_is_killed(tmp_path):
    """To the same end as one that was left alone; and each line is printed once."""
    arguments = [*RAY, "loss.beta=0.1,0.2", *LONG]
    process = start([*arguments, "sweep.name=r"], tmp_path)
    folder = tmp_path / "multirun" / "r"
    run, other = folder / "loss.beta=0.1", folder / "loss.beta=0.2"
    wait_until(lambda: is_training(run))
    os.killpg(os.getpgid(worker_of(run)), signal.SIGKILL)
    code, out = finish(process)
    assert code == 0, out
    assert statuses(folder) == {run.name: "finished", other.name: "finished"}
    assert (folder / "report.md").exists()
    assert "resuming at step" in (run / "train.log").read_text()
    assert "resuming at step" not in (other / "train.log").read_text()
    assert validated(run) == validated(other) == EPOCHS
    for line in (other / "train.log").read_text().splitlines():
        assert out.count(line) == 1
    assert "auth_token" not in [file.name for file in (tmp_path / "home").rglob("*")]

    assert run_sweep([*LONG, "loss.beta=0.1", "sweep.name=alone"], tmp_path)[0] == 0
    assert identical(state_of(run), state_of(tmp_path / "multirun/alone/defaults"))


@pytest.mark.slow
def test_a_search_has_several_trials_at_once_and_ctrl_c_saves_them(tmp_path):
    arguments = [
        *RAY, *FROM_STUDY, "hydra.launcher.n_jobs=2", "hydra.sweeper.n_trials=4",
        "sweep.name=o", LONG[0], LONG[2], "trainer.max_steps=400",
    ]  # fmt: skip
    folder = tmp_path / "multirun" / "o"
    process = start(arguments, tmp_path, start_new_session=True)
    wait_until(lambda: sum(map(is_training, folder.glob("loss*"))) == 2)
    os.killpg(process.pid, signal.SIGINT)
    code, out = finish(process)
    assert code != 0
    assert "Resume the sweep" in out
    assert list(statuses(folder).values()) == ["interrupted"] * 2

    code, out = run_sweep(arguments, tmp_path)
    assert code == 0, out
    assert list(statuses(folder).values()) == ["finished"] * 4
    trials = trials_of(folder / "study.db")
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 4
    logs = [(run / "train.log").read_text() for run in folder.glob("loss*")]
    assert sum("resuming at step" in log for log in logs) == 2


def test_a_run_is_interrupted_once(monkeypatch, tmp_path):
    """Each thread of a search stops the runs. A second cancel kills a run that saves, and Ray."""
    cancelled = []
    monkeypatch.setattr("ray.cancel", cancelled.append)
    launcher = RayLauncher(None, 2, 1, None, None)
    launcher.at_work = {"task 1": tmp_path / "1", "task 2": tmp_path / "2"}
    with ThreadPoolExecutor() as threads:
        for _ in range(8):
            threads.submit(launcher.stop)
    assert cancelled == ["task 1", "task 2"]


def test_a_machine_without_the_folder_of_the_sweep_is_named(tmp_path):
    """Also where an earlier sweep of that name is left on it; and it writes nothing there."""
    sweep = tmp_path / "multirun" / "s"
    job = OmegaConf.create({"hydra": {"runtime": {"cwd": str(tmp_path)}}})
    for record in (None, '{"started": "2026-11-30T09:00:00.000"}'):
        if record:
            sweep.mkdir(parents=True)
            (sweep / "sweep.json").write_text(record)
        error = run_on_worker("2026-11-30T10:00:00.000", sweep, None, job, None, {})
        assert isinstance(error, UserError)
        assert str(error).startswith(f"hydra.sweep.dir: {sweep} on {socket.gethostname()} is not")
    assert [file.name for file in sweep.iterdir()] == ["sweep.json"]
