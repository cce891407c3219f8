"""Checkpoints: whole or not at all, and nothing in them runs."""

import pickle
import subprocess
import sys
import textwrap

import pytest
import torch

from vae.checkpoint import load_checkpoint, save_checkpoint
from vae.errors import UserError


def test_round_trip(tmp_path):
    state = {"model": {"w": torch.arange(3.0)}, "step": 7, "config": {"loss": {"beta": 1e-4}}}
    save_checkpoint(tmp_path / "a" / "last.pt", state)
    loaded = load_checkpoint(tmp_path / "a" / "last.pt")
    assert torch.equal(loaded["model"]["w"], state["model"]["w"])
    assert loaded["step"] == 7
    assert loaded["config"] == state["config"]
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["last.pt"]


class Bomb:
    """Unpickling it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_opening_a_strangers_checkpoint_runs_no_code(tmp_path):
    proof = tmp_path / "it-ran"
    torch.save({"format": 1, "model": Bomb(proof)}, tmp_path / "evil.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Bomb(proof)))
    for name in ("evil.pt", "raw.pt"):
        with pytest.raises(UserError, match=name):
            load_checkpoint(tmp_path / name)
    assert not proof.exists()


@pytest.mark.parametrize("keep", [0, 10, 1000, -1])
def test_damaged_files_are_named(tmp_path, keep):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"model": {"w": torch.zeros(1000)}})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"last\.pt: this is no checkpoint, or a damaged one"):
        load_checkpoint(path)


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(UserError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "none.pt")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="of format None"):
        load_checkpoint(tmp_path / "other.pt")


def test_killed_while_writing_leaves_the_old_checkpoint(tmp_path):
    """A process that dies half-way through a save, with half a file on the disk."""
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"step": 1})
    script = f"""
        import os, signal
        from pathlib import Path
        from vae.files import write_atomically

        def half(temporary):
            temporary.write_bytes(b"half a checkpoint")
            os.kill(os.getpid(), signal.SIGKILL)

        write_atomically(Path({str(path)!r}), half)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert done.returncode == -9
    assert load_checkpoint(path)["step"] == 1


def test_a_failed_save_leaves_no_trace(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"step": 1})
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(path, {"step": 2, "bad": lambda: None})
    assert load_checkpoint(path)["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_a_file_is_replaced_and_never_written_over(tmp_path):
    """Whoever has the old file open keeps reading the old one: here, through a second name."""
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"step": 1})
    (tmp_path / "old.pt").hardlink_to(path)
    save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path)["step"] == 2
    assert load_checkpoint(tmp_path / "old.pt")["step"] == 1
