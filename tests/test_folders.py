"""The run folder: claimed once, and forgotten only when nothing was trained in it."""

import pytest

from vae.folders import FolderTakenError, claim_run_folder, forget_run_folder


def hydras_files(folder):
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text("seed: 0")
    (folder / "train.log").write_text("")


def test_of_two_runs_one_gets_the_folder(tmp_path):
    claim_run_folder(tmp_path / "run")
    with pytest.raises(FolderTakenError, match="holds a run already"):
        claim_run_folder(tmp_path / "run")


def test_a_run_that_never_began_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "outputs" / "2026-11-22" / "10-00-00"
    hydras_files(folder)
    claim_run_folder(folder)
    forget_run_folder(folder)
    assert list(tmp_path.iterdir()) == []


def test_other_runs_of_the_day_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hydras_files(tmp_path / "day" / "good")
    hydras_files(tmp_path / "day" / "bad")
    forget_run_folder(tmp_path / "day" / "bad")
    assert [p.name for p in (tmp_path / "day").iterdir()] == ["good"]


def test_what_else_lies_there_stays(tmp_path):
    hydras_files(tmp_path / "mine")
    (tmp_path / "mine" / "thesis.txt").write_text("do not lose me")
    forget_run_folder(tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_run_that_was_trained_stays_whole(tmp_path):
    hydras_files(tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text("{}\n")
    forget_run_folder(tmp_path / "run")
    assert len(list((tmp_path / "run").rglob("*"))) == 4


def test_folders_above_the_current_one_are_never_touched(tmp_path, monkeypatch):
    here = tmp_path / "elsewhere" / "here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    hydras_files(tmp_path / "elsewhere" / "run")
    forget_run_folder(tmp_path / "elsewhere" / "run")
    assert here.exists()
    assert not (tmp_path / "elsewhere" / "run").exists()
