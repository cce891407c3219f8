"""The search of a study, with a launcher that trains nothing."""

import multiprocessing
import threading
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import cache
from types import SimpleNamespace

import optuna
import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage
from optuna.study import Study

from tests.support.sweep_processes import wait_until
from vae.runs.run_dir import write_summary
from vae.sweeps import search as search_module
from vae.sweeps.search import Search
from vae.sweeps.study import MAX_TRIES, counted_trials, open_storage, open_study, requeue
from vae.utils.errors import UserError


def make_search(folder, launch=None, objectives=("val/bpd",), total=4, at_once=1, **options):
    """A search for loss.beta, from 0 to 1, in `folder`, which is the sweep's."""
    storage = open_storage(SimpleNamespace(storage=None), folder)  # sweep.storage=null
    study = open_study(storage, "s", list(objectives), RandomSampler(seed=0))
    space = options.pop("space", {"loss.beta": FloatDistribution(0.0, 1.0)})
    return Search(
        study,
        folder,
        list(objectives),
        space,
        ["seed=1"],
        total,
        lambda: at_once,
        launch,
        **options,
    )


def run_search(folder, train=lambda beta: beta, **options):
    """Search, with jobs that are calls of `train(beta)`; the overrides of each job."""
    launched = []

    def launch(overrides, initial_job_idx):
        assert overrides[0][-1] == f"sweep.trial={initial_job_idx}"
        launched.extend(overrides)
        values = []
        for job in overrides:
            try:
                values.append(train(float(job[0].removeprefix("loss.beta="))))
            except UserError as error:
                values.append(error)
        return [returned(folder / job[0], v) for job, v in zip(overrides, values, strict=True)]

    make_search(folder, launch, **options).run()
    return launched


def returned(folder, value):
    """What Hydra's launchers return of a job: its value, or the error that it ended with."""
    status = JobStatus.FAILED if isinstance(value, Exception) else JobStatus.COMPLETED
    config = OmegaConf.create({"hydra": {"runtime": {"output_dir": str(folder)}}})
    return JobReturn(status=status, hydra_cfg=config, _return_value=value)


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


def test_trials_are_launched_together_and_the_best_is_the_result(tmp_path):
    launched = run_search(
        tmp_path, lambda beta: (beta - 0.5) ** 2, objectives=["val/psnr"], total=7, at_once=3
    )
    trials = trials_of(tmp_path)
    assert states_of(tmp_path) == ["COMPLETE"] * 7
    assert [trial.value for trial in trials] == [
        (trial.params["loss.beta"] - 0.5) ** 2 for trial in trials
    ]
    by_trial = sorted(launched, key=lambda job: int(job[-1].partition("=")[2]))
    assert by_trial == [
        [f"loss.beta={t.params['loss.beta']}", "seed=1", f"sweep.trial={t.number}"] for t in trials
    ]
    assert [trial.user_attrs["run"] for trial in trials] == [job[0] for job in by_trial]
    best = max(trials, key=lambda trial: trial.value)
    assert results_of(tmp_path) == {
        "name": "optuna", "best_params": best.params, "best_value": best.value,
        "best_trial": best.number, "best_run": by_trial[best.number][0],
    }  # fmt: skip


def test_a_free_worker_asks_for_the_next_trial(tmp_path):
    """The first run ends only when five others have ended: no batch waits for it."""
    others = threading.Semaphore(0)

    def train(beta):
        if beta == first:
            assert all(others.acquire(timeout=60) for _ in range(5))
        else:
            others.release()
        return beta

    first = RandomSampler(seed=0)._rng.rng.uniform(0.0, 1.0)
    run_search(tmp_path, train, total=6, at_once=2)
    assert trials_of(tmp_path)[0].value == pytest.approx(first)
    assert states_of(tmp_path) == ["COMPLETE"] * 6
    ends = [trial.datetime_complete for trial in trials_of(tmp_path)]
    assert ends[0] == max(ends)


def test_n_trials_counts_all_starts(tmp_path):
    for total, launched in ((3, 3), (3, 0), (5, 2), (2, 0)):
        assert len(run_search(tmp_path, total=total)) == launched
    assert len({trial.params["loss.beta"] for trial in trials_of(tmp_path)}) == 5


def search_in_step(folder, total, barrier):
    """One process's part in a study of which the other asks, and tells, at the same moments."""

    def train(beta):
        with suppress(threading.BrokenBarrierError), open(folder / "met", "a") as file:
            barrier.wait()
            file.write("x")
        with open(folder / "trained", "a") as file:
            file.write(f"{beta}\n")
        return beta

    run_search(folder, train, total=total)
    barrier.abort()


def test_processes_share_the_trials(tmp_path):
    """Queued or drawn, no trial is lost, run twice, or one too many."""
    study = make_search(tmp_path).study
    for number in range(12):
        study.enqueue_trial({"loss.beta": number / 12})
    context = multiprocessing.get_context("forkserver")
    barrier = context.Barrier(2, timeout=120)
    parts = [context.Process(target=search_in_step, args=(tmp_path, 21, barrier)) for _ in range(2)]
    for part in parts:
        part.start()
    for part in parts:
        part.join(240)
        part.kill()
    assert [part.exitcode for part in parts] == [0, 0]
    assert len((tmp_path / "met").read_text()) >= 10  # of 20: they did run at the same time
    trained = sorted(map(float, (tmp_path / "trained").read_text().split()))
    assert sorted(trial.value for trial in counted_trials(study)) == trained
    assert len(set(trained)) == 21
    assert {number / 12 for number in range(12)} <= set(trained)


def test_no_process_exceeds_the_total(tmp_path, monkeypatch):
    search = make_search(tmp_path, total=1)
    ask, other = search.study.ask, study_of(tmp_path)
    monkeypatch.setattr(search.study, "ask", lambda: (other.ask(), ask())[1])
    assert search.ask() is None
    assert states_of(tmp_path) == ["RUNNING", "WAITING"]


def test_each_end_is_told(tmp_path, caplog):
    """A failed run is a failed trial with its reason, a pruned one a pruned trial."""

    def reason(beta):
        if beta > 0.7:
            return f"too much: {beta:.2g}"
        return None if beta > 0.43 else f"{tmp_path}/loss.beta={beta}: the run has no val/bpd, the "

    def train(beta):
        run = tmp_path / f"loss.beta={beta}"
        run.mkdir()
        if beta > 0.7:
            raise UserError(reason(beta))
        write_summary(run, {"status": "pruned" if beta > 0.5 else "finished"})
        return beta if beta > 0.43 else None

    caplog.set_level("INFO")
    run_search(tmp_path, train, total=9)
    for trial in trials_of(tmp_path):
        beta = trial.params["loss.beta"]
        why = reason(beta)
        state = "FAIL" if why else "PRUNED" if beta > 0.5 else "COMPLETE"
        assert trial.state.name == state
        assert str(trial.user_attrs.get("reason")).startswith(str(why))
        assert (f"trial {trial.number} failed" in caplog.text) == (state == "FAIL")
    assert set(states_of(tmp_path)) == {"FAIL", "PRUNED", "COMPLETE"}
    assert "has no val/bpd" in caplog.text  # no run has logged it


@pytest.mark.parametrize("total", [3, 5])
def test_failures_in_a_row_stop_a_search_that_has_trials_left(total, tmp_path):
    """After the last trial there is nothing to stop: its results are written."""

    def train(beta):
        run = tmp_path / f"loss.beta={beta}"
        run.mkdir()
        good = not list(tmp_path.glob("*/summary.json"))
        write_summary(run, {"status": "finished" if good else "failed", "error": "no"})
        if not good:
            raise UserError("no")
        return beta

    if total == 3:
        run_search(tmp_path, train, total=total, max_failures=2)
        assert (tmp_path / "optimization_results.yaml").exists()
    else:
        with pytest.raises(SystemExit):
            run_search(tmp_path, train, total=total, max_failures=2)
    waiting = ["WAITING"] * (total > 3)
    assert states_of(tmp_path) == ["COMPLETE", "FAIL", "FAIL", *waiting]


def test_a_sampler_that_fails_leaves_no_running_trial(tmp_path, monkeypatch):
    monkeypatch.setattr(RandomSampler, "sample_independent", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_search(tmp_path, total=2)
    assert states_of(tmp_path) == ["WAITING"]


def test_an_interrupted_search_gives_its_trials_back(tmp_path):
    """However often: they have taken no process down. The next start begins with them."""

    firsts = []

    def train(beta):
        if len(firsts) < 2:
            firsts.append(beta)
        if beta in firsts:
            return beta
        wait_until(lambda: states_of(tmp_path) == ["COMPLETE"] * 2 + ["RUNNING"] * 2)
        raise error

    for error in (SystemExit("stop"), *[KeyboardInterrupt()] * (MAX_TRIES + 1)):
        with pytest.raises(type(error)):
            run_search(tmp_path, train, at_once=2)
        assert states_of(tmp_path) == ["COMPLETE"] * 2 + ["WAITING"] * 2
    assert [trial.user_attrs["owner"] for trial in trials_of(tmp_path)[2:]] == [None, None]
    cut = [f"loss.beta={trial.params['loss.beta']}" for trial in trials_of(tmp_path)[2:]]
    assert [job[0] for job in run_search(tmp_path, total=5)[:2]] == cut
    assert states_of(tmp_path) == ["COMPLETE"] * 5


def test_trials_of_a_dead_search_are_requeued(tmp_path):
    left = make_search(tmp_path).ask()
    run_search(tmp_path, total=2)
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

    if when == "before its claim":
        ask = Study.ask
        monkeypatch.setattr(Study, "ask", lambda study: take(ask(study)))
    run_search(tmp_path, take, total=2)
    assert states_of(tmp_path) == ["FAIL", "COMPLETE", "COMPLETE"]


def test_runs_that_kill_every_worker_are_given_up(tmp_path):
    first = []

    def train(beta):
        first.append(beta)
        if beta == first[0]:
            raise BrokenProcessPool("a worker died")
        return beta

    run_search(tmp_path, train, total=2)
    assert first.count(first[0]) == MAX_TRIES
    assert states_of(tmp_path) == ["FAIL"] * MAX_TRIES + ["COMPLETE"]
    assert [trial.number for trial in counted_trials(study_of(tmp_path))] == [2, 3]


def test_running_trials_send_heartbeats(tmp_path, monkeypatch):
    monkeypatch.setattr(search_module, "HEARTBEAT", 0.02)
    sent = threading.Semaphore(0)
    record = RDBStorage.record_heartbeat

    def spy(storage, trial_id):
        record(storage, trial_id)
        sent.release()

    monkeypatch.setattr(RDBStorage, "record_heartbeat", spy)
    threads = threading.active_count()
    run_search(tmp_path, lambda beta: all(sent.acquire(timeout=60) for _ in range(3)), total=1)
    assert trials_of(tmp_path)[0].value == 1.0  # True: three came
    assert threading.active_count() == threads


def test_the_result_of_two_objectives_is_the_pareto_front(tmp_path):
    """Rate β and PSNR −|β − 0.5|: a trial is on the front if no smaller β is closer to 0.5."""

    def train(beta):
        return [beta, -abs(beta - 0.5)]

    run_search(tmp_path, train, objectives=["val/rate", "val/psnr"], total=8)
    betas = sorted(trial.params["loss.beta"] for trial in trials_of(tmp_path))
    front = [
        beta for beta in betas if all(abs(beta - 0.5) < abs(b - 0.5) for b in betas if b < beta)
    ]
    assert 1 < len(front) < 8
    assert sorted(results_of(tmp_path)["solutions"], key=lambda found: found["values"]) == [
        {"params": {"loss.beta": beta}, "values": train(beta), "run": f"loss.beta={beta}"}
        for beta in front
    ]


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        (None, "no trial of s succeeded"),
        (b"no database" * 1000, r"^sweep\.storage: .*sweep\.name='s' to resume it"),
    ],
)
def test_a_search_without_a_result_is_a_user_error(storage, words, tmp_path):
    def train(beta):
        if storage:
            (tmp_path / "study.db").write_bytes(storage)
        raise UserError("no")

    with pytest.raises(UserError, match=words):
        run_search(tmp_path, train, total=2)
    assert not (tmp_path / "optimization_results.yaml").exists()
