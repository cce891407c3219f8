"""optuna-dashboard on the study of a sweep, in a browser."""

import sys
from pathlib import Path

import pytest

from tests.support.browser import visiting
from tests.support.cluster import find_commands, free_port, running
from tests.support.sweep_processes import FROM_STUDY, finish, start, trials_of, wait_until
from vae.runs.compose import compose
from vae.sweeps.study import open_storage, open_study

pytestmark = pytest.mark.slow

BETAS = {"COMPLETE": 0.01, "FAIL": -1, "PRUNED": 1000}  # by the state in which its trial ends
SETTINGS = [
    *FROM_STUDY, "sweep.name=o", f"loss.beta={','.join(map(str, BETAS.values()))}",
    f"hydra.sweeper.n_trials={len(BETAS)}", "trainer.epochs=10", "trainer.max_steps=null",
    "sweep.pruner=median", "sweep.pruner_startup=1", "sweep.pruner_warmup=2",
]  # fmt: skip


def test_a_running_sweep_can_be_watched(tmp_path, browser):
    """Trials appear as they end, with run folders and reasons; the axis is the objective."""
    remedy = "pip install optuna-dashboard"
    commands = find_commands(["optuna-dashboard"], remedy, folders=[Path(sys.executable).parent])
    folder = tmp_path / "multirun" / "o"
    folder.mkdir(parents=True)
    study = open_study(open_storage(compose(["sweep.name=o"]).sweep, folder), "o", ["val/bpd"])
    for beta in BETAS.values():
        study.enqueue_trial({"loss.beta": beta})
    sweep = start(SETTINGS, tmp_path)
    port = free_port()
    url = f"http://127.0.0.1:{port}/dashboard/studies/1"
    command = [commands["optuna-dashboard"], "sqlite:///multirun/o/study.db", f"--port={port}"]
    log = tmp_path / "dashboard.log"
    try:
        with running(command, log, cwd=tmp_path):
            wait_until(lambda: "Listening" in log.read_text())
            with visiting(browser, url, ready="text=val/bpd") as page:
                page.click("[href$=trials]")
                for state in ("Complete", "Fail", "Pruned"):
                    page.wait_for_selector(f"text={state}")
                for number, beta in enumerate(BETAS.values()):
                    page.click(f"text=Trial {number}")
                    page.wait_for_selector(f"text=run loss.beta={beta}")
                page.click("text=Trial 1")
                page.wait_for_selector("text=reason loss.beta: got -1")
            code, out = finish(sweep)
            assert code == 0, out
    finally:
        sweep.kill()
    trials = trials_of(folder / "study.db")
    assert {trial.state.name: trial.params["loss.beta"] for trial in trials} == BETAS
