"""The study of a sweep: shared by processes; trials outlive their processes."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from tests.support.search_processes import SPACE, ask, sweep_config
from vae.sweeps.study import (
    MAX_TRIES,
    Participant,
    check_space,
    close_failed,
    counts_towards_total,
    directions,
    open_storage,
    open_study,
    requeue,
    storage_url,
)
from vae.utils.errors import UserError

THREE_MINUTES = 180.0  # as docs/sweeps.md promises


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    return open_storage(f"sqlite:///{tmp_path_factory.mktemp('studies')}/study.db")


@pytest.fixture
def study(storage, request):
    return open_study(storage, request.node.name, ["minimize"], RandomSampler(seed=0))


@pytest.fixture(scope="module")
def dead():
    """The id of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def running(started=0.0, **owner):
    """A running trial, of another process on this host unless `owner` says more."""
    sign = {"owner": {**Participant().heartbeat(), "pid": os.getppid(), **owner}} if owner else {}
    trial = optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs=sign)
    trial.datetime_start = datetime.now() - timedelta(seconds=started)
    return trial


def test_a_process_does_not_abandon_its_own_trials():
    me = Participant()
    own = {"token": me.token, "pid": me.pid}
    assert not me.is_abandoned(running(**own))
    assert not me.is_abandoned(running(**own, seen=time.time() - 10 * THREE_MINUTES))


def test_a_trial_of_an_earlier_sweep_in_this_process_is_abandoned():
    assert Participant().is_abandoned(running(pid=os.getpid()))


def test_a_trial_on_this_machine_is_abandoned_with_its_process(dead):
    assert Participant().is_abandoned(running(pid=dead))
    assert not Participant().is_abandoned(running(pid=os.getppid()))


def test_a_trial_on_another_machine_is_abandoned_without_signs_of_life(dead):
    other = {"host": "elsewhere", "pid": dead}  # whose process here is of no account
    assert not Participant().is_abandoned(running(**other))
    assert not Participant().is_abandoned(running(**other, seen=time.time() - THREE_MINUTES + 10))
    assert Participant().is_abandoned(running(**other, seen=time.time() - THREE_MINUTES - 10))


def test_a_trial_without_an_owner_is_given_time():
    assert not Participant().is_abandoned(running())
    assert not Participant().is_abandoned(running(started=THREE_MINUTES - 10))
    assert Participant().is_abandoned(running(started=THREE_MINUTES + 10))


def test_requeued_trials_keep_their_values(study, storage):
    cut = ask(study)
    requeue(study, storage, cut, set(SPACE))
    closed, queued = study.get_trials()
    assert (closed.state, closed.user_attrs["reason"]) == (TrialState.FAIL, "cut")
    assert (counts_towards_total(closed), counts_towards_total(queued)) == (False, False)
    again = ask(study)
    assert (again.number, again.params) == (queued.number, cut.params)
    assert again.user_attrs["tries"] == 2
    assert counts_towards_total(again)


def test_a_trial_is_given_up_after_its_tries(study, storage):
    """Perhaps it is what ends the processes: it is a failed one then, and counted."""
    for _ in range(MAX_TRIES):
        requeue(study, storage, ask(study), set(SPACE))
    trials = study.get_trials()
    assert [t.state for t in trials] == [TrialState.FAIL] * MAX_TRIES  # nothing is queued
    assert [counts_towards_total(trial) for trial in trials] == [False] * (MAX_TRIES - 1) + [True]
    assert trials[-1].user_attrs["reason"] == f"cut {MAX_TRIES} times"


def test_a_trial_without_all_values_is_discarded(study, storage):
    requeue(study, storage, ask(study), {*SPACE, "model.latent_dim"})
    requeue(study, storage, ask(study, {}), set(SPACE))
    assert [t.state for t in study.get_trials()] == [TrialState.FAIL] * 2
    assert not any(map(counts_towards_total, study.get_trials()))


def test_finished_trials_are_not_requeued(study, storage):
    before = ask(study)
    study.tell(before.number, 0.5)
    requeue(study, storage, before, set(SPACE))
    (trial,) = study.get_trials()
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.5)
    assert counts_towards_total(trial)


def test_concurrent_requeues_queue_once(tmp_path):
    """Each has its own connection, as in a process of its own."""
    url = storage_url(sweep_config(), tmp_path)
    study = open_study(open_storage(url), "s", ["minimize"])
    cut = [ask(study) for _ in range(15)]
    barrier = threading.Barrier(3)

    def take_all_back():
        storage = open_storage(url)
        mine = open_study(storage, "s", ["minimize"])
        for trial in cut:
            barrier.wait()
            requeue(mine, storage, trial, set(SPACE))

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(take_all_back) for _ in range(3)]:
            done.result()
    trials = study.get_trials()
    assert [trial.state for trial in trials[:15]] == [TrialState.FAIL] * 15
    assert [t.system_attrs["fixed_params"] for t in trials[15:]] == [t.params for t in cut]


def test_trials_are_counted_unless_they_wait_or_run_again(study, storage):
    study.enqueue_trial({"loss.beta": 0.5})
    (waiting,) = study.get_trials()
    assert not counts_towards_total(waiting)
    ask(study)
    study.tell(0, 1.0)
    close_failed(study, storage, ask(study).number, "no reason")
    study.tell(ask(study).number, state=TrialState.PRUNED)
    ask(study)
    states = [TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED, TrialState.RUNNING]
    assert [trial.state for trial in study.get_trials()] == states
    assert all(map(counts_towards_total, study.get_trials()))
    assert study.get_trials()[1].user_attrs["reason"] == "no reason"


def test_only_the_first_process_uses_the_seed(storage):
    studies = [open_study(storage, "seeds", ["minimize"], RandomSampler(seed=0)) for _ in range(3)]
    drawn = [[ask(study).params["loss.beta"] for _ in range(2)] for study in studies]
    alone = optuna.create_study(sampler=RandomSampler(seed=0))
    assert drawn[0] == [ask(alone).params["loss.beta"] for _ in range(2)]
    assert len({value for values in drawn for value in values}) == 6


@pytest.mark.parametrize("ways", [["maximize"], ["minimize", "minimize"]])
def test_a_study_with_other_objectives_is_refused(ways, storage, study):
    with pytest.raises(
        UserError, match=r"objective: the study .* has 1 \(minimize\), and now"
    ) as e:
        open_study(storage, study.study_name, ways)
    assert f"would be {len(ways)} ({', '.join(ways)})" in str(e.value)
    assert open_study(storage, study.study_name, ["minimize"]).study_name == study.study_name


def test_the_space_can_be_widened_or_narrowed(study):
    check_space(study, {"anything": FloatDistribution(0, 1)})  # as long as there are no trials
    ask(study)
    check_space(study, {"loss.beta": FloatDistribution(0.1, 100)})


@pytest.mark.parametrize(
    "space",
    [
        {"loss.beta": IntDistribution(0, 1)},
        {"loss.beta": CategoricalDistribution([0.1, 0.2])},
        {**SPACE, "model.latent_dim": IntDistribution(8, 512)},
        {"model.latent_dim": IntDistribution(8, 512)},
        {},
    ],
)
def test_another_space_is_refused(space, study):
    ask(study)
    with pytest.raises(UserError, match=r"^sweep\.name: .* searched loss\.beta in FloatDist"):
        check_space(study, space)


def test_changed_choices_are_refused(study):
    ask(study, {"loss.beta": CategoricalDistribution([0.1, 0.2])})
    check_space(study, {"loss.beta": CategoricalDistribution([0.1, 0.2])})
    with pytest.raises(UserError, match=r"CategoricalDistribution\(choices=\(0\.1, 0\.3\)\)"):
        check_space(study, {"loss.beta": CategoricalDistribution([0.1, 0.3])})


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nosuch://host/db", "nosuch://host/db cannot be used"),
        ("sqlite:////nowhere/at/all/study.db", "unable to open database file"),
        ("no url", "no url cannot be used"),
        ("mysql://me:secret@host/db", r"mysql://me:\*\*\*@host/db .*"),
        ("mysql+nosuch://me:secret@host/db", r"mysql\+nosuch://me:\*\*\*@host/db cannot be used"),
        ("mysql//me:secret@host/db", "cannot be used"),  # mistyped, so no URL
    ],
)
def test_an_unusable_storage_is_a_user_error(url, words):
    with pytest.raises(UserError, match=words) as caught:
        open_storage(url)
    assert str(caught.value).startswith("sweep.storage: ")
    assert "secret" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["study", "with space", "50%20off", "what?", "#1", "größe"])
def test_the_study_lies_in_the_folder_of_the_sweep(name, tmp_path):
    (tmp_path / name).mkdir()
    open_storage(storage_url(sweep_config(), tmp_path / name))
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.db")] == [
        f"{name}/study.db"
    ]


def test_another_storage_can_be_configured(tmp_path):
    assert storage_url(sweep_config(storage="postgresql://h/db"), tmp_path) == "postgresql://h/db"


def test_directions_of_the_metrics():
    minimised = ["val/bpd", "val/rate", "val/mse", "val/distortion"]
    assert directions(minimised) == ["minimize"] * 4
    assert directions(["val/psnr", "val/rate", "val/ssim"]) == ["maximize", "minimize", "maximize"]
