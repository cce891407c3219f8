"""W&B outages: the run continues and can be uploaded later."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from tests.support.run_files import rows
from tests.support.sweep_processes import wait_until
from tests.support.train_command import ROOT, TINY, call_train
from tests.support.wandb_server import WandbServer
from vae.runs import wandb_run
from vae.runs.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("fresh_wandb")
RUN = [*(o for o in TINY if not o.startswith("wandb")), "trainer.epochs=5", "hydra.run.dir=run"]


def upload(said, server):
    """Return what arrived after the command in the warning."""
    (command,) = re.findall(r"to upload the run later: wandb (.*)", said)
    command = [sys.executable, "-m", "wandb", *shlex.split(command)]
    known = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": server.key}
    done = subprocess.run(command, env={**os.environ, **known}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return server.runs


def contents(folder):
    """Of all files below it; wandb's own process may still be moving some."""
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError, IsADirectoryError):
            yield path.read_bytes()


@pytest.mark.parametrize(
    "fault",
    ["hangs", 403, *(pytest.param(fault, marks=pytest.mark.slow) for fault in ("dies", 500))],
)
def test_a_server_outage_does_not_stop_training(fault, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(wandb_run, "FINISH_TIMEOUT", 3.0)
    report = wandb_run.WandbRun.report

    def reported(run, row, pictures=None):
        server.fault = fault
        report(run, row, pictures)

    monkeypatch.setattr(wandb_run.WandbRun, "report", reported)
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", server.key)
        code, out, err = call_train([*RUN, "wandb.mode=auto"], tmp_path, monkeypatch, capsys)
        (cut,) = server.runs.values()
    said = out + err
    assert code == 0, err
    assert said.count("Training continues") == 1, said
    assert "Traceback" not in said
    folder = tmp_path / "run"
    assert json.loads((folder / "summary.json").read_text())["status"] == "finished"
    assert load_checkpoint(folder / "checkpoints" / "last.pt")["step"] == 20
    logged = rows(folder)
    assert [row["step"] for row in logged if "val/bpd" in row] == [4, 8, 12, 16, 20]
    assert cut.history == []
    assert not any(WandbServer.key.encode() in content for content in contents(folder))
    assert WandbServer.key not in said
    with WandbServer() as healthy:
        (run,) = upload(said, healthy).values()
    arrived = [row["val/bpd"] for row in run.history if "val/bpd" in row]
    assert arrived == [row["val/bpd"] for row in logged if "val/bpd" in row]
    assert run.exit_code == 0


def running(tmp_path, server):
    """`python train.py`, online at the server and for longer than anybody waits."""
    words = [o for o in RUN if not o.startswith("trainer.epochs")]
    endless = ["trainer.epochs=null", "trainer.max_steps=1000000", "trainer.figures_every=100000"]
    known = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": server.key}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *words, *endless, "wandb.mode=online"],
        cwd=tmp_path, env={**os.environ, **known}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def test_a_second_ctrl_c_does_not_wait_for_a_server_that_hangs(tmp_path):
    """The first one saves, and gives the server time to take what is left."""
    checkpoint = tmp_path / "run" / "checkpoints" / "last.pt"
    with WandbServer() as server, running(tmp_path, server) as process:
        wait_until(checkpoint.exists)
        server.fault = "hangs"
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        saved = load_checkpoint(checkpoint)["step"]
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        out, err = process.communicate(timeout=60)
        assert time.monotonic() - began < 12  # wandb itself: 13
    assert process.returncode == 130
    assert "Traceback" not in out + err
    assert "interrupted\n" in err
    assert load_checkpoint(checkpoint)["step"] == saved


@pytest.mark.parametrize("reachable", [True, False])
def test_a_password_in_the_url_works_and_is_hidden(reachable, tmp_path, monkeypatch, capsys):
    with WandbServer() as server:
        url = server.url if reachable else "http://127.0.0.1:9"
        monkeypatch.setenv("WANDB_BASE_URL", url.replace("://", "://me:hunter2@"))
        monkeypatch.setenv("WANDB_API_KEY", server.key)
        code, out, err = call_train([*RUN, "wandb.mode=online"], tmp_path, monkeypatch, capsys)
    assert code == 0
    assert [run.exit_code for run in server.runs.values()] == [0] * reachable
    if reachable:
        assert f"W&B run: {url}" in out
    else:
        assert "http://me:***@127.0.0.1:9 cannot be used" in out + err
    for secret in ("hunter2", WandbServer.key):
        assert secret not in out + err
        assert not any(secret.encode() in content for content in contents(tmp_path / "run"))
