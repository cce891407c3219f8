"""The search of a study, with a launcher that trains nothing."""

import threading
import time
from concurrent.futures.process import BrokenProcessPool
from functools import cache

import optuna
import pytest
from omegaconf import OmegaConf

from tests.support.search_processes import (
    ask_for_all,
    at_once,
    launcher,
    make_search,
    raise_after,
    search_slowly,
    sweep_config,
)
from vae.runs.run_dir import write_summary
from vae.sweeps import search as search_module
from vae.sweeps.study import MAX_TRIES, counts_towards_total, open_storage, open_study, storage_url
from vae.utils.errors import UserError


@cache
def study_of(folder):
    return optuna.load_study(study_name="s", storage=f"sqlite:///{folder}/study.db")


def trials_of(folder):
    """The study's trials, by Optuna alone."""
    return study_of(folder).trials


def states_of(folder):
    return [trial.state.name for trial in trials_of(folder)]


def results_of(folder):
    return OmegaConf.to_container(OmegaConf.load(folder / "optimization_results.yaml"))


def test_trials_are_launched_and_told(tmp_path):
    launch = launcher(tmp_path, lambda beta: 2 * beta)
    make_search(tmp_path, launch).run()
    trials = trials_of(tmp_path)
    assert states_of(tmp_path) == ["COMPLETE"] * 4
    assert [trial.value for trial in trials] == [2 * t.params["loss.beta"] for t in trials]
    assert launch.launched == [
        [f"loss.beta={t.params['loss.beta']}", "seed=1", f"sweep.trial={t.number}"] for t in trials
    ]
    assert [trial.user_attrs["run"] for trial in trials] == [job[0] for job in launch.launched]


def test_n_jobs_trials_are_launched_together(tmp_path):
    launch = launcher(tmp_path, lambda beta: beta)
    make_search(tmp_path, launch, total=7, at_once=3).run()
    assert launch.firsts == [0, 3, 6]
    assert states_of(tmp_path) == ["COMPLETE"] * 7


def test_n_trials_counts_all_starts(tmp_path):
    for total, launched in ((3, 3), (3, 0), (5, 2), (2, 0)):
        launch = launcher(tmp_path, lambda beta: beta)
        make_search(tmp_path, launch, total=total).run()
        assert len(launch.launched) == launched
    assert len({trial.params["loss.beta"] for trial in trials_of(tmp_path)}) == 5


def test_n_trials_counts_all_processes(tmp_path):
    """They ask at the same time: no trial is lost, doubled, or one too many."""
    at_once(search_slowly, tmp_path, 8, 2)
    trained = list(map(float, (tmp_path / "trained").read_text().split()))
    counted = [trial for trial in trials_of(tmp_path) if counts_towards_total(trial)]
    assert len(counted) == 8
    assert sorted(trial.value for trial in counted) == sorted(trained)
    assert len(set(trained)) == 8


def test_no_process_exceeds_the_total(tmp_path, monkeypatch):
    search = make_search(tmp_path, None, total=1)
    ask, other = search.study.ask, study_of(tmp_path)
    monkeypatch.setattr(search.study, "ask", lambda: (other.ask(), ask())[1])
    assert search.ask() == []
    assert states_of(tmp_path) == ["RUNNING", "FAIL"]
    assert [counts_towards_total(trial) for trial in trials_of(tmp_path)] == [True, False]


def test_a_queued_trial_runs_once(tmp_path):
    study = open_study(open_storage(storage_url(sweep_config(), tmp_path)), "s", ["minimize"])
    for number in range(24):
        study.enqueue_trial({"loss.beta": number / 24})
    at_once(ask_for_all, tmp_path)
    assert sorted(map(int, (tmp_path / "asked").read_text().split())) == list(range(24))


def test_a_run_that_fails_is_a_failed_trial_with_its_reason(tmp_path):
    def train(beta):
        if beta > 0.6:
            raise UserError(f"too much: {beta:.2g}")
        return beta

    make_search(tmp_path, launcher(tmp_path, train), total=6).run()
    seen = set()
    for trial in trials_of(tmp_path):
        beta = trial.params["loss.beta"]
        failed = trial.state.name == "FAIL"
        seen.add(failed)
        assert failed == (beta > 0.6)
        assert trial.user_attrs.get("reason") == (f"too much: {beta:.2g}" if failed else None)
    assert seen == {True, False}


def test_a_run_that_was_pruned_is_a_pruned_trial(tmp_path):
    def train(beta):
        run = tmp_path / f"loss.beta={beta}"
        run.mkdir()
        write_summary(run, {"status": "pruned" if beta > 0.6 else "finished"})
        return beta

    make_search(tmp_path, launcher(tmp_path, train), total=6).run()
    found = {trial.params["loss.beta"]: trial.state.name for trial in trials_of(tmp_path)}
    assert found == {beta: "PRUNED" if beta > 0.6 else "COMPLETE" for beta in found}
    assert set(found.values()) == {"PRUNED", "COMPLETE"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit("stop")])
def test_an_ended_search_leaves_no_running_trial(error, tmp_path):
    """What it had begun is closed and queued, and the next start goes on with it."""
    with pytest.raises(type(error)):
        make_search(tmp_path, launcher(tmp_path, raise_after(1, error))).run()
    assert states_of(tmp_path) == ["COMPLETE", "FAIL", "WAITING"]
    cut = trials_of(tmp_path)[1].params
    launch = launcher(tmp_path, lambda beta: beta)
    make_search(tmp_path, launch).run()
    assert launch.launched[0][0] == f"loss.beta={cut['loss.beta']}"
    assert states_of(tmp_path) == ["COMPLETE", "FAIL", *["COMPLETE"] * 3]


def test_all_untold_trials_are_requeued(tmp_path):
    train = raise_after(3, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        make_search(tmp_path, launcher(tmp_path, train), at_once=2, total=6).run()
    assert states_of(tmp_path) == ["COMPLETE"] * 2 + ["FAIL"] * 2 + ["WAITING"] * 2


def test_a_search_may_be_interrupted_any_number_of_times(tmp_path):
    """A trial that is interrupted took no process down: it goes on, however often."""
    for _ in range(MAX_TRIES + 1):
        with pytest.raises(KeyboardInterrupt):
            make_search(tmp_path, launcher(tmp_path, raise_after(0, KeyboardInterrupt()))).run()
    assert not any(map(counts_towards_total, trials_of(tmp_path)))
    assert states_of(tmp_path)[-1] == "WAITING"


def test_trials_of_a_dead_search_are_requeued(tmp_path):
    (left,) = make_search(tmp_path, None).ask()
    make_search(tmp_path, launcher(tmp_path, lambda beta: beta), total=2).run()
    assert states_of(tmp_path) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert trials_of(tmp_path)[1].params == left.params


def test_runs_of_lost_workers_are_requeued(tmp_path):
    seen = []

    def train(beta):
        seen.append(beta)
        if len(seen) == 1:
            raise BrokenProcessPool("a worker died")
        return beta

    make_search(tmp_path, launcher(tmp_path, train), total=2).run()
    assert states_of(tmp_path) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert seen[0] == seen[1] != seen[2]


def test_runs_that_kill_every_worker_are_given_up(tmp_path):
    first = []

    def train(beta):
        first.append(beta)
        if beta == first[0]:
            raise BrokenProcessPool("a worker died")
        return beta

    make_search(tmp_path, launcher(tmp_path, train), total=2).run()
    assert first.count(first[0]) == MAX_TRIES
    assert states_of(tmp_path) == ["FAIL"] * MAX_TRIES + ["COMPLETE"]
    assert [counts_towards_total(trial) for trial in trials_of(tmp_path)] == [
        False,
        False,
        True,
        True,
    ]


def test_running_trials_send_heartbeats(tmp_path, monkeypatch):
    monkeypatch.setattr(search_module, "HEARTBEAT", 0.02)
    seen = []

    def train(beta):
        deadline = time.monotonic() + 10
        while len(set(seen)) < 3 and time.monotonic() < deadline:
            seen.append(trials_of(tmp_path)[-1].user_attrs["owner"]["seen"])
        return beta

    threads = threading.active_count()
    make_search(tmp_path, launcher(tmp_path, train), total=1).run()
    assert len(set(seen)) >= 3
    assert threading.active_count() == threads


def test_the_result_is_the_best_trial(tmp_path):
    launch = launcher(tmp_path, lambda beta: (beta - 0.5) ** 2)
    make_search(tmp_path, launch, objectives=["val/psnr"], total=6).run()
    value, number, beta = max(
        ((t.params["loss.beta"] - 0.5) ** 2, t.number, t.params["loss.beta"])
        for t in trials_of(tmp_path)
    )
    assert results_of(tmp_path) == {
        "name": "optuna", "best_params": {"loss.beta": beta}, "best_value": value,
        "best_trial": number, "best_run": f"loss.beta={beta}",
    }  # fmt: skip


def test_the_result_of_two_objectives_is_the_pareto_front(tmp_path):
    """Both grow beyond 0.5 and trade below it, so the front is what lies below."""
    launch = launcher(tmp_path, lambda beta: [beta, abs(beta - 0.5)])
    make_search(tmp_path, launch, objectives=["val/rate", "val/mse"], total=6).run()
    betas = [trial.params["loss.beta"] for trial in trials_of(tmp_path)]
    above = [beta for beta in betas if beta > 0.5]
    below = [beta for beta in betas if beta <= 0.5]
    nearer = [b for b in above if all(b - 0.5 < 0.5 - other for other in below)]
    front = below + ([min(nearer)] if nearer else [])
    found = results_of(tmp_path)["solutions"]
    assert sorted(s["params"]["loss.beta"] for s in found) == sorted(front)
    for solution in found:
        beta = solution["params"]["loss.beta"]
        assert (solution["values"], solution["run"]) == (
            [beta, abs(beta - 0.5)],
            f"loss.beta={beta}",
        )


def test_no_completed_trial_means_no_result(tmp_path):
    launch = launcher(tmp_path, raise_after(0, UserError("no")))
    with pytest.raises(UserError, match="no trial of s succeeded"):
        make_search(tmp_path, launch, total=2).run()
    assert not (tmp_path / "optimization_results.yaml").exists()


def test_a_lost_storage_is_a_user_error(tmp_path):
    def train(beta):
        (tmp_path / "study.db").write_bytes(b"no database" * 1000)
        return beta

    with pytest.raises(UserError, match=r"^sweep\.storage: .*sweep\.name=s: it goes on where"):
        make_search(tmp_path, launcher(tmp_path, train)).run()
