"""A killed sweep resumes under its name."""

import os
import signal
from pathlib import Path

import pytest

from tests.support.run_files import identical, weights
from tests.support.sweep_processes import (
    EPOCHS,
    FROM_STUDY,
    LONG,
    finish,
    is_gone,
    is_training,
    kill,
    process_of,
    run_sweep,
    start,
    statuses,
    summaries,
    trials_of,
    validated,
    wait_until,
)
from tests.support.train_command import TINY, run_train
from vae.runs.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow


def test_an_interrupted_grid_resumes(tmp_path):
    """kill -9 in the second of three runs: the first is not run again, the second goes on."""
    arguments = ["loss.beta=0.001,0.01,0.1", "sweep.name=s", *LONG]
    folder = tmp_path / "multirun" / "s"
    first, second = folder / "loss.beta=0.001", folder / "loss.beta=0.01"
    process = start(arguments, tmp_path)
    wait_until(lambda: is_training(second))
    kill(process)
    assert statuses(folder) == {first.name: "finished", second.name: "interrupted"}
    before = (first / "checkpoints/last.pt").stat().st_mtime_ns
    code, out = run_sweep(arguments, tmp_path)
    assert code == 0, out
    assert (first / "checkpoints/last.pt").stat().st_mtime_ns == before
    assert "loss.beta=0.001: finished already" in out
    assert out.count("resuming at step") == 1
    assert list(statuses(folder).values()) == ["finished"] * 3
    assert validated(second) == EPOCHS  # nothing lost, nothing doubled
    alone = [*TINY, *LONG, "loss.beta=0.01", "hydra.run.dir=alone"]
    assert run_train(alone, tmp_path).returncode == 0
    assert identical(weights(second), weights(tmp_path / "alone"))


def test_an_interrupted_study_resumes(tmp_path):
    """kill -9 in the second trial: it goes on, no trial stays open, n_trials is the total."""
    arguments = [*FROM_STUDY, "sweep.name=o", *LONG, "hydra.sweeper.sampler.seed=1"]
    arguments.append("hydra.sweeper.n_trials=4")
    folder = tmp_path / "multirun" / "o"
    process = start(arguments, tmp_path)
    second = wait_until(lambda: summaries(folder) and next(
        filter(is_training, folder.glob("loss*")), None)
    )  # fmt: skip
    kill(process)
    before = trials_of(folder / "study.db")
    assert [t.state.name for t in before] == ["COMPLETE", "RUNNING"]

    code, out = run_sweep(arguments, tmp_path)
    assert code == 0, out
    trials = trials_of(folder / "study.db")
    assert [t.state.name for t in trials] == ["COMPLETE", "FAIL", *["COMPLETE"] * 3]
    assert trials[1].user_attrs["reason"] == "its process died"
    assert trials[2].params == before[1].params  # tried again …
    assert out.count("resuming at step") == 1  # … from where it was
    assert validated(second) == EPOCHS
    betas = [t.params["loss.beta"] for t in trials if t.state.name == "COMPLETE"]
    assert len(set(betas)) == 4  # the sampler's seed does not make it repeat itself
    assert len(summaries(folder)) == 4

    arguments[-1] = "hydra.sweeper.n_trials=5"
    assert run_sweep(arguments, tmp_path)[0] == 0
    assert [t.state.name for t in trials_of(folder / "study.db")].count("COMPLETE") == 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_the_run_and_gives_the_trial_back(number, tmp_path):
    arguments = [*FROM_STUDY, "sweep.name=o", *LONG, "trainer.max_steps=100000"]
    folder = tmp_path / "multirun" / "o"
    process = start(arguments, tmp_path)
    wait_until(lambda: any(map(is_training, folder.glob("loss*"))))
    process.send_signal(number)
    code, out = finish(process)
    assert code != 0
    assert "Resume the sweep:  python" in out.splitlines()[-2]
    assert "resume=" not in out
    ((name, summary),) = summaries(folder).items()
    assert summary["status"] == "interrupted"
    assert load_checkpoint(folder / name / "checkpoints/last.pt")["step"] == summary["step"]
    assert [t.state.name for t in trials_of(folder / "study.db")] == ["WAITING"]


def test_ctrl_c_saves_the_runs_of_joblibs_workers(tmp_path):
    """A terminal sends it to all processes."""
    arguments = ["hydra/launcher=joblib", "loss.beta=0.1,0.2,0.3", "sweep.name=s", *LONG]
    process = start([*arguments, "trainer.max_steps=100000"], tmp_path, start_new_session=True)
    folder = tmp_path / "multirun" / "s"
    runs = [folder / "loss.beta=0.1", folder / "loss.beta=0.2"]
    wait_until(lambda: all(map(is_training, runs)))
    os.killpg(process.pid, signal.SIGINT)
    _, out = finish(process)
    assert "Resume the sweep:  python" in out
    assert statuses(folder) == {run.name: "interrupted" for run in runs}


def test_a_killed_launcher_leaves_no_training_process(tmp_path):
    """joblib's workers outlive their launcher."""
    arguments = ["hydra/launcher=joblib", "loss.beta=0.1,0.2,0.3", "sweep.name=s", *LONG]
    run = tmp_path / "multirun" / "s" / "loss.beta=0.1"
    process = start([*arguments, "trainer.max_steps=100000"], tmp_path)
    wait_until(lambda: is_training(run))
    trainer = wait_until(lambda: process_of(run))
    kill(process)
    wait_until(lambda: is_gone(trainer), timeout=30)
    assert not (run.parent / "loss.beta=0.3").exists()
    for folder in (tmp_path, Path("/dev/shm")):
        assert not list(folder.rglob(f"joblib_memmapping_folder_{process.pid}_*"))


def test_another_sweep_under_the_same_name_is_refused_and_a_larger_one_is_not(tmp_path):
    folder = tmp_path / "multirun" / "s"
    grid = ["loss.beta=0.1,0.2", "sweep.name=s"]
    assert run_sweep(grid, tmp_path)[0] == 0
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    code, out = run_sweep([*grid, "optimizer.lr=1e-2"], tmp_path)
    assert code != 0
    assert "sweep.name: multirun/s is a sweep with optimizer.lr=0.005" in out
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    code, out = run_sweep(["loss.beta=0.1,0.2,0.3", "sweep.name=s"], tmp_path)
    assert (code, out.count("finished already")) == (0, 2)
    one = ["loss.beta=0.1", "sweep.name=s"]  # the key stays in the folder's name
    code, out = run_sweep([*one, "trainer.epochs=3"], tmp_path)
    assert (code, out.count("resuming at step 8")) == (0, 1)
    steps = {name: summary["step"] for name, summary in summaries(folder).items()}
    assert steps == {"loss.beta=0.1": 12, "loss.beta=0.2": 8, "loss.beta=0.3": 8}
    code, out = run_sweep([*one, "trainer.epochs=1"], tmp_path)
    assert (code, "is at step 12 already" in out) == (1, True), out
    accepted = folder / "loss.beta=0.1/.hydra/accepted.yaml"
    assert "trainer.epochs=3" in accepted.read_text()  # what it was last trained with
