"""Ending bad trials early, through Optuna's pruners."""

from statistics import median

import optuna
import pytest

from tests.support.run_files import rows
from tests.support.sweep_processes import LONG, run_sweep, summaries, trials_of
from vae.runs.compose import compose
from vae.sweeps.study import build_pruner
from vae.utils.errors import UserError


def expected_by_median(trials, startup, warmup):
    """(trial, epoch) where the rule of Google Vizier's median stopping says stop, by hand."""
    stops = {}
    for number, trial in enumerate(trials):
        others = [t.intermediate_values for t in trials[:number] if t.state.name == "COMPLETE"]
        for epoch in sorted(trial.intermediate_values):
            at_epoch = [other[epoch] for other in others if epoch in other]
            best = min(v for e, v in trial.intermediate_values.items() if e <= epoch)
            may = len(others) >= startup and epoch >= warmup and at_epoch
            if may and best > median(at_epoch):
                stops[number] = epoch
                break
    return stops


@pytest.mark.slow
def test_bad_trials_are_pruned(tmp_path):
    """Learning rates good and less so: some end early, where the median rule says."""
    arguments = [
        "hydra/sweeper=study", "hydra/sweeper/sampler=qmc", "hydra.sweeper.sampler.seed=3",
        "optimizer.lr=tag(log, interval(5e-4, 3e-2))", "hydra.sweeper.n_trials=8", "sweep.name=o",
        "sweep.pruner=median", "sweep.pruner_startup=2", "sweep.pruner_warmup=3", *LONG,
        "trainer.max_steps=40",
    ]  # fmt: skip
    code, out = run_sweep(arguments, tmp_path)
    assert code == 0, out
    folder = tmp_path / "multirun" / "o"
    trials = trials_of(folder / "study.db")
    pruned = {t.number: max(t.intermediate_values) for t in trials if t.state.name == "PRUNED"}
    assert pruned == expected_by_median(trials, startup=2, warmup=3)
    assert 1 <= len(pruned) <= 6
    for trial in trials:
        run = trial.user_attrs["run"]
        values = {row["epoch"]: row["val/bpd"] for row in rows(folder / run) if "val/bpd" in row}
        last = pruned.get(trial.number, 10)
        summary = summaries(folder)[run]
        assert summary["status"] == ("pruned" if trial.number in pruned else "finished")
        assert summary["step"] == 4 * last
        assert trial.value == values[last]
        values.pop(10, None)  # at the end there is nothing to decide
        assert trial.intermediate_values == values


@pytest.mark.parametrize("setting", ["pruner_warmup=0", "pruner_startup=-1", "max_failures=0"])
def test_settings_have_ranges(setting):
    with pytest.raises(UserError, match=f"sweep.{setting.replace('=', ': got ')}"):
        compose(["sweep.name=s", f"sweep.{setting}"])


def test_hyperband_counts_in_epochs():
    settings = ["sweep.name=s", "sweep.pruner=hyperband", "sweep.pruner_warmup=3"]
    pruner = build_pruner(compose(settings).sweep, 27)
    study = optuna.create_study(pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=0))

    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        for epoch in range(1, 28):
            trial.report(x, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return x

    study.optimize(objective, n_trials=20)
    lasts = [max(t.intermediate_values) for t in study.trials if t.state.name == "PRUNED"]
    assert len(lasts) > 5
    assert min(lasts) >= 3  # pruner_warmup
