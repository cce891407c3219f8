"""The run folder: claimed once, locked by one process, removed if nothing was trained."""

import logging
import threading

import pytest

from tests.support.sweep_processes import wait_until
from vae.runs.run_dir import (
    RunFolderInUseError,
    claim_run_folder,
    is_locked,
    remove_run_folder,
    run_lock,
)


@pytest.fixture
def hydras_files():
    """Make Hydra's files in a folder, with the open log of a job called `foo`."""
    handlers = []

    def make(folder):
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra" / "config.yaml").write_text("seed: 0")
        handlers.append(logging.FileHandler(folder / "foo.log"))
        logging.getLogger().addHandler(handlers[-1])

    yield make
    for handler in handlers:
        logging.getLogger().removeHandler(handler)
        handler.close()


@pytest.mark.parametrize(
    ("beside", "left"),
    [
        ([], []),
        (["day/good/train.log"], ["day/good/train.log"]),  # another run of the day
        (["day/bad/thesis.txt"], ["day/bad/thesis.txt"]),
        (["day/bad/metrics.jsonl"], ["day/bad/.hydra/config.yaml", "day/bad/foo.log",
                                     "day/bad/metrics.jsonl"]),  # it was trained
    ],
)  # fmt: skip
def test_a_run_without_training_leaves_nothing_of_its_own(
    beside, left, hydras_files, tmp_path, monkeypatch
):
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


def test_folders_above_the_current_one_are_never_touched(hydras_files, tmp_path, monkeypatch):
    here = tmp_path / "elsewhere" / "here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    hydras_files(tmp_path / "elsewhere" / "run")
    remove_run_folder(tmp_path / "elsewhere" / "run")
    assert here.exists()
    assert not (tmp_path / "elsewhere" / "run").exists()


def test_a_locked_folder_is_refused(hydras_files, tmp_path):
    """Also to a command that is refused: images are still being packed, without any metrics."""
    hydras_files(tmp_path)
    claim_run_folder(tmp_path)
    with run_lock(tmp_path):
        before = sorted(tmp_path.rglob("*"))
        assert is_locked(tmp_path)
        with pytest.raises(RunFolderInUseError, match="another process is training this run"):
            run_lock(tmp_path).__enter__()
        remove_run_folder(tmp_path)
        assert is_locked(tmp_path)
        assert not is_locked(tmp_path / ".hydra")
        assert sorted(tmp_path.rglob("*")) == before  # looking does not lock
    assert not is_locked(tmp_path)  # whether the file is there means nothing


def test_a_locked_folder_can_be_waited_for(tmp_path, caplog):
    """While it is held the wait goes on, and says so; then it is over."""
    caplog.set_level(logging.INFO)
    entered = threading.Event()

    def wait():
        with run_lock(tmp_path, wait=True):
            entered.set()

    thread = threading.Thread(target=wait)
    with run_lock(tmp_path):
        thread.start()
        wait_until(lambda: "waiting for it" in caplog.text)
        assert not entered.wait(0.2)
    assert entered.wait(20)
    thread.join()
