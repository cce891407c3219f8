"""W&B outages: the run continues and can be uploaded later."""

import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from tests.support.run_files import rows
from tests.support.sweep_processes import wait_until
from tests.support.train_command import ENDLESS, ROOT, TINY, call_train
from tests.support.wandb_server import WandbServer
from vae.runs import wandb_run
from vae.runs.checkpoint import load_checkpoint
from vae.runs.run_dir import read_summary

RUN = [*TINY, "hydra.run.dir=run"]


def upload(said, server):
    """Return what arrived after the command in the warning."""
    (command,) = re.findall(r"to upload the run later: wandb (.*)", said)
    command = [sys.executable, "-m", "wandb", *shlex.split(command)]
    environment = {**os.environ, **server.environment}
    subprocess.run(command, env=environment, capture_output=True, check=True)
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
def test_a_server_outage_does_not_stop_training(fault, wandb_server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(wandb_run, "FINISH_TIMEOUT", 3.0)
    report = wandb_run.WandbRun.report

    def reported(run, row, pictures=None):
        wandb_server.fault = fault
        report(run, row, pictures)

    monkeypatch.setattr(wandb_run.WandbRun, "report", reported)
    arguments = [*RUN, "trainer.epochs=5", "wandb.mode=auto"]
    code, out, err = call_train(arguments, tmp_path, monkeypatch, capsys)
    said = out + err
    assert code == 0, err
    assert said.count("Training continues") == 1, said
    assert "Traceback" not in said
    folder = tmp_path / "run"
    assert read_summary(folder)["status"] == "finished"
    assert load_checkpoint(folder / "checkpoints" / "last.pt")["step"] == 20
    validated = [row for row in rows(folder) if "val/bpd" in row]
    assert [row["step"] for row in validated] == [4, 8, 12, 16, 20]
    (cut,) = wandb_server.runs.values()
    assert cut.history == []
    assert not any(WandbServer.key.encode() in content for content in contents(folder))
    assert WandbServer.key not in said
    with WandbServer() as healthy:
        (run,) = upload(said, healthy).values()
    arrived = [row["val/bpd"] for row in run.history if "val/bpd" in row]
    assert arrived == [row["val/bpd"] for row in validated]
    assert run.exit_code == 0


def test_the_longest_waits_are_the_documented_ones():
    """In seconds, as docs/reliability.md has them."""
    assert wandb_run.REACH_TIMEOUT <= 5
    assert wandb_run.REACH_TIMEOUT + wandb_run.INIT_TIMEOUT <= 30
    assert wandb_run.FINISH_TIMEOUT == 120


TRAIN = "import atexit, train; atexit.register(print, 'orderly exit'); train.main()"


def test_a_second_ctrl_c_does_not_wait_for_a_server_that_hangs(wandb_server, tmp_path):
    """The first one saves, and gives the server time to take what is left."""
    checkpoint = tmp_path / "run" / "checkpoints" / "last.pt"
    with subprocess.Popen(
        [sys.executable, "-c", TRAIN, *RUN, *ENDLESS, "wandb.mode=online"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        wait_until(checkpoint.exists)
        wandb_server.fault = "hangs"
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        saved = load_checkpoint(checkpoint)["step"]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "orderly exit" not in out  # in which wandb would wait
    assert "Traceback" not in out + err
    assert "interrupted\n" in err
    assert load_checkpoint(checkpoint)["step"] == saved


@pytest.mark.parametrize("reachable", [True, False])
def test_a_password_in_the_url_works_and_is_hidden(
    reachable, wandb_server, tmp_path, monkeypatch, capsys
):
    url = wandb_server.url if reachable else "http://127.0.0.1:9"
    monkeypatch.setenv("WANDB_BASE_URL", url.replace("://", "://me:hunter2@"))
    code, out, err = call_train([*RUN, "wandb.mode=online"], tmp_path, monkeypatch, capsys)
    assert code == 0
    assert [run.exit_code for run in wandb_server.runs.values()] == [0] * reachable
    if reachable:
        assert f"W&B run: {url}" in out
    else:
        assert "http://me:***@127.0.0.1:9 cannot be used" in out + err
    for secret in ("hunter2", WandbServer.key):
        assert secret not in out + err
        assert not any(secret.encode() in content for content in contents(tmp_path / "run"))
