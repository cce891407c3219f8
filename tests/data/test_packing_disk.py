"""Packing on a disk that is too small or becomes full."""

from __future__ import annotations

import os
import re
import resource
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import Timeout

from tests.support.tiny_source import (
    BAD,
    JOBS,
    SIZES,
    Tiny,
    asked,
    caches,
    config,
    cut,
    in_a_fork,
    partials,
)
from vae.data import packing
from vae.data.cache import open_or_pack
from vae.data.packing import cache_lock
from vae.utils.errors import UserError

DAY = 24 * 3600


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_full_disk_is_reported_and_space_is_freed(tmp_path, calls, monkeypatch, num_workers):
    locked = []

    def is_locked(partial: Path, **_: Any) -> None:
        try:
            with cache_lock(partial.with_name(partial.name[1 : -len(".partial")])).acquire(
                timeout=0
            ):
                locked.append(False)
        except Timeout:
            locked.append(True)
        shutil_rmtree(partial)

    shutil_rmtree = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", is_locked)
    with pytest.raises(UserError, match=r"data\.root: .*the disk is full"):
        open_or_pack(Tiny(calls, fails="disk"), config(tmp_path, num_workers=num_workers))

    assert caches(tmp_path) == partials(tmp_path) == []
    assert locked == [True]  # or one that waits would go on with what is being removed


IMAGES = sum(SIZES.values()) * 3 * 64**2


@pytest.mark.parametrize(
    ("size", "bad"),
    [
        (2 << 20, []),  # images
        (IMAGES + 6 * 4096, []),  # labels
        (IMAGES + (1 << 20), BAD),  # train.npy without the rows that are skipped
    ],
)
def test_a_disk_can_become_full_at_any_write(small_disk, tmp_path, calls, monkeypatch, size, bad):
    root = small_disk(size)
    set_free(monkeypatch, 1 << 40)  # it is others who fill it

    def pack() -> None:
        try:
            open_or_pack(Tiny(calls, 64, bad=bad), config(root, 64, skip=bool(bad)))
        except UserError as error:
            (tmp_path / "said").write_text(str(error))

    _, status = os.waitpid(in_a_fork(pack), 0)
    assert os.waitstatus_to_exitcode(status) == 0, "killed"
    said = (tmp_path / "said").read_text()
    assert f"data.root: {root}: the disk is full, so packing stopped" in said
    assert re.search(r"\d\.\d\d GB are free, and the packed images need 0\.0\d GB", said)
    assert caches(root) == partials(root) == []


def test_file_size_limits_are_reported(tmp_path, calls):
    """A file size limit acts like a full disk, without mounting one."""

    def pack() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
        try:
            open_or_pack(Tiny(calls, 64), config(tmp_path, 64))
        except UserError as error:
            (tmp_path / "said").write_text(str(error))

    _, status = os.waitpid(in_a_fork(pack), 0)
    assert os.waitstatus_to_exitcode(status) == 0, "killed"
    assert "files may not become that large there, so" in (tmp_path / "said").read_text()
    assert caches(tmp_path) == partials(tmp_path) == []


def set_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))


def test_a_small_disk_is_reported_before_reading(tmp_path, calls, monkeypatch):
    set_free(monkeypatch, 300 * 192 - 1)
    with pytest.raises(UserError, match=r"data\.root: .* 0\.00 GB free"):
        open_or_pack(Tiny(calls), config(tmp_path))

    assert not calls.exists()
    set_free(monkeypatch, 300 * 192)
    open_or_pack(Tiny(calls), config(tmp_path))


def test_resuming_needs_space_only_for_the_rest(tmp_path, calls, monkeypatch):
    cut(tmp_path, size=64)
    set_free(monkeypatch, 50 * 3 * 64**2)  # val and test: 100 images
    with pytest.raises(UserError, match=r"data\.root: .* GB free"):
        open_or_pack(Tiny(calls, 64), config(tmp_path, 64))

    assert not calls.exists()
    set_free(monkeypatch, 105 * 3 * 64**2)
    open_or_pack(Tiny(calls, 64), config(tmp_path, 64))


def test_a_damaged_cache_counts_as_free_space(tmp_path, calls, monkeypatch):
    packed = open_or_pack(Tiny(calls), config(tmp_path))
    (packed.folder / "index.json").unlink()
    set_free(monkeypatch, 100)

    open_or_pack(Tiny(calls), config(tmp_path))


def test_a_root_that_is_a_file_is_refused(tmp_path, calls):
    (tmp_path / "root").write_text("")
    with pytest.raises(UserError, match=r"data\.root: .*root: the cache cannot be written there"):
        open_or_pack(Tiny(calls), config(tmp_path / "root"))


def test_unfinished_caches_are_removed_after_a_week(tmp_path, calls):
    ours = cut(tmp_path)
    ages = {"old": 8, "young": 6, "locked": 8, "gone_on_with": 8}
    others = {name: ours.with_name(f".tiny-8px-{name}.partial") for name in ages}
    for name, partial in others.items():
        shutil.copytree(ours, partial)
        for path in (*partial.iterdir(), partial):
            os.utime(path, (time.time() - ages[name] * DAY,) * 2)
    os.utime(others["gone_on_with"] / "journal.jsonl")
    os.utime(ours, (time.time() - 9 * DAY,) * 2)
    with cache_lock(ours.with_name("tiny-8px-locked")):
        open_or_pack(Tiny(calls), config(tmp_path))

    assert asked(calls) == JOBS[4:]
    left = {name for name, partial in others.items() if (partial / "train.npy").exists()}
    assert left == {"young", "locked", "gone_on_with"}
