"""Sweeps within this process."""

import os
from multiprocessing import forkserver

import pytest
import wandb

from tests.support.train_command import TINY, call_train


@pytest.fixture(scope="session")
def printed_by_runs(tmp_path_factory):
    """The file that takes what the runs of sweeps print.

    A run is forked from a server, which keeps the terminal that it was started with.
    """
    file = tmp_path_factory.mktemp("runs") / "printed"
    forkserver._forkserver._stop()
    terminal = os.dup(1), os.dup(2)
    with open(file, "ab", buffering=0) as target:
        os.dup2(target.fileno(), 1)
        os.dup2(target.fileno(), 2)
        try:
            forkserver.ensure_running()
        finally:
            for number, kept in enumerate(terminal, 1):
                os.dup2(kept, number)
                os.close(kept)
    return file


@pytest.fixture
def sweep(monkeypatch, capfd, printed_by_runs):
    """`sweep(arguments, folder)`: `train.py -m` on tiny runs: (exit code, all output)."""

    def call(arguments, folder):
        before = printed_by_runs.stat().st_size
        code, out, err = call_train(["-m", *TINY, *arguments], folder, monkeypatch, capfd)
        return code, out + err + printed_by_runs.read_bytes()[before:].decode()

    return call


@pytest.fixture
def fresh_wandb(monkeypatch):
    """wandb reads its environment once a process; nothing is known there but 127.0.0.1."""
    for key in [key for key in os.environ if key.startswith("WANDB_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    wandb.teardown()
    yield
    wandb.teardown()
