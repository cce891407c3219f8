"""Full and unwritable disks: one message, and no saved file is lost."""

import errno
import itertools
import os
import re
import shutil
from pathlib import Path
from unittest import mock

import pytest

from tests.support.disks import fill
from tests.support.run_files import identical, rows, state_of, weights
from tests.support.train_command import TINY, call_train, run_train
from vae.runs.checkpoint import load_checkpoint
from vae.runs.run import Run
from vae.runs.run_dir import read_summary
from vae.runs.tracking import Tracker
from vae.training.trainer import Trainer

RUN = [*TINY, "hydra.run.dir=run"]


@pytest.mark.parametrize("number", [1, 3])
def test_a_full_disk_ends_the_run_with_a_message(number, small_disk, tmp_path, monkeypatch, capsys):
    """The last checkpoint is whole, and once there is room the run ends as one without trouble."""
    assert call_train(RUN, tmp_path, monkeypatch, capsys)[0] == 0
    disk, count, save = small_disk(4 << 20), itertools.count(1), Run._save

    def filled(run, name):
        if next(count) == number:
            fill(disk)
        save(run, name)

    with mock.patch.object(Run, "_save", filled):
        code, out, err = call_train(RUN, disk, monkeypatch, capsys)
    assert code == 1
    assert "Traceback" not in out + err
    folder = disk / "run"
    full = r"the disk is full \(0\.00 MB are free\)"
    assert re.search(rf"{folder}/checkpoints/(last|best)\.pt: {full}", err)
    assert f"resume={folder}" in err
    assert (folder / "checkpoints" / "last.pt").exists() == (number > 1)
    (disk / "others").unlink()
    code, _, err = call_train(["resume=run"], disk, monkeypatch, capsys)
    assert code == 0, err
    assert identical(weights(folder), weights(tmp_path / "run"))


def full_when(name, number=1, error=errno.ENOSPC):
    """os.replace fails at the n-th time that a file of this name is to be there."""
    replace, seen = os.replace, []

    def full(source, target, **kwargs):
        if Path(target).name == name:
            seen.append(target)
            if len(seen) == number:
                raise OSError(error, os.strerror(error))
        return replace(source, target, **kwargs)

    return mock.patch("os.replace", full)


@pytest.mark.parametrize(
    ("file", "number", "error", "says"),
    [
        ("checkpoints/last.pt", 2, errno.ENOSPC, "the disk is full"),
        ("checkpoints/last.pt", 1, errno.EFBIG, "files may not become that large there"),
        ("checkpoints/previous.pt", 1, errno.EDQUOT, "your share of the disk is full"),
        ("checkpoints/best.pt", 1, errno.EROFS, "cannot be used (Read-only file system)"),
        ("summary.json", 1, errno.ENOSPC, "the disk is full"),
        (".hydra/accepted.yaml", 1, errno.ENOSPC, "the disk is full"),
    ],
)
def test_each_file_can_meet_a_full_disk(file, number, error, says, tmp_path, monkeypatch, capsys):
    """The message names it, nothing is half written, and the run ends when there is room."""
    with full_when(Path(file).name, number, error):
        code, out, err = call_train(RUN, tmp_path, monkeypatch, capsys)
    run = tmp_path / "run"
    assert code == 1
    assert "Traceback" not in out + err
    assert f"{file}: {says}" in err
    assert not list(tmp_path.rglob("*.tmp"))
    for kept in (run / "checkpoints").glob("*"):
        load_checkpoint(kept)
    again = RUN if "accepted" in file else ["resume=run"]  # one never began, and is gone
    code, _, err = call_train(again, tmp_path, monkeypatch, capsys)
    assert code == 0, err
    assert state_of(run)["step"] == 8
    assert read_summary(run)["status"] == "finished"


def test_a_figure_on_a_full_disk_is_a_warning(tmp_path, monkeypatch, capsys):
    with full_when("samples.png"):
        code, out, err = call_train(RUN, tmp_path, monkeypatch, capsys)
    assert code == 0
    assert re.search(r"no figures of step 4: .*samples\.png", out + err)
    assert (tmp_path / "run" / "figures" / "samples.png").exists()  # of the next epoch


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="plays the full disk")
def test_metrics_on_a_full_disk_end_the_run(tmp_path, monkeypatch, capsys):
    """A resumed run drops half a line."""
    metrics, before, log = tmp_path / "run" / "metrics.jsonl", tmp_path / "before", Tracker.log

    def full(tracker, row):
        if row["step"] == 8:
            metrics.rename(before)
            metrics.symlink_to("/dev/full")
        log(tracker, row)

    with mock.patch.object(Tracker, "log", full):
        code, _, err = call_train(RUN, tmp_path, monkeypatch, capsys)
    assert code == 1
    assert f"{metrics}: the disk is full" in err
    assert f"The last good checkpoint is {tmp_path}/run/checkpoints/last.pt." in err
    assert "the disk is full" in read_summary(tmp_path / "run")["error"]
    metrics.unlink()
    metrics.write_text(before.read_text() + '{"step": 8, "tr')
    assert call_train(["resume=run"], tmp_path, monkeypatch, capsys)[0] == 0
    assert [row["step"] for row in rows(tmp_path / "run") if "val/bpd" in row] == [4, 8]


@pytest.mark.slow
def test_a_full_disk_is_one_message_at_the_terminal(small_disk, tmp_path):
    """Hydra's files and the log do not fit either."""
    disk = small_disk(1 << 20)
    packed = [*TINY, f"data.root={tmp_path / 'data'}"]
    assert run_train([*packed, "trainer.max_steps=1"], tmp_path).returncode == 0
    fill(disk)
    for words in (["hydra.run.dir=one"], ["-m", "hydra.sweep.dir=many", "seed=0,1"]):
        done = run_train([*packed, *words], disk)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert re.search("No space left|the disk is full", done.stderr)


@pytest.mark.parametrize(
    ("run", "says"),
    [
        ("disk/run", r"error: hydra\.run\.dir: disk/run cannot be written to: Read-only"),
        ("file/run", r"error: hydra\.run\.dir: file/run cannot be written to: Not a dir"),
        ("run", r"error: .*run/checkpoints: is a link to .*/disk, outside of .*run"),
    ],
)
def test_unwritable_folders_are_reported(run, says, small_disk, tmp_path, monkeypatch, capsys):
    """A read-only disk, a file, and checkpoints elsewhere; it is said before anything is packed."""
    disk = small_disk(1 << 20, "ro")
    (tmp_path / "file").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(disk)
    arguments = [*TINY, f"hydra.run.dir={run}", "resume=auto"]
    code, out, err = call_train(arguments, tmp_path, monkeypatch, capsys)
    assert code == 1
    assert "Traceback" not in out + err
    assert re.fullmatch(f"{says}.*\n", err)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("gone", "way"), [("", "renamed"), ("metrics.jsonl", "removed"), ("checkpoints", "removed")]
)
def test_a_run_folder_that_is_removed_ends_the_run(gone, way, tmp_path, monkeypatch, capsys):
    """It is not created again, as half a run; the rest of it stays as it is."""
    path, step = tmp_path / "run" / gone, Trainer.train_step
    kept = []

    def remove(trainer, images):
        if trainer.step == 6:
            kept.extend(file for file in (tmp_path / "run").rglob("*") if path not in file.parents)
            if way == "renamed":
                path.rename(tmp_path / "away")
            elif path.is_file():
                path.unlink()
            else:
                shutil.rmtree(path)
        return step(trainer, images)

    with mock.patch.object(Trainer, "train_step", remove):
        code, out, err = call_train([*RUN, "trainer.log_every=100"], tmp_path, monkeypatch, capsys)
    assert code == 1
    assert "Traceback" not in out + err
    named = path if gone else path / "metrics.jsonl"
    assert f"{named}: is gone; it was removed or renamed meanwhile; training stopped at" in err
    assert not path.exists()
    assert all(file.exists() for file in kept if file != path)
