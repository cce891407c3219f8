"""The run folder: claimed once, locked by one process, removed if nothing was trained."""

import logging
import subprocess
import sys
import threading

import pytest

from tests.support.sweep_processes import wait_until
from tests.support.train_command import ROOT
from vae.runs.run_dir import (
    RunFolderInUseError,
    claim_run_folder,
    is_locked,
    remove_run_folder,
    run_lock,
)


def hydras_files(folder):
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text("seed: 0")
    (folder / "train.log").write_text("")


def test_one_of_two_runs_claims_the_folder(tmp_path):
    claim_run_folder(tmp_path / "run")
    with pytest.raises(RunFolderInUseError, match="holds a run already"):
        claim_run_folder(tmp_path / "run")


def test_a_run_without_training_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "outputs" / "2026-11-22" / "10-00-00"
    hydras_files(folder)
    claim_run_folder(folder)
    remove_run_folder(folder)
    assert list(tmp_path.iterdir()) == []


def test_other_runs_of_the_day_are_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hydras_files(tmp_path / "day" / "good")
    hydras_files(tmp_path / "day" / "bad")
    remove_run_folder(tmp_path / "day" / "bad")
    assert [p.name for p in (tmp_path / "day").iterdir()] == ["good"]


def test_other_files_are_kept(tmp_path):
    hydras_files(tmp_path / "mine")
    (tmp_path / "mine" / "thesis.txt").write_text("do not lose me")
    remove_run_folder(tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_trained_run_is_kept(tmp_path):
    hydras_files(tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text("{}\n")
    remove_run_folder(tmp_path / "run")
    assert len(list((tmp_path / "run").rglob("*"))) == 4


def test_folders_above_the_current_one_are_never_touched(tmp_path, monkeypatch):
    here = tmp_path / "elsewhere" / "here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    hydras_files(tmp_path / "elsewhere" / "run")
    remove_run_folder(tmp_path / "elsewhere" / "run")
    assert here.exists()
    assert not (tmp_path / "elsewhere" / "run").exists()


HOLD = """
import sys
from pathlib import Path
from vae.runs.run_dir import run_lock

with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process, which holds the lock of `tmp_path` until its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_locked_folder_is_refused(tmp_path, holder):
    assert is_locked(tmp_path)
    with pytest.raises(RunFolderInUseError, match="another process is training this run"):
        run_lock(tmp_path).__enter__()
    assert is_locked(tmp_path)
    assert not is_locked(tmp_path.parent)


def test_a_refused_command_keeps_a_new_runs_folder(tmp_path, holder):
    """Its images are still being packed: there are no metrics yet."""
    hydras_files(tmp_path)
    claim_run_folder(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    remove_run_folder(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_locked_folder_can_be_waited_for(tmp_path, holder, caplog):
    """While it is held the wait goes on, and says so; then it is over."""
    caplog.set_level(logging.INFO)
    entered = threading.Event()

    def wait():
        with run_lock(tmp_path, wait=True):
            entered.set()

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: "waiting for it" in caplog.text)
    assert not entered.wait(0.2)
    holder.stdin.close()
    assert entered.wait(20)
    thread.join()
    assert not is_locked(tmp_path)


def test_a_killed_process_releases_the_lock(tmp_path, holder):
    holder.kill()
    holder.wait(20)
    assert (tmp_path / ".lock").exists()  # the file stays, which means nothing
    assert not is_locked(tmp_path)
    with run_lock(tmp_path):
        assert is_locked(tmp_path)


def test_an_error_releases_the_lock(tmp_path):
    with pytest.raises(ZeroDivisionError), run_lock(tmp_path):
        1 / 0  # noqa: B018
    assert not is_locked(tmp_path)


def test_is_locked_does_not_lock(tmp_path):
    """`vae compare` looks at runs that are about to start, again and again."""
    for _ in range(3):
        assert not is_locked(tmp_path)
    with run_lock(tmp_path):
        assert is_locked(tmp_path)
