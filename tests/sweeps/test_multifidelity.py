"""Seeds and rungs with runs that train, killed and started again."""

import json
import random
import time

import pytest

from tests.support.run_files import identical, weights
from tests.support.sweep_processes import (
    finish,
    kill,
    run_sweep,
    start,
    statuses,
    trials_of,
    validated,
    wait_until,
)
from tests.support.train_command import TINY, run_train
from vae.runs.compose import compose
from vae.sweeps.comparison import read_sweep
from vae.sweeps.study import CONTINUES
from vae.sweeps.trial import train_locked

pytestmark = pytest.mark.slow

EPOCHS = ["trainer.epochs=9", "trainer.max_steps=null", "trainer.figures_every=1000"]
SEARCH = ["sweep=multifidelity", "model.latent_dim=4", "sweep.name=m", *EPOCHS]
KILLS = 4  # by hand the same was done with 20


def steps_of(epochs):
    """The steps of TINY after which a run of so many epochs was validated."""
    return [4 * epoch for epoch in range(1, epochs + 1)]


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_kills_lose_and_repeat_nothing(launcher, tmp_path):
    """kill -9 at random moments; the winner is, bit for bit, a run that was never stopped."""
    draw, folder = random.Random(launcher), tmp_path / "multirun/m"
    arguments = [*SEARCH, "hydra.sweeper.n_trials=7", f"hydra/launcher={launcher}"]

    def epochs():
        return sum(len(validated(run)) for run in folder.glob("loss*"))

    for _ in range(KILLS):
        goal = epochs() + draw.randint(1, 4)
        process = start(arguments, tmp_path)
        wait_until(lambda: epochs() >= goal or process.poll() is not None)  # noqa: B023
        time.sleep(draw.uniform(0, 1.5))
        kill(process)
    code, out = run_sweep(arguments, tmp_path)
    assert code == 0, out
    trials = trials_of(folder / "study.db")
    assert all(trial.state.is_finished() for trial in trials)
    runs = [run for run in folder.iterdir() if (run / "summary.json").exists()]
    ends = {run.name: len(validated(run)) for run in runs}
    assert sorted(ends.values()) in ([1, 1, 1, 1, 1, 3, 9], [1, 1, 1, 1, 3, 3, 9])
    assert len(runs) == 7
    for run in runs:  # no epoch is missing or doubled
        assert validated(run) == steps_of(ends[run.name])
    (winner,) = (run for run in runs if ends[run.name] == 9)
    assert statuses(folder)[winner.name] == "finished"
    alone = [*TINY, *EPOCHS, winner.name, "hydra.run.dir=alone"]
    beta = read_sweep(folder).best.value("loss.beta")
    alone[-2] = f"loss.beta={beta!r}"
    assert run_train(alone, tmp_path).returncode == 0
    assert identical(weights(winner), weights(tmp_path / "alone"))


@pytest.fixture
def stopping(tmp_path):
    """The settings of a run that stops at an epoch, and its folder."""
    folder = tmp_path / "multirun/s/defaults"
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra/overrides.yaml").write_text("[]\n")

    def settings(epoch):
        rungs = ["sweep.rungs=[1,2]", f"sweep.stop_at={epoch or 'null'}", "sweep.trial=0"]
        return compose([*TINY, *EPOCHS[1:], "trainer.epochs=3", "sweep.name=s", *rungs])

    return settings, folder


def test_a_run_that_is_killed_at_its_rung_stays_there(stopping, tmp_path, monkeypatch):
    """After its checkpoint was written, and before its summary was."""
    monkeypatch.chdir(tmp_path)
    settings, folder = stopping
    first = train_locked(settings(1), folder)
    state = weights(folder)
    (folder / "summary.json").unlink()
    again = train_locked(settings(1), folder)
    assert (again, validated(folder)) == (first, steps_of(1))
    assert identical(weights(folder), state)
    assert train_locked(settings(2), folder) != first
    assert train_locked(settings(1), folder) == first  # of another trial with the same values
    train_locked(settings(None), folder)
    assert validated(folder) == steps_of(3)
    assert train_locked(settings(2), folder)["val/bpd"] == rows(folder, 8)["val/bpd"]


def rows(folder, step):
    """The validation after a step."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return next(row for row in lines if row["step"] == step and "val/bpd" in row)


def test_a_search_through_submitit(tmp_path):
    """Several trials at once, and one that fails; Slurm's part is played by its local executor."""
    arguments = [
        "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10", "hydra/sweeper=study",
        "hydra.sweeper.n_jobs=2", "hydra.sweeper.n_trials=4", "sweep.name=s",
        "loss.beta=choice(0.1,-1)", "hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=0",
    ]  # fmt: skip
    code, out = run_sweep(arguments, tmp_path)
    assert code == 0, out
    for trial in trials_of(tmp_path / "multirun/s/study.db"):
        good = trial.params["loss.beta"] > 0
        assert trial.state.name == ("COMPLETE" if good else "FAIL")
        assert good or "loss.beta: got -1" in trial.user_attrs["reason"]


def test_seeds_rungs_and_joblib_together(tmp_path):
    arguments = [*SEARCH, "hydra.sweeper.n_trials=3", "hydra/launcher=joblib"]
    arguments += ["sweep.seeds=2", "hydra.launcher.n_jobs=2"]
    arguments.append("wandb.mode=offline")
    code, out = finish(start(arguments, tmp_path))
    assert code == 0, out
    folder = tmp_path / "multirun/m"
    trials = trials_of(folder / "study.db")
    (last,) = (trial for trial in trials if trial.state.name == "COMPLETE")
    assert [CONTINUES in trial.user_attrs for trial in trials] == [False] * 3 + [True] * 2
    (point,) = read_sweep(folder).points
    assert [run.name for run in point.runs] == last.user_attrs["runs"]
    assert point.metrics["val/bpd"] == pytest.approx(last.value)
    assert [run.value("seed") for run in point.runs] == [0, 1]
    for run in point.runs:
        assert validated(run.folder) == steps_of(9)
        assert len(list((run.folder / "wandb").glob("offline-run-*"))) == 3  # of one W&B run
