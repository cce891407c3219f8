"""Packing: interrupted, it resumes from its journal."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.tiny_source import (
    ENV,
    JOBS,
    ROOT,
    Tiny,
    asked,
    caches,
    config,
    contents,
    cut,
    noted,
    packing_code,
    partials,
    pids,
    whole,
)
from vae.cli.main import main
from vae.data.cache import open_or_pack
from vae.data.packing import _allocate_files
from vae.utils.errors import UserError


@pytest.mark.usefixtures("workers")
def test_workers_pack_the_same_bytes(tmp_path, calls):
    packed = open_or_pack(Tiny(calls), config(tmp_path, num_workers=2))

    assert contents(packed.folder) == whole(tmp_path)
    assert sorted(asked(calls)) == sorted(JOBS)
    assert pids(calls) > {os.getpid()}
    assert pids(tmp_path / "whole_calls") == {os.getpid()}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_unreadable_image_keeps_finished_jobs(tmp_path, calls, num_workers, caplog):
    settings = config(tmp_path, num_workers=num_workers)
    says = r"^val-65\.jpg: truncated\. .*data\.on_corrupt=skip"
    with pytest.raises(UserError, match=says):
        open_or_pack(Tiny(tmp_path / "first", bad=[("val", 65)]), settings)

    assert caches(tmp_path) == []
    done = noted(partials(tmp_path)[0])
    assert JOBS[0] in done
    with caplog.at_level(logging.INFO):
        packed = open_or_pack(Tiny(calls), settings)  # it is mended
    assert "resuming at image" in caplog.text
    assert sorted(asked(calls)) == sorted(set(JOBS) - set(done))
    assert contents(packed.folder) == whole(tmp_path)
    assert partials(tmp_path) == []


@pytest.mark.usefixtures("quick")
def test_a_dead_worker_keeps_finished_jobs(tmp_path, calls):
    with pytest.raises(UserError, match=r"data\.num_workers: a packing process died"):
        open_or_pack(Tiny(tmp_path / "first", fails="killed"), config(tmp_path, num_workers=2))

    assert caches(tmp_path) == []
    packed = open_or_pack(Tiny(calls), config(tmp_path))
    assert JOBS[0] not in asked(calls)
    assert contents(packed.folder) == whole(tmp_path)


def test_an_interrupted_packing_reads_only_the_rest(tmp_path, calls, caplog):
    cut(tmp_path)
    with caplog.at_level(logging.INFO):
        packed = open_or_pack(Tiny(calls), config(tmp_path))

    assert "resuming at image 200" in caplog.text
    assert asked(calls) == JOBS[4:]
    assert contents(packed.folder) == whole(tmp_path)
    assert partials(tmp_path) == []


def in_journal(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    def damage(partial: Path) -> None:
        file = partial / "journal.jsonl"
        file.write_bytes(change(file.read_bytes()))

    return damage


def zeros(partial: Path) -> None:
    with open(partial / "train.npy", "rb+") as file:
        file.seek(128 + 130 * 192)
        file.write(bytes(100))


def one_bit(partial: Path) -> None:
    content = bytearray((partial / "train.npy").read_bytes())
    content[-1] ^= 1
    (partial / "train.npy").write_bytes(content)


def other_shape(partial: Path) -> None:
    np.save(partial / "train.npy", np.zeros((199, 8, 8, 3), np.uint8))


TRAIN = JOBS[:4]
LOSSES: dict[str, tuple[Callable[[Path], object], list[tuple[str, int]]]] = {
    "half a last line": (in_journal(lambda text: text[:-9]), [("train", 192)]),
    "no last newline": (in_journal(lambda text: text[:-1]), []),
    "a line of zeros": (in_journal(lambda text: text + bytes(50)), []),
    "a line of no meaning": (in_journal(lambda text: b'{"a": 1}\n7\n[1]\n' + text), []),
    "a damaged line": (in_journal(lambda text: text.replace(b"64, ", b"\xff, ", 1)), [TRAIN[0]]),
    "lost journal": (lambda partial: (partial / "journal.jsonl").unlink(), TRAIN),
    "empty journal": (in_journal(lambda _: b""), TRAIN),
    "lost images": (lambda partial: (partial / "train.npy").unlink(), TRAIN),
    "images cut": (lambda partial: os.truncate(partial / "train.npy", 20000), TRAIN),
    "another shape": (other_shape, TRAIN),
    "images never written": (zeros, [("train", 128)]),
    "a bit": (one_bit, [("train", 192)]),
}


@pytest.mark.parametrize(("loss", "again"), LOSSES.values(), ids=LOSSES)
def test_only_lost_jobs_are_repeated(tmp_path, calls, caplog, loss, again):
    partial = cut(tmp_path)
    loss(partial)
    found = partial.joinpath("train.npy").exists()
    with caplog.at_level(logging.INFO), pytest.raises(KeyboardInterrupt):
        open_or_pack(Tiny(tmp_path / "second", fails="interrupt"), config(tmp_path))
    assert asked(tmp_path / "second") == [*again, ("val", 0)]
    assert ("an earlier packing was interrupted; starting over" in caplog.text) == (
        again == TRAIN and found
    )

    caplog.clear()  # cut once more: what was done again was noted again
    with caplog.at_level(logging.INFO):
        packed = open_or_pack(Tiny(calls), config(tmp_path))
    assert contents(packed.folder) == whole(tmp_path)
    assert asked(calls) == JOBS[4:]
    assert "resuming at image 200" in caplog.text


def test_ctrl_c_prints_one_word(tmp_path, monkeypatch, capsys):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vae.data.open_or_pack", interrupt)
    assert main(["pack", "synthetic", f"data.root={tmp_path}"]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


@pytest.mark.slow
def test_a_script_without_a_main_guard_ends_with_the_reason(tmp_path, calls):
    script = tmp_path / "script.py"
    script.write_text(packing_code(tmp_path, calls, 2, False))
    result = subprocess.run(
        [sys.executable, script], cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=300
    )

    assert result.returncode != 0
    assert "must do so under `if __name__ == '__main__':`" in result.stderr.splitlines()[-1]
    assert caches(tmp_path) == []


def test_files_of_the_system_are_ignored(tmp_path, calls):
    partial = cut(tmp_path)
    (partial / ".DS_Store").write_bytes(b"1")
    folder = open_or_pack(Tiny(calls), config(tmp_path)).folder
    (folder / ".DS_Store").unlink()
    calls.unlink()

    open_or_pack(Tiny(calls), config(tmp_path))
    assert not calls.exists()


@pytest.mark.parametrize(("size", "chunk"), [(8, 64), (256, 64), (512, 21), (4000, 1)])
def test_jobs_of_large_images_are_short(tmp_path, size, chunk):
    """A worker holds one job in memory."""
    jobs = _allocate_files({"train": 70}, config(tmp_path, size), tmp_path)

    assert jobs[0].stop == min(chunk, 70)
    assert [job.start for job in jobs[1:]] == [job.stop for job in jobs[:-1]]
