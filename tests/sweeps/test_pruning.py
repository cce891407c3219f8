"""Ending bad trials early, through Optuna's pruners."""

import optuna
import pytest

from tests.support.search_processes import sweep_config
from tests.support.sweep_processes import FROM_STUDY, LONG, rows, summaries
from vae.sweeps.study import build_pruner
from vae.utils.errors import UserError


def expected_by_median(trials, startup, warmup):
    """(trial, epoch) where the rule of Google Vizier's median stopping says stop, by hand."""
    stops = {}
    for number, trial in enumerate(trials):
        others = [t.intermediate_values for t in trials[:number] if t.state.name == "COMPLETE"]
        for epoch, _ in sorted(trial.intermediate_values.items()):
            at_epoch = sorted(o[epoch] for o in others if epoch in o)
            best = min(v for e, v in trial.intermediate_values.items() if e <= epoch)
            if len(others) < startup or epoch < warmup or not at_epoch:
                continue
            middle = len(at_epoch) // 2
            median = at_epoch[middle] if len(at_epoch) % 2 else sum(at_epoch[middle - 1 :][:2]) / 2
            if best > median:
                stops[number] = epoch
                break
    return stops


@pytest.mark.slow
def test_bad_trials_are_pruned(sweep, tmp_path):
    """Learning rates good and less so: some end early, where the median rule says."""
    arguments = [
        "hydra/sweeper=study", "hydra/sweeper/sampler=qmc", "hydra.sweeper.sampler.seed=3",
        "optimizer.lr=tag(log, interval(5e-4, 3e-2))", "hydra.sweeper.n_trials=8", "sweep.name=o",
        "sweep.pruner=median", "sweep.pruner_startup=2", "sweep.pruner_warmup=3", *LONG,
        "trainer.max_steps=40",
    ]  # fmt: skip
    code, out = sweep(arguments, tmp_path)
    assert code == 0, out
    folder = tmp_path / "multirun" / "o"
    trials = optuna.load_study(study_name="o", storage=f"sqlite:///{folder}/study.db").trials
    pruned = {t.number: max(t.intermediate_values) for t in trials if t.state.name == "PRUNED"}
    assert pruned == expected_by_median(trials, startup=2, warmup=3)
    assert 1 <= len(pruned) <= 6
    for trial in trials:
        run = folder / trial.user_attrs["run"]
        values = {row["epoch"]: row["val/bpd"] for row in rows(run) if "val/bpd" in row}
        summary = summaries(folder)[run.name]
        if trial.number in pruned:
            assert summary["status"] == "pruned"
            assert trial.intermediate_values == values
            assert summary["step"] == 4 * pruned[trial.number] < 40
            assert trial.value == values[pruned[trial.number]]
        else:
            assert summary["status"] == "finished"
            assert trial.value == values[10]


def test_pruning_needs_one_objective(sweep, tmp_path):
    arguments = [*FROM_STUDY, "objective=[val/rate,val/mse]", "sweep.pruner=median"]
    code, out = sweep([*arguments, "sweep.name=o"], tmp_path)
    assert code != 0
    assert "sweep.pruner: got 'median'" in out
    assert "Traceback" not in out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pruner": "mean"}, "sweep.pruner: got 'mean'"),
        ({"pruner_warmup": 0}, "sweep.pruner_warmup: got 0"),
        ({"pruner_startup": -1}, "sweep.pruner_startup: got -1"),
        ({"max_failures": 0}, "sweep.max_failures: got 0"),
        ({"name": "a/b"}, "sweep.name: got 'a/b'"),
    ],
)
def test_mistakes(change, words):
    with pytest.raises(UserError, match=words):
        sweep_config(**change)


def test_hyperband_counts_in_epochs():
    pruner = build_pruner(sweep_config(pruner="hyperband", pruner_warmup=3), 27)
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
    assert build_pruner(sweep_config(), 4) is None
