"""Packing: by workers, by one of several processes, and resumed after an interruption."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from tests.support.tiny_source import (
    JOBS,
    Tiny,
    asked,
    caches,
    config,
    contents,
    cut,
    in_a_fork,
    noted,
    partials,
    pids,
    wait_until,
    whole,
)
from tests.support.train_command import ROOT
from vae.cli.main import main
from vae.data.cache import open_or_pack
from vae.data.partial_cache import PartialCache
from vae.utils.errors import UserError


@pytest.mark.usefixtures("workers")
def test_workers_pack_the_same_bytes(tmp_path, calls):
    packed = open_or_pack(Tiny(calls), config(tmp_path, num_workers=2))

    assert contents(packed.folder) == whole(tmp_path)
    assert sorted(asked(calls)) == sorted(JOBS)
    assert pids(calls) > {os.getpid()}
    assert pids(tmp_path / "whole_calls") == {os.getpid()}


ENDS: list[tuple[int, dict[str, Any], type[BaseException], str | None]] = [
    (1, {"fails": "interrupt"}, KeyboardInterrupt, None),
    (2, {"fails": "killed"}, UserError, r"data\.num_workers: a packing process died"),
    (2, {"bad": [("val", 65)]}, UserError, r"^val-65\.jpg: truncated\. .*data\.on_corrupt=skip"),
]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("num_workers", "fault", "error", "says"), ENDS)
def test_a_failed_packing_is_resumed(tmp_path, calls, caplog, num_workers, fault, error, says):
    settings = config(tmp_path, num_workers=num_workers)
    with pytest.raises(error, match=says):
        open_or_pack(Tiny(tmp_path / "first", **fault), settings)
    assert caches(tmp_path) == []
    done = noted(partials(tmp_path)[0])
    assert JOBS[0] in done
    if num_workers == 1:
        assert sorted(done) == sorted(JOBS[:4])

    with caplog.at_level(logging.INFO):
        packed = open_or_pack(Tiny(calls), settings)
    assert "an earlier packing was interrupted; resuming at image" in caplog.text
    assert sorted(asked(calls)) == sorted(set(JOBS) - set(done))
    assert contents(packed.folder) == whole(tmp_path)
    assert partials(tmp_path) == []


def zeros(partial: Path) -> None:
    """Lose bytes of the third chunk."""
    with open(partial / "train.npy", "rb+") as file:
        file.seek(128 + 130 * 192)
        file.write(bytes(100))


TRAIN = JOBS[:4]
LOSSES: dict[str, tuple[Callable[[Path], object], list[tuple[str, int]]]] = {
    "images cut": (lambda partial: os.truncate(partial / "train.npy", 128 + 130 * 192), TRAIN[2:]),
    "images never written": (zeros, [TRAIN[2]]),
    "an older format": (lambda partial: (partial / "done").rename(partial / "journal"), TRAIN),
}


@pytest.mark.parametrize(("loss", "again"), LOSSES.values(), ids=LOSSES)
def test_only_lost_chunks_are_written_again(tmp_path, calls, caplog, loss, again):
    loss(cut(tmp_path))
    with caplog.at_level(logging.INFO), pytest.raises(KeyboardInterrupt):
        open_or_pack(Tiny(tmp_path / "second", fails="interrupt"), config(tmp_path))
    assert asked(tmp_path / "second") == [*again, ("val", 0)]
    starts_over = "an earlier packing was interrupted; starting over" in caplog.text
    assert starts_over == (again == TRAIN)

    caplog.clear()  # interrupted twice: the chunks that were written again are there
    with caplog.at_level(logging.INFO):
        packed = open_or_pack(Tiny(calls), config(tmp_path))
    assert contents(packed.folder) == whole(tmp_path)
    assert asked(calls) == JOBS[4:]
    assert "resuming at image 200" in caplog.text


def test_a_link_in_an_unfinished_cache_is_not_followed(tmp_path):
    partial, mine = cut(tmp_path), tmp_path / "victim" / "mine"
    mine.parent.mkdir()
    mine.write_text("mine")
    (partial / "train.npy").unlink()
    (partial / "train.npy").symlink_to(mine)
    with pytest.raises(UserError, match=r"train\.npy: is a link to .*mine, outside of"):
        open_or_pack(Tiny(tmp_path / "second"), config(tmp_path))
    shutil.rmtree(partial)
    partial.symlink_to(mine.parent)
    with pytest.raises(UserError, match=rf"{partial}: is a link\. Remove it"):
        open_or_pack(Tiny(tmp_path / "third"), config(tmp_path))
    assert [file.read_text() for file in mine.parent.iterdir()] == ["mine"]


@pytest.mark.parametrize(("size", "count"), [(8, 64), (256, 64), (512, 21), (4000, 1)])
def test_chunks_of_large_images_are_short(tmp_path, size, count):
    """A worker holds one chunk in memory."""
    chunks = PartialCache(tmp_path, Tiny(tmp_path), config(tmp_path, size)).chunks()
    train = [(chunk.start, chunk.stop) for chunk in chunks if chunk.split == "train"]
    assert train == [(start, min(start + count, 200)) for start in range(0, 200, count)]


@pytest.mark.parametrize("killed", [False, True])
def test_concurrent_processes_pack_once(tmp_path, calls, caplog, killed):
    source = Tiny(calls, gate=tmp_path / "gate")
    packer = in_a_fork(lambda: open_or_pack(source, config(tmp_path)))
    wait_until(lambda: len(asked(calls)) == 2)
    with caplog.at_level(logging.INFO), ThreadPoolExecutor() as threads:
        waiting = threads.submit(open_or_pack, Tiny(tmp_path / "again"), config(tmp_path))
        wait_until(lambda: "another process is packing it; waiting for it" in caplog.text)
        if killed:
            os.kill(packer, signal.SIGKILL)
        source.gate.touch()
        packed = waiting.result(60)

    assert os.waitpid(packer, 0)[1] == (signal.SIGKILL if killed else 0)
    assert asked(tmp_path / "again") == (JOBS[1:] if killed else [])
    assert ("resuming at image 64" in caplog.text) == killed
    assert contents(packed.folder) == whole(tmp_path)


def test_ctrl_c_prints_one_word(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("vae.data.open_or_pack", Mock(side_effect=KeyboardInterrupt))
    assert main(["pack", "synthetic", f"data.root={tmp_path}"]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


@pytest.mark.slow
def test_a_script_without_a_main_guard_ends_with_the_reason(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(f"""
from pathlib import Path
from tests.support.tiny_source import Tiny, config, open_or_pack
from vae.data import packing
packing.POOL_PAYS_FROM = -1
root = Path({str(tmp_path)!r})
open_or_pack(Tiny(root / "calls"), config(root, num_workers=2))
""")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, script], env=env, capture_output=True, text=True, timeout=300
    )

    assert result.returncode != 0
    assert "must do so under `if __name__ == '__main__':`" in result.stderr.splitlines()[-1]
    assert caches(tmp_path) == []
