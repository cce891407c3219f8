"""The packed cache: written once, atomically, with the source's bytes."""

from __future__ import annotations

import errno
import json
import logging
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.support.tiny_source import (
    BAD,
    JOBS,
    KINDS,
    SIZES,
    Tiny,
    asked,
    caches,
    config,
    contents,
    pids,
    read_all,
    start_packing,
    wait_until,
)
from vae.data import packing_jobs
from vae.data.base import SPLITS
from vae.data.cache import open_or_pack, verify
from vae.data.folder import FolderConfig, FolderSource
from vae.data.packing import cache_lock
from vae.utils.errors import UserError


def test_the_cache_holds_the_sources_images_memory_mapped(tmp_path, calls):
    packed = open_or_pack(Tiny(calls), config(tmp_path))

    assert packed.folder == caches(tmp_path)[0]
    assert packed.folder.name.startswith("tiny-8px-")
    for split, images in read_all(Tiny(calls)).items():
        assert isinstance(packed.images[split], np.memmap)
        assert not packed.images[split].flags.writeable
        assert packed.images[split].dtype == np.uint8
        assert (packed.images[split] == images).all()
    assert packed.skipped() == []
    index = json.loads((packed.folder / "index.json").read_text())
    assert index["fingerprint"] == {"size": 8}
    assert index["images"] == SIZES
    assert set(index["files"]) == set(contents(packed.folder)) - {"index.json"}


@pytest.mark.parametrize("kinds", [(), ("factors",), ("attributes", "identities"), tuple(KINDS)])
def test_labels_are_present_or_none(tmp_path, calls, kinds):
    packed = open_or_pack(Tiny(calls, kinds=kinds), config(tmp_path))

    assert packed.label_names() == {kind: [f"{kind} a", f"{kind} b"] for kind in kinds}
    for split in SPLITS:
        for kind, dtype in KINDS.items():
            labels = getattr(packed, kind)(split)
            assert (labels is not None) == (kind in kinds)
            if labels is not None:
                assert labels.names == (f"{kind} a", f"{kind} b")
                assert labels.values.dtype == dtype
                expected = Tiny(calls, kinds=kinds).labels(split)[kind].values
                np.testing.assert_array_equal(labels.values, expected)


def test_packing_shows_progress(tmp_path, pictures, capfd):
    settings = FolderConfig("folder", str(tmp_path), 16, 2, None, False, None, path=str(pictures))
    packed = open_or_pack(FolderSource(settings), settings)

    for split, images in read_all(FolderSource(settings)).items():
        assert (packed.images[split] == images).all()
    shown = capfd.readouterr()
    assert "packing folder 16 px" in shown.err
    assert "60/60" in shown.err
    assert shown.out == ""


def test_an_existing_cache_is_opened_without_reading(tmp_path, calls):
    open_or_pack(Tiny(calls), config(tmp_path))
    first = calls.read_text()
    again = open_or_pack(Tiny(calls), config(tmp_path))

    assert calls.read_text() == first
    assert again.images["train"].shape == (200, 8, 8, 3)


def test_each_setting_has_its_own_cache(tmp_path, calls):
    open_or_pack(Tiny(calls), config(tmp_path))
    other = open_or_pack(Tiny(calls, size=16), config(tmp_path, 16))

    assert len(caches(tmp_path)) == 2
    assert other.images["val"].shape == (70, 16, 16, 3)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_skip_leaves_out_unreadable_images(tmp_path, calls, caplog, monkeypatch, num_workers):
    monkeypatch.setattr(packing_jobs, "POOL_PAYS_FROM", -1)
    fork = multiprocessing.get_context("fork")  # workers that are there at once
    monkeypatch.setattr(packing_jobs.multiprocessing, "get_context", lambda _: fork)
    source = Tiny(calls, bad=BAD, kinds=KINDS)
    packed = open_or_pack(source, config(tmp_path, num_workers=num_workers, skip=True))

    assert len(pids(calls)) > num_workers - 1
    for split, images in read_all(Tiny(calls)).items():
        kept = [row for row in range(SIZES[split]) if (split, row) not in BAD]
        assert (packed.images[split] == images[kept]).all()
        for kind in KINDS:
            rows = getattr(packed, kind)(split).values.astype(np.uint8)
            assert rows.tolist() == [[row, row] for row in kept]
    listed = [f"{split}\t{row}\t{split}-{row}.jpg: truncated." for split, row in BAD]
    assert packed.skipped() == listed
    assert (packed.folder / "skipped.txt").read_text().splitlines() == listed
    index = json.loads((packed.folder / "index.json").read_text())
    assert index["images"] == {"train": 197, "val": 69, "test": 29}
    assert index["skipped"] == {"train": 3, "val": 1, "test": 1}
    assert verify(source, config(tmp_path, skip=True)).skipped() == listed

    for _ in range(2):  # at each opening it is said
        caplog.clear()
        open_or_pack(source, config(tmp_path, skip=True))
        assert f"images left out: 5, listed in {packed.folder}" in caplog.text
    says = r"data\.on_corrupt: is `error`, .* train-0\.jpg: truncated\..* fix them"
    with pytest.raises(UserError, match=says):
        open_or_pack(source, config(tmp_path))
    assert contents(packed.folder)["skipped.txt"]  # refused, and left as it is


def test_repaired_skipped_images_are_packed_again(tmp_path, calls, caplog):
    before = open_or_pack(Tiny(calls, bad=BAD), config(tmp_path, skip=True))
    calls.unlink()
    again = open_or_pack(Tiny(calls), config(tmp_path, skip=True))  # as it was asked for
    assert again.skipped() == before.skipped()
    assert not calls.exists()
    with pytest.raises(UserError, match="left out: 5"):  # one of them mended, and not the others
        open_or_pack(Tiny(calls, bad=BAD[1:]), config(tmp_path))
    assert again.folder.exists()

    packed = open_or_pack(Tiny(calls), config(tmp_path))

    assert "images that were left out can be read now; packing it again" in caplog.text
    assert packed.skipped() == []
    for split, images in read_all(Tiny(calls)).items():
        assert (packed.images[split] == images).all()


def test_the_cache_stays_until_every_image_is_repaired(tmp_path, calls):
    bad = [("train", row) for row in range(21)]
    folder = open_or_pack(Tiny(calls, bad=bad), config(tmp_path, skip=True)).folder
    before = contents(folder)
    for left in bad:
        with pytest.raises(UserError, match="left out: 21"):
            open_or_pack(Tiny(calls, bad=[left]), config(tmp_path))
        assert contents(folder) == before


@pytest.mark.parametrize("says", ["two\nlines.jpg: bad", "a\ttab.jpg", "caf\udce9.jpg", "\u2028"])
def test_skip_lists_unusual_file_names(tmp_path, calls, says):
    source = Tiny(calls, bad=BAD, says=says)
    for _ in range(2):
        packed = open_or_pack(source, config(tmp_path, skip=True))
        listed = [line.split("\t")[:2] for line in packed.skipped()]
        assert listed == [[split, str(row)] for split, row in BAD]


def test_skip_without_damage_equals_no_skip(tmp_path, calls, caplog):
    skip = open_or_pack(Tiny(calls), config(tmp_path / "skip", skip=True))
    error = open_or_pack(Tiny(calls), config(tmp_path / "error"))

    assert contents(skip.folder) == contents(error.folder)
    assert "left out" not in caplog.text


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_without_an_image_is_refused(tmp_path, calls, split):
    bad = [(split, row) for row in range(SIZES[split])]
    with pytest.raises(UserError, match=rf"nothing of {split}: none of its .* {split}-0\.jpg"):
        open_or_pack(Tiny(calls, bad=bad), config(tmp_path, skip=True))
    assert caches(tmp_path) == []

    packed = open_or_pack(Tiny(tmp_path / "mended"), config(tmp_path))
    assert (packed.images[split] == read_all(Tiny(calls))[split]).all()
    assert set(JOBS) - set(asked(tmp_path / "mended")) == {job for job in JOBS if job[0] != split}


def test_concurrent_processes_pack_once(tmp_path, calls, caplog):
    name = open_or_pack(Tiny(tmp_path / "other"), config(tmp_path / "other_root")).folder.name
    (tmp_path / "cache").mkdir()
    logs = [tmp_path / f"log{number}" for number in range(2)]
    waits = f"{name}: another process is packing it; waiting"
    with caplog.at_level(logging.INFO), ThreadPoolExecutor() as threads:
        with cache_lock(tmp_path / "cache" / name):  # until all are there
            packers = [start_packing(tmp_path, calls, 1, log, seconds=0.05) for log in logs]
            ours = threads.submit(open_or_pack, Tiny(calls, seconds=0.05), config(tmp_path))
            wait_until(lambda: all(waits in log.read_text() for log in logs))
            wait_until(lambda: waits in caplog.text)
            assert not calls.exists()
        packed = ours.result(60)

    assert [packer.wait(60) for packer in packers] == [0, 0]
    assert asked(calls) == JOBS
    assert len(pids(calls)) == 1
    assert contents(packed.folder) == contents(caches(tmp_path / "other_root")[0])


def test_a_waiting_process_packs_if_the_packer_dies(tmp_path, calls, caplog):
    packer = start_packing(tmp_path, calls, 1, gate=tmp_path / "never")
    wait_until(lambda: len(asked(calls)) == 2)
    with caplog.at_level(logging.INFO), ThreadPoolExecutor() as threads:
        waiting = threads.submit(open_or_pack, Tiny(tmp_path / "again"), config(tmp_path))
        wait_until(lambda: "another process is packing it; waiting" in caplog.text)
        packer.kill()
        packed = waiting.result(60)

    packer.wait()
    assert "resuming at image 64" in caplog.text
    assert asked(tmp_path / "again") == JOBS[1:]
    assert (packed.images["train"] == read_all(Tiny(calls))["train"]).all()


def test_a_transient_read_error_is_no_damage(tmp_path, calls, monkeypatch):
    """An intact cache is not packed again."""
    folder = open_or_pack(Tiny(calls), config(tmp_path)).folder
    before = contents(folder)

    def stale(*_: object, **__: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle", "train.npy")

    monkeypatch.setattr("vae.data.cache.damaged_blocks", stale)
    with pytest.raises(UserError, match=r"train\.npy: cannot be read: Stale file handle"):
        open_or_pack(Tiny(calls), config(tmp_path))
    assert contents(folder) == before


def test_verify_reports_a_bad_sector(tmp_path, calls, monkeypatch):
    folder = open_or_pack(Tiny(calls), config(tmp_path)).folder

    def read(file: Path, *_: object, all_of_it: bool = False) -> list[int]:
        if all_of_it and file.name == "train.npy":
            raise OSError(errno.EIO, "Input/output error")
        return [0] if all_of_it and file.name == "val.npy" else []

    monkeypatch.setattr("vae.data.cache.damaged_blocks", read)
    with pytest.raises(UserError) as caught:
        verify(Tiny(calls), config(tmp_path))
    assert str(folder) in str(caught.value)
    assert "train.npy cannot be read (Input/output error)" in str(caught.value)
    assert "val.npy is damaged in 1 of 1 MiB (the first at byte 0)" in str(caught.value)
