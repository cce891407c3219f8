"""Alerts of W&B's: a run failed, a sweep ended or stopped early."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.fake_sweeps import make_run, make_sweep
from tests.support.train_command import TINY, call_train
from tests.support.wandb_files import read_run, read_runs
from tests.support.wandb_server import WandbServer
from vae.runs.tracking import Tracker
from vae.runs.wandb_settings import WandbConfig, public_text
from vae.sweeps.callbacks import why_stopped
from vae.sweeps.comparison import read_sweep
from vae.sweeps.wandb_sweep import log_summary
from vae.utils.errors import UserError, exit_with_error
from vae.utils.signals import InterruptedRun

OFFLINE = WandbConfig("offline", "faces", None, "beta", "beta=0.001", [], False, alert=True)


@pytest.mark.parametrize("alert", [True, False])
def test_a_failed_run_sends_its_name_and_reason(alert, wandb_server, tmp_path):
    settings = replace(OFFLINE, mode="online", alert=alert)
    with Tracker(tmp_path / "run", settings, {}) as tracker:
        tracker.report_failure(None)
        tracker.report_failure(f"the loss was nan. The last checkpoint is {tmp_path}/run/last.pt.")
    (run,) = wandb_server.runs.values()
    text = "beta=0.001: the loss was nan. The last checkpoint is …/last.pt."
    assert run.alerts == [("Run failed: beta=0.001", text, "ERROR")] * alert
    asked = [body for body in wandb_server.bodies if b"Alert" in body]
    assert len(asked) == alert
    assert wandb_server.unknown == []


def test_an_offline_alert_is_sent_by_wandb_sync(wandb_server, tmp_path):
    with Tracker(tmp_path / "run", OFFLINE, {}) as tracker:
        tracker.report_failure("x" * 5000)
    run = read_run(tmp_path / "run")
    ((title, text, level),) = run.alerts
    assert (title, len(text), level) == ("Run failed: beta=0.001", 1000, "ERROR")
    assert wandb_server.runs == {}
    command = [sys.executable, "-m", "wandb", "sync", str(run.folder)]
    environment = {**os.environ, **wandb_server.environment}
    subprocess.run(command, env=environment, capture_output=True, check=True)
    assert wandb_server.runs[run.id].alerts == [(title, text, level)]


def test_a_long_name_fits_into_the_title(tmp_path):
    name = "b" * 128
    with Tracker(tmp_path, replace(OFFLINE, name=name), {}) as tracker:
        tracker.report_failure("broken")
    ((title, text, _),) = read_run(tmp_path).alerts
    assert len(title) < 64
    assert text == f"{name}: broken"


def test_a_text_names_no_secret_and_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", WandbServer.key)
    monkeypatch.chdir(tmp_path)
    home = Path.home()
    for text, shown in {
        "/home/me/x/last.pt: is gone.": "…/last.pt: is gone.",
        "resume='/data/a/b' now": "resume='…/b' now",
        f"{home}/a b/c: full": "…/a b/c: full",
        f"{tmp_path}/d: full": "…/d: full",
        r"C:\Users\me\x.pt: is gone": "…/x.pt: is gone",
        "12.5 nats/image at 3/4": "12.5 nats/image at 3/4",
        "outputs/a/last.pt": "outputs/a/last.pt",
        f"key {WandbServer.key}": "key …",
        "postgresql://me:hunter2@host/db": "postgresql://me:***@host/db",
    }.items():
        assert public_text(text) == shown


@pytest.fixture
def sweep(tmp_path):
    folder = make_sweep(tmp_path / "beta", [])
    make_run(folder, {"loss.beta": 1e-3}, metrics={"val/bpd": 3.5, "val/rate": 20.0})
    make_run(folder, {"loss.beta": 1e-4}, metrics={"val/bpd": 4.5, "val/rate": 10.0})
    make_run(folder, {"loss.beta": "nonsense"}, "failed", {}, error="loss.beta: got 'nonsense'")
    return read_sweep(folder)


BEST = "best by val/bpd: loss.beta=0.001 (3.5)"


@pytest.mark.parametrize(
    ("runs", "stopped", "title", "level", "lines"),
    [
        (2, None, "Sweep ended: beta", "INFO", ["runs: 2 finished", BEST]),
        (3, None, "Sweep ended: beta", "WARN", ["runs: 2 finished, 1 failed", BEST]),
        (
            3,
            "its last run failed: /a/b/c is gone",
            "Sweep stopped: beta",
            "ERROR",
            [
                "stopped early: its last run failed: …/c is gone",
                "runs: 2 finished, 1 failed",
                BEST,
            ],
        ),
    ],
)
def test_a_sweeps_end(runs, stopped, title, level, lines, sweep):
    log_summary(replace(sweep, runs=sweep.runs[:runs]), OFFLINE, sweep.folder, stopped)
    (run,) = read_runs(sweep.folder)
    assert run.alerts == [(title, "\n".join(["beta", *lines]), level)]


def test_a_sweep_of_two_objectives_names_its_front(sweep):
    two = replace(sweep, objectives=["val/bpd", "val/rate"])
    log_summary(two, OFFLINE, sweep.folder)
    (run,) = read_runs(sweep.folder)
    assert run.alerts[0][1].endswith("Pareto front: loss.beta=0.001, loss.beta=0.0001")


def test_a_sweep_without_the_key_sends_nothing(sweep):
    log_summary(sweep, replace(OFFLINE, alert=False), sweep.folder, "interrupted")
    (run,) = read_runs(sweep.folder)
    assert run.alerts == []


def test_why_a_sweep_stopped(sweep):
    with pytest.raises(SystemExit) as stop:
        exit_with_error("the sweep stops: its last 3 runs failed")
    for error, reason in [
        (None, None),
        (UserError("loss.beta: got 'nonsense'"), None),  # of the failed run
        (UserError("sweep.storage: cannot be reached"), "sweep.storage: cannot be reached"),
        (KeyboardInterrupt(), "interrupted"),
        (InterruptedRun(2), "interrupted"),
        (stop.value, "the sweep stops: its last 3 runs failed"),
        (RuntimeError(), "RuntimeError"),
    ]:
        assert why_stopped(error, sweep) == reason


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_sweep_with_failing_runs_that_stops(launcher, tmp_path, monkeypatch, capsys):
    sweep = [
        *("-m", *TINY, "sweep.name=s", "wandb.mode=offline", "wandb.alert=true"),
        *("optimizer.lr=1e-3,8e8,9e8,1e9", "sweep.max_failures=2", f"hydra/launcher={launcher}"),
        *(["hydra.launcher.n_jobs=1"] if launcher == "joblib" else []),
    ]
    code, _, _ = call_train(sweep, tmp_path, monkeypatch, capsys)
    assert code != 0
    folder = tmp_path / "multirun" / "s"
    failed = sorted(folder.glob("optimizer.lr=[89]e+08"))
    assert len(failed) == 2
    for run in failed:
        ((title, text, level),) = read_run(run).alerts
        assert (title, level) == (f"Run failed: {run.name}", "ERROR")
        assert text.startswith(f"{run.name}: ")
        assert str(tmp_path) not in text
    assert read_run(folder / "optimizer.lr=0.001").alerts == []
    ((title, text, level),) = [
        alert for run in read_runs(folder) if run.job_type == "sweep" for alert in run.alerts
    ]
    assert (title, level) == ("Sweep stopped: s", "ERROR")
    assert "its last 2 runs failed (sweep.max_failures=2)" in text
    assert "runs: 1 finished, 2 failed" in text
    assert "best by val/bpd: optimizer.lr=0.001" in text
