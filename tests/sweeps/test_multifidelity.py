"""Seeds and rungs with runs that train, killed and started again."""

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
)
from tests.support.train_command import TINY, run_train
from vae.sweeps.comparison import read_sweep
from vae.sweeps.study import CONTINUES

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
    draw = random.Random(launcher)
    arguments = [*SEARCH, "hydra.sweeper.n_trials=7", f"hydra/launcher={launcher}"]
    for _ in range(KILLS):
        process = start(arguments, tmp_path)
        time.sleep(draw.uniform(6, 16))
        if process.poll() is None:
            kill(process)
    code, out = run_sweep(arguments, tmp_path)
    assert code == 0, out
    folder = tmp_path / "multirun/m"
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
