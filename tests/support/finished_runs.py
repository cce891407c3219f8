"""A finished run, trained once and copied for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.train_command import TINY, run_train


@pytest.fixture(scope="session")
def run_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `train.py` was run, in `run`, on 400 drawn faces. Not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    settings = [
        *TINY,
        "data.num_images=400",
        "data.preset=core",
        "hydra.run.dir=run",
        "trainer.epochs=1",
    ]
    done = run_train([*settings, "trainer.max_steps=20"], folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def finished(run_made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own copy of the run's folder; the current folder is the one around it."""
    run = shutil.copytree(run_made / "run", tmp_path / "run")
    (run / ".hydra" / "hydra.yaml").unlink()  # or it would know where its data were
    shutil.copytree(run_made / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return run
