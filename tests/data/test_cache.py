"""The packed cache: the source's bytes, verified at each opening, on a disk that may be full."""

from __future__ import annotations

import errno
import os
import random
import re
import resource
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

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
    cut,
    in_a_fork,
    partials,
    pids,
    read_all,
)
from vae.cli.main import main
from vae.data import partial_cache
from vae.data.cache import open_or_pack, verify
from vae.data.folder import FolderConfig, FolderSource
from vae.utils.errors import UserError
from vae.utils.files import with_checksum


@pytest.fixture
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make train.npy a header and 25 chunks of 8 images."""
    monkeypatch.setattr(partial_cache, "CHUNK", 8)


@pytest.mark.parametrize("kinds", [(), tuple(KINDS)])
def test_a_cache_holds_images_and_labels(tmp_path, calls, kinds):
    source = Tiny(calls, kinds=kinds)
    packed = open_or_pack(source, config(tmp_path))

    assert [packed.folder] == caches(tmp_path)
    assert packed.folder.name.startswith("tiny-8px-")
    assert packed.skipped() == []
    assert packed.label_names() == {kind: [f"{kind} a", f"{kind} b"] for kind in kinds}
    for split, images in read_all(source).items():
        assert isinstance(packed.images[split], np.memmap)
        assert not packed.images[split].flags.writeable
        assert packed.images[split].dtype == np.uint8
        assert (packed.images[split] == images).all()
        for kind, dtype in KINDS.items():
            labels = getattr(packed, kind)(split)
            assert (labels is not None) == (kind in kinds)
            if labels is not None:
                assert labels.names == (f"{kind} a", f"{kind} b")
                assert labels.values.dtype == dtype
                assert (labels.values == source.labels(split)[kind].values).all()

    other = open_or_pack(Tiny(calls, size=16), config(tmp_path, 16))
    assert len(caches(tmp_path)) == 2
    assert other.images["val"].shape == (70, 16, 16, 3)


def test_an_existing_cache_is_opened_without_reading(tmp_path, calls):
    open_or_pack(Tiny(calls), config(tmp_path))
    calls.unlink()
    again = open_or_pack(Tiny(calls), config(tmp_path))

    assert not calls.exists()
    assert again.images["train"].shape == (200, 8, 8, 3)


def test_packing_shows_progress(tmp_path, pictures, capfd):
    settings = FolderConfig("folder", str(tmp_path), 16, 2, None, False, None, path=str(pictures))
    packed = open_or_pack(FolderSource(settings), settings)

    for split, images in read_all(FolderSource(settings)).items():
        assert (packed.images[split] == images).all()
    shown = capfd.readouterr()
    assert "packing folder 16 px" in shown.err
    assert "60/60" in shown.err
    assert shown.out == ""


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("num_workers", [1, 2])
def test_skip_leaves_out_unreadable_images(tmp_path, calls, caplog, num_workers):
    source = Tiny(calls, bad=BAD, kinds=KINDS, says="of\ttwo\nlines, \u2028caf\udce9")
    packed = open_or_pack(source, config(tmp_path, num_workers=num_workers, skip=True))

    assert len(pids(calls)) > num_workers - 1
    for split, images in read_all(Tiny(calls)).items():
        kept = [row for row in range(SIZES[split]) if (split, row) not in BAD]
        assert (packed.images[split] == images[kept]).all()
        for kind in KINDS:
            rows = getattr(packed, kind)(split).values.astype(np.uint8)
            assert rows.tolist() == [[row, row] for row in kept]
    reason = "of two lines, caf\\udce9"  # on one line, in UTF-8
    listed = [f"{split}\t{row}\t{split}-{row}.jpg: {reason}" for split, row in BAD]
    assert packed.skipped() == listed
    assert verify(source, config(tmp_path, skip=True)).skipped() == listed

    for _ in range(2):  # at each opening it is said
        caplog.clear()
        open_or_pack(source, config(tmp_path, skip=True))
        assert f"images left out: 5, listed in {packed.folder}" in caplog.text
    says = r"data\.on_corrupt: is `error`, .* left out: 5, .* train-0\.jpg: of two .* fix them"
    with pytest.raises(UserError, match=says):
        open_or_pack(source, config(tmp_path))


def test_skip_without_damage_equals_no_skip(tmp_path, calls, caplog):
    skip = open_or_pack(Tiny(calls), config(tmp_path / "skip", skip=True))
    error = open_or_pack(Tiny(calls), config(tmp_path / "error"))

    assert contents(skip.folder) == contents(error.folder)
    assert "left out" not in caplog.text


def test_a_cache_is_packed_again_once_all_its_images_are_readable(tmp_path, calls, caplog):
    folder = open_or_pack(Tiny(calls, bad=BAD), config(tmp_path, skip=True)).folder
    before = contents(folder)
    for still_bad in BAD:
        with pytest.raises(UserError, match="left out: 5"):
            open_or_pack(Tiny(calls, bad=[still_bad]), config(tmp_path))
        assert contents(folder) == before
    calls.unlink()
    open_or_pack(Tiny(calls), config(tmp_path, skip=True))
    assert not calls.exists()
    assert contents(folder) == before

    packed = open_or_pack(Tiny(calls), config(tmp_path))
    assert "images that were left out can be read now; packing it again" in caplog.text
    assert packed.skipped() == []
    assert (packed.images["train"] == read_all(Tiny(calls))["train"]).all()


def test_a_split_without_an_image_is_refused(tmp_path, calls):
    bad = [("val", row) for row in range(SIZES["val"])]
    with pytest.raises(UserError, match=r"nothing of val: none of its .* val-0\.jpg"):
        open_or_pack(Tiny(calls, bad=bad), config(tmp_path, skip=True))
    assert caches(tmp_path) == []

    packed = open_or_pack(Tiny(tmp_path / "mended"), config(tmp_path))
    assert (packed.images["val"] == read_all(Tiny(calls))["val"]).all()
    assert asked(tmp_path / "mended") == JOBS[4:6]


def flip(file: Path, place: int) -> None:
    """Change one bit of a byte."""
    content = bytearray(file.read_bytes())
    content[place] ^= 0x10
    file.write_bytes(content)


def edit_index(folder: Path, *changes: tuple[str, str]) -> None:
    index = folder / "index.json"
    for old, new in changes:
        assert old in index.read_text()
        index.write_text(index.read_text().replace(old, new))


RENAMED = ("attributes a", "attributes c")
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "images cut": (lambda cache: os.truncate(cache / "train.npy", 1000), "train.npy is damaged"),
    "a byte's bit": (lambda cache: flip(cache / "train.npy", 5000), "train.npy is damaged"),
    "the header": (lambda cache: flip(cache / "val.npy", 20), "val.npy is damaged"),
    "the last byte": (lambda cache: flip(cache / "test.npy", -1), "test.npy is damaged"),
    "a label": (lambda cache: flip(cache / "val.attributes.npy", -1), "attributes.npy is damaged"),
    "no labels": (lambda cache: (cache / "val.attributes.npy").unlink(), "npy is missing"),
    "index cut": (lambda cache: os.truncate(cache / "index.json", 20), "index.json is damaged"),
    "no index": (lambda cache: (cache / "index.json").unlink(), "index.json is missing"),
    "another name": (lambda cache: edit_index(cache, RENAMED), "index.json is damaged"),
    "no checksum": (
        lambda cache: edit_index(cache, RENAMED, ('crc32": ', 'src32": ')),
        "index.json is damaged",
    ),
    "brackets": (
        lambda cache: (cache / "index.json").write_text("[" * 100_000),
        "index.json is damaged",
    ),
    "an older format": (
        lambda cache: (cache / "index.json").write_text(with_checksum({"format": 2})),
        "has format 2, not 3",
    ),
}


@pytest.mark.parametrize(("damage", "says"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_cache_is_reported_and_packed_again(tmp_path, calls, caplog, damage, says):
    packed = open_or_pack(Tiny(calls), config(tmp_path))
    whole = contents(packed.folder)
    damage(packed.folder)
    with pytest.raises(UserError, match=says):
        verify(Tiny(calls), config(tmp_path))
    caplog.clear()
    open_or_pack(Tiny(calls), config(tmp_path))

    (warning,) = (record.message for record in caplog.records if record.levelname == "WARNING")
    assert says in warning
    assert warning.endswith("; packing it again")
    assert contents(packed.folder) == whole


@pytest.mark.usefixtures("short_chunks")
def test_verify_reads_every_byte(tmp_path, calls):
    file = open_or_pack(Tiny(calls), config(tmp_path)).folder / "train.npy"
    verify(Tiny(calls), config(tmp_path))
    last = file.stat().st_size - 1
    borders = [0, 127, 128, 128 + 8 * 192 - 1, 128 + 8 * 192, last]
    for place in borders + random.Random(0).sample(range(last), 20):
        flip(file, place)
        start = 0 if place < 128 else 128 + (place - 128) // (8 * 192) * (8 * 192)
        says = rf"train\.npy is damaged in 1 of 26 .* \(the first at byte {start:,}\)"
        with pytest.raises(UserError, match=says):
            verify(Tiny(calls), config(tmp_path))
        flip(file, place)

    flip(file, 500)
    flip(file, last)
    with pytest.raises(UserError, match=r"train\.npy is damaged in 2 of 26"):
        verify(Tiny(calls), config(tmp_path))


@pytest.mark.usefixtures("short_chunks")
def test_a_start_reads_both_ends_and_the_middle(tmp_path, calls, monkeypatch, caplog):
    folder = open_or_pack(Tiny(calls), config(tmp_path)).folder
    files = len(contents(folder))
    read, crc32 = [], zlib.crc32
    with monkeypatch.context() as patch:
        patch.setattr(zlib, "crc32", lambda content: read.append(content) or crc32(content))
        open_or_pack(Tiny(calls), config(tmp_path))
    assert files <= len(read) <= 4 * files

    for place in (0, 128, 128 + 90 * 192, 128 + 199 * 192):
        flip(folder / "train.npy", place)
        caplog.clear()
        open_or_pack(Tiny(calls), config(tmp_path))
        assert "train.npy is damaged in 1 of 4" in caplog.text


@pytest.mark.parametrize("read", [open_or_pack, verify])
def test_a_read_error_is_no_damage(tmp_path, calls, monkeypatch, read):
    """A disk that is away for a moment: the cache is not packed again."""
    folder = open_or_pack(Tiny(calls), config(tmp_path)).folder
    before = contents(folder)

    def stale(file: Path, *_: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle", str(file))

    monkeypatch.setattr("vae.data.cache._damage", stale)
    with pytest.raises(UserError, match=rf"{folder}/.*npy: cannot be read: Stale file handle"):
        read(Tiny(calls), config(tmp_path))
    assert contents(folder) == before


def test_verify_by_the_command(tmp_path, pictures, capsys):
    arguments = ["pack", "folder", f"data.root={tmp_path}", f"data.path={pictures}"]
    arguments += ["data.image_size=256", "data.batch_size=2", "--verify"]
    assert main(arguments) == 1
    assert "nothing is packed yet" in capsys.readouterr().err
    assert main(arguments[:-1]) == 0
    assert main(arguments) == 0
    assert "every byte as it was written" in capsys.readouterr().out

    (folder,) = caches(tmp_path)
    flip(folder / "train.npy", (1 << 20) + 77)
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert f"{folder}: train.npy is damaged in 1 of" in said.err
    assert "every byte" not in said.out


def set_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))


def test_disk_space_is_asked_for_before_reading(tmp_path, calls, monkeypatch):
    set_free(monkeypatch, 300 * 192 - 1)
    with pytest.raises(UserError, match=r"data\.root: .* the disk is too small: 0\.00 GB are free"):
        open_or_pack(Tiny(calls), config(tmp_path))
    assert not calls.exists()
    set_free(monkeypatch, 300 * 192)
    folder = open_or_pack(Tiny(calls), config(tmp_path)).folder

    (folder / "index.json").unlink()  # a damaged cache counts as free space
    set_free(monkeypatch, 100)
    open_or_pack(Tiny(calls), config(tmp_path))


def test_resuming_needs_space_only_for_the_rest(tmp_path, calls, monkeypatch):
    cut(tmp_path, size=64)
    set_free(monkeypatch, 50 * 3 * 64**2)  # val and test: 100 images
    with pytest.raises(UserError, match=r"data\.root: .* GB are free"):
        open_or_pack(Tiny(calls, 64), config(tmp_path, 64))
    assert not calls.exists()
    set_free(monkeypatch, 105 * 3 * 64**2)
    open_or_pack(Tiny(calls, 64), config(tmp_path, 64))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_of_a_full_disk_frees_it(tmp_path, calls, num_workers):
    with pytest.raises(UserError, match=r"data\.root: .*the disk is full, so packing stopped"):
        open_or_pack(Tiny(calls, fails="disk"), config(tmp_path, num_workers=num_workers))
    assert caches(tmp_path) == partials(tmp_path) == []


IMAGES = sum(SIZES.values()) * 3 * 64**2


@pytest.mark.parametrize("size", [None, 2 << 20, IMAGES + 6 * 4096])
def test_a_disk_can_become_full_at_any_write(small_disk, tmp_path, calls, monkeypatch, size):
    """`size` of the disk: too small for images, or for labels; None: a limit of file sizes."""
    root = small_disk(size) if size else tmp_path / "root"
    set_free(monkeypatch, 1 << 40)  # it is others who fill it

    def pack() -> None:
        if not size:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
        try:
            open_or_pack(Tiny(calls, 64), config(root, 64))
        except UserError as error:
            (tmp_path / "said").write_text(str(error))

    _, status = os.waitpid(in_a_fork(pack), 0)
    assert os.waitstatus_to_exitcode(status) == 0, "killed"
    said = (tmp_path / "said").read_text()
    what = "the disk is full" if size else "files may not become that large there"
    assert f"data.root: {root}: {what}, so packing stopped and removed its files: " in said
    assert re.search(r"\d\.\d\d GB are free, and the packed images need 0\.00 GB", said)
    assert caches(root) == partials(root) == []


def test_a_root_that_is_a_file_is_refused(tmp_path, calls):
    (tmp_path / "root").write_text("")
    with pytest.raises(UserError, match=r"data\.root: .*root: the cache cannot be written there"):
        open_or_pack(Tiny(calls), config(tmp_path / "root"))
