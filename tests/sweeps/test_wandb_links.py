"""Links to the W&B runs of a sweep, as W&B's tools expect them."""

import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from vae.sweeps.wandb_sweep import link_runs


@pytest.fixture
def sweep(tmp_path):
    """Two runs, one of them resumed: three folders of W&B's; and W&B's own link and log."""
    sweep = tmp_path / "a sweep, β"
    for run, folder in [
        ("loss.beta=1e-05", "offline-run-20261122_100000-aaaa"),
        ("loss.beta=1e-05", "offline-run-20261122_110000-aaaa"),
        ("loss.beta=0.1", "run-20261122_100000-bbbb"),
    ]:
        wandb = sweep / run / "wandb"
        (wandb / folder).mkdir(parents=True)
        (wandb / folder / f"run-{folder[-4:]}.wandb").write_text(run)
        (wandb / "debug.log").write_text("")
    (wandb / "latest-run").symlink_to(folder)
    (sweep / "multirun.yaml").write_text("")
    return sweep


def links(sweep):
    """What is in the sweep's wandb folder, by name: where it leads to."""
    return {path.name: os.readlink(path) for path in (sweep / "wandb").iterdir()}


EXPECTED = {
    "offline-run-20261122_100000-aaaa": "loss.beta=1e-05",
    "offline-run-20261122_110000-aaaa": "loss.beta=1e-05",
    "run-20261122_100000-bbbb": "loss.beta=0.1",
}


def test_each_run_is_linked_once(sweep, tmp_path, monkeypatch):
    link_runs(sweep)
    monkeypatch.chdir(sweep.parent)
    link_runs(Path(sweep.name))
    assert links(sweep) == {name: f"../{run}/wandb/{name}" for name, run in EXPECTED.items()}
    moved = sweep.rename(tmp_path / "moved")
    for name, run in EXPECTED.items():
        (log,) = (moved / "wandb" / name).glob("run-*.wandb")
        assert log.read_text() == run


def test_dead_links_are_removed_and_others_kept(sweep):
    link_runs(sweep)
    summary = sweep / "wandb" / "offline-run-20261122_120000-cccc"  # a run of the sweep itself
    summary.mkdir()
    shutil.rmtree(sweep / "loss.beta=0.1")
    link_runs(sweep)
    assert not os.path.lexists(sweep / "wandb" / "run-20261122_100000-bbbb")
    assert summary.is_dir()
    assert not summary.is_symlink()
    assert len(list((sweep / "wandb").iterdir())) == 3


def test_concurrent_runs_link_once(sweep, caplog):
    """Links are removed, broken and made by four at once."""
    for number in range(40):
        run = sweep / str(number) / "wandb" / f"offline-run-20261122_130000-{number:04}"
        run.mkdir(parents=True)

    def remove_break_and_link(_):
        for path in (sweep / "wandb").glob("*-000*"):
            path.unlink(missing_ok=True)
        for number in range(20):
            with suppress(FileExistsError):
                (sweep / "wandb" / f"run-{number}").symlink_to("nowhere")
        link_runs(sweep)

    link_runs(sweep)
    with caplog.at_level(logging.INFO), ThreadPoolExecutor(4) as threads:
        list(threads.map(remove_break_and_link, range(300)))
    assert caplog.records == []
    link_runs(sweep)
    assert len(links(sweep)) == 43


def test_without_runs_there_is_no_folder(tmp_path):
    link_runs(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [PermissionError("no symlinks here"), NotImplementedError("no")])
def test_no_links_on_file_systems_without_them(sweep, monkeypatch, caplog, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Path, "symlink_to", fail)
    with caplog.at_level(logging.INFO):
        link_runs(sweep)
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert str(error) in record.getMessage()
