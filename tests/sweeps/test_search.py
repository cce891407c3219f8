"""The search of a study, with a launcher that trains nothing."""

import threading
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
)
from vae.runs.run_dir import write_summary
from vae.sweeps import search as search_module
from vae.sweeps.study import MAX_TRIES, counted_trials, requeue
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


def test_trials_are_launched_together_and_told(tmp_path):
    launch = launcher(tmp_path, lambda beta: 2 * beta)
    make_search(tmp_path, launch, total=7, at_once=3).run()
    trials = trials_of(tmp_path)
    assert states_of(tmp_path) == ["COMPLETE"] * 7
    assert launch.firsts == [0, 3, 6]
    assert [trial.value for trial in trials] == [2 * t.params["loss.beta"] for t in trials]
    assert launch.launched == [
        [f"loss.beta={t.params['loss.beta']}", "seed=1", f"sweep.trial={t.number}"] for t in trials
    ]
    assert [trial.user_attrs["run"] for trial in trials] == [job[0] for job in launch.launched]


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
    counted = counted_trials(study_of(tmp_path))
    assert len(counted) == 8
    assert sorted(trial.value for trial in counted) == sorted(trained)
    assert len(set(trained)) == 8


def test_no_process_exceeds_the_total(tmp_path, monkeypatch):
    search = make_search(tmp_path, None, total=1)
    ask, other = search.study.ask, study_of(tmp_path)
    monkeypatch.setattr(search.study, "ask", lambda: (other.ask(), ask())[1])
    assert search.ask() == []
    assert states_of(tmp_path) == ["RUNNING", "WAITING"]


def test_a_queued_trial_runs_once(tmp_path):
    study = make_search(tmp_path, None).study
    for number in range(24):
        study.enqueue_trial({"loss.beta": number / 24})
    at_once(ask_for_all, tmp_path)
    assert sorted(map(int, (tmp_path / "asked").read_text().split())) == list(range(24))


def test_each_end_is_told(tmp_path):
    """A failed run is a failed trial with its reason, a pruned one a pruned trial."""

    def train(beta):
        run = tmp_path / f"loss.beta={beta}"
        run.mkdir()
        if beta > 0.7:
            raise UserError(f"too much: {beta:.2g}")
        write_summary(run, {"status": "pruned" if beta > 0.5 else "finished"})
        return beta

    make_search(tmp_path, launcher(tmp_path, train), total=9).run()
    for trial in trials_of(tmp_path):
        beta = trial.params["loss.beta"]
        state = "FAIL" if beta > 0.7 else "PRUNED" if beta > 0.5 else "COMPLETE"
        assert trial.state.name == state
        assert trial.user_attrs.get("reason") == (f"too much: {beta:.2g}" if beta > 0.7 else None)
    assert set(states_of(tmp_path)) == {"FAIL", "PRUNED", "COMPLETE"}


def test_an_interrupted_search_gives_its_trials_back(tmp_path):
    """However often: they have taken no process down. The next start begins with them."""
    for error in (SystemExit("stop"), *[KeyboardInterrupt()] * (MAX_TRIES + 1)):
        train = raise_after(2 if isinstance(error, SystemExit) else 0, error)
        with pytest.raises(type(error)):
            make_search(tmp_path, launcher(tmp_path, train), at_once=2).run()
        assert states_of(tmp_path) == ["COMPLETE"] * 2 + ["WAITING"] * 2
    cut = [trial.params["loss.beta"] for trial in trials_of(tmp_path)[2:]]
    launch = launcher(tmp_path, lambda beta: beta)
    make_search(tmp_path, launch, total=5).run()
    assert [job[0] for job in launch.launched[:2]] == [f"loss.beta={beta}" for beta in cut]
    assert states_of(tmp_path) == ["COMPLETE"] * 5


def test_trials_of_a_dead_search_are_requeued(tmp_path):
    (left,) = make_search(tmp_path, None).ask()
    make_search(tmp_path, launcher(tmp_path, lambda beta: beta), total=2).run()
    assert states_of(tmp_path) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert trials_of(tmp_path)[1].params == left.params


@pytest.mark.parametrize("when", ["before its claim", "while it trained"])
def test_a_trial_may_be_taken_over_by_another_host(when, tmp_path, monkeypatch):
    """As this one slept for three minutes: that host has closed it, and queued its values."""
    taken = []

    def take(value):
        if not taken:
            taken.append(study_of(tmp_path).trials[0])
            requeue(study_of(tmp_path), taken[0]._trial_id)
        return value

    search = make_search(tmp_path, launcher(tmp_path, take), total=2)
    if when == "before its claim":
        ask = search.study.ask
        monkeypatch.setattr(search.study, "ask", lambda: take(ask()))
    search.run()
    assert states_of(tmp_path) == ["FAIL", "COMPLETE", "COMPLETE"]


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
    assert [trial.number for trial in counted_trials(study_of(tmp_path))] == [2, 3]


def test_running_trials_send_heartbeats(tmp_path, monkeypatch):
    monkeypatch.setattr(search_module, "HEARTBEAT", 0.02)
    third = threading.Semaphore(0)
    search = make_search(tmp_path, None, total=1)
    record = search.study._storage.record_heartbeat

    def spy(trial_id):
        record(trial_id)
        third.release()

    monkeypatch.setattr(search.study._storage, "record_heartbeat", spy)
    search.launch = launcher(
        tmp_path, lambda beta: beta if all(third.acquire(timeout=10) for _ in range(3)) else None
    )
    threads = threading.active_count()
    search.run()
    assert states_of(tmp_path) == ["COMPLETE"]
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
    """No other trial has a lower rate and a higher PSNR than one of the front."""

    def train(beta):
        return [beta, -abs(beta - 0.5)]

    launch = launcher(tmp_path, train)
    make_search(tmp_path, launch, objectives=["val/rate", "val/psnr"], total=8).run()
    values = [train(trial.params["loss.beta"]) for trial in trials_of(tmp_path)]
    front = [v for v in values if not any(o != v and o[0] <= v[0] and o[1] >= v[1] for o in values)]
    assert 1 < len(front) < len(values)
    found = results_of(tmp_path)["solutions"]
    assert sorted(solution["values"] for solution in found) == sorted(front)
    for solution in found:
        beta = solution["params"]["loss.beta"]
        assert (solution["values"], solution["run"]) == (train(beta), f"loss.beta={beta}")


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
