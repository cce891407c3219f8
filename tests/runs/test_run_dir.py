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
from vae.utils.files import remove_unfinished


def hydras_files(folder):
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text("seed: 0")
    (folder / "train.log").write_text("")


def test_one_of_two_runs_claims_the_folder(tmp_path):
    claim_run_folder(tmp_path / "run")
    with pytest.raises(RunFolderInUseError, match="holds a run already"):
        claim_run_folder(tmp_path / "run")


@pytest.mark.parametrize(
    ("beside", "left"),
    [
        ([], []),
        (["day/good/train.log"], ["day/good/train.log"]),  # another run of the day
        (["day/bad/thesis.txt"], ["day/bad/thesis.txt"]),
        (["day/bad/metrics.jsonl"], ["day/bad/.hydra/config.yaml", "day/bad/metrics.jsonl",
                                     "day/bad/train.log"]),  # it was trained
    ],
)  # fmt: skip
def test_a_run_without_training_leaves_nothing_of_its_own(beside, left, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hydras_files(tmp_path / "day" / "bad")
    claim_run_folder(tmp_path / "day" / "bad")
    for name in beside:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    remove_run_folder(tmp_path / "day" / "bad")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(path.relative_to(tmp_path).as_posix() for path in files) == left
    assert left or list(tmp_path.iterdir()) == []


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
    (tmp_path / "run").mkdir()
    assert not is_locked(tmp_path / "run")
    assert not any((tmp_path / "run").iterdir())  # looking does not lock
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


WRITE = """
import sys
from pathlib import Path
from vae.utils.files import write_atomically

def write(path):
    path.touch()
    print("written", flush=True)
    sys.stdin.read()

write_atomically(Path(sys.argv[1]), write)
"""


def test_an_unfinished_file_stays_while_its_process_lives(tmp_path):
    """Another process may be writing beside a run that starts."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITE, str(tmp_path / "metrics.json")],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "written\n"
        remove_unfinished(tmp_path)
        assert len(list(tmp_path.iterdir())) == 1
        process.kill()
    remove_unfinished(tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_killed_process_releases_the_lock(tmp_path, holder):
    holder.kill()
    holder.wait(20)
    assert (tmp_path / ".lock").exists()  # the file stays, which means nothing
    assert not is_locked(tmp_path)
    with run_lock(tmp_path):
        assert is_locked(tmp_path)
