"""The study of a sweep: shared by processes; trials outlive their processes."""

import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from types import SimpleNamespace

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.trial import TrialState
from sqlalchemy import create_engine, text

from vae.sweeps.study import (
    check_space,
    claim,
    counted_trials,
    is_abandoned,
    open_storage,
    open_study,
    requeue,
    requeue_abandoned,
)
from vae.utils.errors import UserError

BETA = {"loss.beta": FloatDistribution(0, 1)}
CHOICES = {"loss.beta": CategoricalDistribution([0.1, 0.2])}
LATENT_DIM = {"model.latent_dim": IntDistribution(8, 512)}
OWN = SimpleNamespace(storage=None)  # sweep.storage=null


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def storage(folder):
    return open_storage(OWN, folder)


@pytest.fixture
def study(storage, request):
    return open_study(storage, request.node.name, ["val/bpd"], RandomSampler(seed=0))


@pytest.fixture(scope="module")
def processes():
    """Ids of processes by what they are to this one."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    return {"own": os.getpid(), "parent": os.getppid(), "dead": dead.pid}


def ask(study, space=BETA):
    """A running trial, as the study has it."""
    trial = study.ask()
    for key, values in space.items():
        trial._suggest(key, values)
    return study.get_trials()[trial.number]


def states_of(study):
    return [trial.state.name for trial in study.get_trials()]


def test_the_study_has_the_names_of_the_objectives(storage):
    """For Optuna's own plots, in the order of the values."""
    objectives = ["val/rate", "val/mse"]
    open_study(storage, "named", objectives)
    assert open_study(storage, "named", objectives).metric_names == objectives


@pytest.mark.parametrize(
    ("host", "process", "started", "abandoned"),
    [
        (None, "own", 0, True),  # of an earlier sweep in this process
        (None, "parent", 0, False),
        (None, "dead", 0, True),
        ("elsewhere", "dead", 1000, False),  # Optuna's heartbeat decides
        (None, None, 25, False),  # killed before it was claimed
        (None, None, 35, True),
    ],
)
def test_a_trial_is_abandoned_with_its_process(host, process, started, abandoned, processes):
    trial = optuna.trial.create_trial(state=TrialState.RUNNING)
    trial.datetime_start = datetime.now() - timedelta(seconds=started)
    if process:
        owner = {"host": host or socket.gethostname(), "pid": processes[process]}
        trial.user_attrs = {"owner": owner}
    assert is_abandoned(trial) == abandoned


def test_a_trial_of_another_host_is_requeued_after_three_minutes(study, folder):
    trial = study.ask()
    claim(study, trial)
    trial.set_user_attr("owner", {"host": "elsewhere", "pid": os.getpid()})
    for seconds, states in ((170, ["RUNNING"]), (190, ["FAIL", "WAITING"])):
        with create_engine(f"sqlite:///{folder}/study.db").begin() as connection:
            ago = f"datetime('now', '-{seconds} seconds')"
            where = f"WHERE trial_id = {trial._trial_id}"
            connection.execute(text(f"UPDATE trial_heartbeats SET heartbeat = {ago} {where}"))
        requeue_abandoned(study)
        assert states_of(study) == states
    claim(study, study.ask())  # the next process's
    requeue_abandoned(study)
    assert states_of(study) == ["FAIL", "FAIL", "WAITING"]  # as this process runs none


def test_requeued_trials_keep_their_values(study, storage):
    before = ask(study)
    storage.set_trial_user_attr(before._trial_id, "owner", {"host": "h", "pid": 1})
    storage.set_trial_intermediate_value(before._trial_id, 1, 7.5)  # of epoch 1
    requeue(study, before._trial_id)
    assert study.get_trials()[0].user_attrs["reason"] == "its process died"
    again = ask(study, {**BETA, **LATENT_DIM})  # it had been half drawn
    assert (again.number, again.user_attrs) == (1, {})
    assert again.params["loss.beta"] == before.params["loss.beta"]
    assert again.params.keys() == {"loss.beta", "model.latent_dim"}
    assert again.intermediate_values == {1: 7.5}


def test_concurrent_requeues_queue_once(study, folder):
    """Each has its own connection, as in a process of its own."""
    study.tell(ask(study).number, 0.5)  # finished trials are not touched
    cut = [ask(study).params for _ in range(15)]
    barrier = threading.Barrier(3, timeout=60)

    def requeue_all(storage):
        mine = open_study(storage, study.study_name, ["val/bpd"])
        for trial in mine.get_trials()[:16]:
            barrier.wait()
            requeue(mine, trial._trial_id)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(requeue_all, [open_storage(OWN, folder) for _ in range(3)]))
    assert states_of(study) == ["COMPLETE", *["FAIL"] * 15, *["WAITING"] * 15]
    assert [trial.params for trial in study.get_trials()[16:]] == cut


def test_trials_are_counted_once(study, storage):
    """Not while they wait, and not if they are tried again."""
    study.tell(ask(study).number, 0.5)
    for state in (TrialState.FAIL, TrialState.PRUNED):
        study.tell(ask(study).number, state=state)
    requeued = ask(study)  # by an earlier version
    storage.set_trial_user_attr(requeued._trial_id, "void", True)
    study.tell(requeued.number, state=TrialState.FAIL)
    requeue(study, ask(study)._trial_id)
    assert states_of(study) == ["COMPLETE", "FAIL", "PRUNED", "FAIL", "FAIL", "WAITING"]
    assert [trial.number for trial in counted_trials(study)] == [0, 1, 2]
    ask(study)
    assert [trial.number for trial in counted_trials(study)] == [0, 1, 2, 5]


def test_only_the_first_process_uses_the_seed(storage):
    studies = [open_study(storage, "seeds", ["val/bpd"], RandomSampler(seed=0)) for _ in range(3)]
    drawn = [[ask(study).params["loss.beta"] for _ in range(2)] for study in studies]
    alone = optuna.create_study(sampler=RandomSampler(seed=0))
    assert drawn[0] == [ask(alone).params["loss.beta"] for _ in range(2)]
    assert len({value for values in drawn for value in values}) == 6


def test_a_study_with_other_objectives_is_refused(storage, study):
    said = r"^objective: .* has 1 \(minimize\), and now it would be 2 \(minimize, maximize\)"
    with pytest.raises(UserError, match=said):
        open_study(storage, study.study_name, ["val/bpd", "val/psnr"])
    assert open_study(storage, study.study_name, ["val/mse"]).study_name == study.study_name


@pytest.mark.parametrize(
    ("before", "now", "refused"),
    [
        (BETA, {"loss.beta": FloatDistribution(0.1, 100)}, False),
        (BETA, {"loss.beta": FloatDistribution(0.1, 1, log=True)}, True),
        (BETA, {"loss.beta": IntDistribution(0, 1)}, True),
        (BETA, CHOICES, True),
        (CHOICES, {"loss.beta": CategoricalDistribution([0.1, 0.3])}, True),
        (BETA, {**BETA, **LATENT_DIM}, True),
        (BETA, LATENT_DIM, True),
        (BETA, {}, True),
    ],
)
def test_another_space_is_refused(before, now, refused, study):
    """Wider and narrower intervals are not."""
    check_space(study, {"anything": FloatDistribution(0, 1)})  # as long as there are no trials
    study.tell(ask(study, before).number, 0.5)
    ask(study, {})  # killed before it had its values
    check_space(study, before)
    if not refused:
        return check_space(study, now)
    with pytest.raises(UserError, match=r"^sweep\.name: .* searched loss\.beta in ") as caught:
        check_space(study, now)
    described = ", ".join(f"{key} in {values}" for key, values in now.items()) or "nothing"
    assert f"it would search {described}. Take another" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://me:secret@host/db", r"mysql://me:\*\*\*@host/db .*pip install 'psycopg\[binary"),
        ("mysql//me:secret@host/db", "cannot be used"),  # mistyped, so no URL
        ("nosql://me:a/secret:b@c@host/db", "cannot be used"),
        ("nosql://host:port/db?user=me&password=secret", "cannot be used"),
    ],
)
def test_an_unusable_storage_is_a_user_error(url, words, tmp_path):
    with pytest.raises(UserError, match=rf"^sweep\.storage: .*{words}.*$") as caught:
        open_storage(SimpleNamespace(storage=url), tmp_path)
    assert "secret" not in str(caught.value)


def test_the_study_lies_in_the_folder_of_the_sweep(tmp_path):
    folder = tmp_path / "what? 50%20off"
    folder.mkdir()
    open_storage(OWN, folder)
    assert list(tmp_path.rglob("*.db")) == [folder / "study.db"]
