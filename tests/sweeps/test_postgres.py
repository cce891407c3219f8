"""Several processes on one study in a real PostgreSQL."""

import os
from importlib.util import find_spec

import optuna
import pytest
from sqlalchemy import make_url

from tests.support.cluster import give_up
from tests.support.postgres import PASSWORD, postgres_server
from tests.support.sweep_processes import (
    FROM_STUDY,
    LONG,
    finish,
    is_training,
    kill,
    start,
    statuses,
    wait_until,
)

pytestmark = pytest.mark.slow

TRIALS = 8


@pytest.fixture
def postgres():
    """Return the URL of an empty database, without the password."""
    if find_spec("psycopg") is None:
        give_up("no psycopg: pip install 'psycopg[binary]'")
    with postgres_server() as url:
        yield url


def test_two_processes_share_a_study(tmp_path, postgres):
    """One of them is killed in the middle of a trial and started again: none lost or doubled."""
    arguments = [
        *FROM_STUDY, *LONG, "sweep.name=o", f"hydra.sweeper.n_trials={TRIALS}",
        "hydra.sweeper.sampler.seed=1", f"sweep.storage={postgres}",
    ]  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    for home in (one, two):
        home.mkdir()
    (two / ".pgpass").write_text(f"*:*:*:*:{PASSWORD}\n")
    (two / ".pgpass").chmod(0o600)
    by_variable = {**os.environ, "PGPASSWORD": PASSWORD}
    by_file = {**os.environ, "HOME": str(two)}
    first, second = start(arguments, one, env=by_variable), start(arguments, two, env=by_file)
    try:
        wait_until(lambda: any(map(is_training, two.glob("multirun/o/loss*"))))
        kill(second)
        second = start(arguments, two, env=by_file)
        for process in (first, second):
            code, out = finish(process)
            assert code == 0, out
    finally:
        first.kill()
        second.kill()
    storage = make_url(postgres).set(password=PASSWORD).render_as_string(hide_password=False)
    trials = optuna.load_study(study_name="o", storage=storage).trials
    done = [trial.params for trial in trials if trial.state.name == "COMPLETE"]
    assert len({params["loss.beta"] for params in done}) == len(done) == TRIALS
    (cut,) = [trial for trial in trials if trial.state.name != "COMPLETE"]
    assert cut.state.name == "FAIL"
    assert cut.params in done
    ended = [*statuses(one / "multirun/o").values(), *statuses(two / "multirun/o").values()]
    assert ended.count("finished") == TRIALS
    written = [file for file in tmp_path.rglob("*") if file.is_file() and file.name != ".pgpass"]
    assert [file for file in written if PASSWORD.encode() in file.read_bytes()] == []
