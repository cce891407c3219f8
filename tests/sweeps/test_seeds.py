"""`sweep.seeds`: each trial is trained with several seeds, and its means count."""

from statistics import fmean

import pytest

from tests.sweeps.test_search import make_search, results_of, returned, states_of, trials_of
from vae.runs.config import constraints_of
from vae.runs.run_dir import write_summary
from vae.utils.errors import UserError

SEEDS = (5, 6, 7)


def search_with_seeds(folder, train, **options):
    """Search, with runs that are calls of `train(beta, seed)`; (beta, seed) of each run.

    `train` returns the objective, or the whole metrics.
    """
    launched = []

    def launch(overrides, initial_job_idx):
        (job,) = overrides
        values = dict(word.split("=") for word in job)
        beta, seed = float(values["loss.beta"]), int(values["seed"])
        launched.append((beta, seed))
        try:
            found = train(beta, seed)
        except UserError as error:
            return [returned(folder / f"{job[0]},{seed}", error)]
        metrics = found if isinstance(found, dict) else {"val/bpd": found}
        run = folder / f"{job[0]},seed={seed}"
        run.mkdir(exist_ok=True)
        write_summary(run, {"status": "finished", "final": metrics})
        return [returned(run, metrics["val/bpd"])]

    make_search(folder, launch, seeds=SEEDS, **options).run()
    return launched


@pytest.mark.parametrize("at_once", [1, 4])
def test_the_mean_over_the_seeds_is_told(at_once, tmp_path):
    launched = search_with_seeds(tmp_path, lambda beta, seed: beta * seed, at_once=at_once)
    trials = trials_of(tmp_path)
    assert states_of(tmp_path) == ["COMPLETE"] * 4
    assert sorted(launched) == sorted((t.params["loss.beta"], s) for t in trials for s in SEEDS)
    for trial in trials:
        beta = trial.params["loss.beta"]
        assert trial.value == pytest.approx(fmean(beta * seed for seed in SEEDS))
        assert trial.user_attrs["runs"] == [f"loss.beta={beta},seed={seed}" for seed in SEEDS]
    best = min(trials, key=lambda trial: trial.value)
    assert results_of(tmp_path)["best_runs"] == best.user_attrs["runs"]


def test_a_trial_fails_with_one_of_its_seeds(tmp_path):
    """Without its other seeds: their mean would be another quantity."""

    def train(beta, seed):
        if beta > 0.5 and seed == 6:
            raise UserError("diverged")
        return beta

    launched = search_with_seeds(tmp_path, train, total=8)
    bad = [t for t in trials_of(tmp_path) if t.params["loss.beta"] > 0.5]
    assert 0 < len(bad) < 8
    for trial in bad:
        assert (trial.state.name, trial.user_attrs["reason"]) == ("FAIL", "diverged")
        assert [seed for beta, seed in launched if beta == trial.params["loss.beta"]] == [5, 6]


def test_an_interrupted_trial_is_tried_again_with_all_seeds(tmp_path):
    """(Each run of it that has finished is skipped by its folder.)"""
    calls = []

    def train(beta, seed):
        calls.append(beta)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return beta

    with pytest.raises(KeyboardInterrupt):
        search_with_seeds(tmp_path, train)
    assert states_of(tmp_path) == ["COMPLETE", "WAITING"]
    launched = search_with_seeds(tmp_path, train, total=2)
    assert launched == [(calls[3], seed) for seed in SEEDS]


def test_infeasible_trials_never_win(tmp_path):
    """The smaller β, the better, but its rate is too large; by the mean over the seeds."""

    def train(beta, seed):
        return {"val/bpd": beta, "val/rate": seed / beta}

    constraints = constraints_of("val/rate <= 10")
    search_with_seeds(tmp_path, train, total=12, constraints=constraints)
    betas = [trial.params["loss.beta"] for trial in trials_of(tmp_path)]
    feasible = [beta for beta in betas if 6 / beta <= 10]
    assert 0 < len(feasible) < 12
    assert results_of(tmp_path)["best_value"] == pytest.approx(min(feasible))
    for trial in trials_of(tmp_path):
        excess = trial.constraints["val/rate <= 10"]
        assert excess == pytest.approx(6 / trial.params["loss.beta"] - 10)


def test_a_search_without_a_feasible_trial_says_so(tmp_path):
    def train(beta, seed):
        return {"val/bpd": beta, "val/rate": 1.0}

    constraints = constraints_of(["val/rate <= 2", "val/rate >= 1.5"])
    with pytest.raises(UserError, match=r"^sweep.constraint: no trial of s keeps val/rate <="):
        search_with_seeds(tmp_path, train, constraints=constraints)
    assert states_of(tmp_path) == ["COMPLETE"] * 4
