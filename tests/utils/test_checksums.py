"""Checksums by block: a full check finds any byte, a quick check the ends."""

from __future__ import annotations

import logging
import os
import random
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.tiny_source import Tiny, config, contents
from vae.cli.main import main
from vae.data.cache import Packed, open_or_pack, verify
from vae.data.folder import FolderConfig, FolderSource
from vae.utils.errors import UserError
from vae.utils.files import BLOCK, checksums, damaged_blocks, with_checksum

SIZES = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK + 7]


def written(file: Path, size: int) -> bytes:
    content = random.Random(size).randbytes(size)
    file.write_bytes(content)
    return content


def flip(file: Path, place: int) -> None:
    """Change one bit of a byte."""
    with open(file, "rb+") as opened:
        opened.seek(place)
        byte = opened.read(1)[0]
        opened.seek(place)
        opened.write(bytes([byte ^ 0x10]))


@pytest.mark.parametrize("size", SIZES)
def test_checksums_equal_zlibs(tmp_path, size):
    content = written(tmp_path / "file", size)

    pieces = [content[start : start + (1 << 20)] for start in range(0, size, 1 << 20)]
    assert b"".join(pieces) == content
    assert checksums(tmp_path / "file") == [zlib.crc32(piece) for piece in pieces]


@pytest.mark.parametrize("size", SIZES)
def test_an_unchanged_file_is_not_damaged(tmp_path, size):
    file = tmp_path / "file"
    written(file, size)
    assert damaged_blocks(file, checksums(file), all_of_it=True) == []
    assert damaged_blocks(file, checksums(file), all_of_it=False) == []


@pytest.mark.parametrize("size", [size for size in SIZES if size])
def test_a_full_check_finds_any_byte(tmp_path, size):
    file = tmp_path / "file"
    written(file, size)
    before = checksums(file)
    borders = {0, size - 1, *(n for n in (BLOCK - 1, BLOCK, 2 * BLOCK) if n < size)}
    for place in borders | set(random.Random(0).sample(range(size), min(size, 20))):
        flip(file, place)
        assert damaged_blocks(file, before, all_of_it=True) == [place // BLOCK]
        flip(file, place)


def test_a_full_check_finds_all_damaged_blocks(tmp_path):
    file = tmp_path / "file"
    written(file, 9 * BLOCK + 5)
    before = checksums(file)
    for place in (BLOCK + 3, 4 * BLOCK, 9 * BLOCK + 4):
        flip(file, place)

    assert damaged_blocks(file, before, all_of_it=True) == [1, 4, 9]


@pytest.mark.parametrize("blocks", [1, 2, 3, 8, 40])
def test_a_quick_check_finds_damage_at_both_ends(tmp_path, blocks, monkeypatch):
    file = tmp_path / "file"
    size = (blocks - 1) * BLOCK + 1000  # the last block is a short one
    written(file, size)
    before = checksums(file)
    for place, block in ((0, 0), (127, 0), (size - 1, blocks - 1), (size - 1000, blocks - 1)):
        flip(file, place)
        assert damaged_blocks(file, before) == [block]
        flip(file, place)

    read: list[int] = []
    crc = zlib.crc32
    monkeypatch.setattr(zlib, "crc32", lambda content: read.append(1) or crc(content))
    assert damaged_blocks(file, before) == []
    assert min(blocks, 4) <= len(read) <= 7


def test_a_quick_check_finds_large_damage(tmp_path):
    file = tmp_path / "file"
    written(file, 40 * BLOCK)
    before = checksums(file)
    with open(file, "rb+") as opened:  # the second quarter and the third are lost
        opened.seek(10 * BLOCK)
        opened.write(bytes(20 * BLOCK))

    assert damaged_blocks(file, before)


def test_a_file_cut_short_is_damaged_to_its_end(tmp_path):
    file = tmp_path / "file"
    written(file, 3 * BLOCK)
    before = checksums(file)
    os.truncate(file, BLOCK + 1)

    assert damaged_blocks(file, before, all_of_it=True) == [1, 2]
    assert damaged_blocks(file, before)


def change(name: str, place: int) -> Callable[[Path], None]:
    """Damage of a cache: one bit of a file."""
    return lambda folder: flip(folder / name, place % (folder / name).stat().st_size)


def edit_index(folder: Path, old: str, new: str) -> Path:
    index = folder / "index.json"
    assert old in index.read_text()
    index.write_text(index.read_text().replace(old, new))
    return folder


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "images cut": (lambda folder: os.truncate(folder / "train.npy", 1000), "train.npy is damaged"),
    "a byte's bit": (change("train.npy", 5000), "train.npy is damaged"),
    "the header": (change("val.npy", 20), "val.npy is damaged"),
    "the last byte": (change("test.npy", -1), "test.npy is damaged"),
    "a label": (change("val.attributes.npy", -1), "val.attributes.npy is damaged"),
    "no labels": (lambda folder: (folder / "val.attributes.npy").unlink(), "npy is missing"),
    "index cut": (lambda folder: os.truncate(folder / "index.json", 20), "index.json is damaged"),
    "no index": (lambda folder: (folder / "index.json").unlink(), "index.json is missing"),
    "another name in the index": (
        lambda folder: edit_index(folder, "attributes a", "attributes c"),
        "index.json is damaged",
    ),
    "a name with the seal": (
        lambda folder: edit_index(
            edit_index(folder, "attributes a", "attributes c"), 'crc32": ', 'src32": '
        ),
        "index.json is damaged",
    ),
    "format": (
        lambda folder: (folder / "index.json").write_text(with_checksum({"format": 0})),
        "format 0",
    ),
}


@pytest.mark.parametrize(("damage", "says"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_cache_is_reported_and_packed_again(tmp_path, caplog, damage, says):
    source = Tiny(tmp_path / "calls")
    packed = open_or_pack(source, config(tmp_path))
    whole = contents(packed.folder)
    damage(packed.folder)
    with pytest.raises(UserError, match=says):
        verify(source, config(tmp_path))
    with caplog.at_level(logging.WARNING):
        open_or_pack(source, config(tmp_path))

    assert [record.message for record in caplog.records if says in record.message]
    assert contents(packed.folder) == whole


@pytest.fixture
def large(tmp_path: Path, pictures: Path) -> tuple[list[str], Packed]:
    """A cache with a file of more MiB than a glance reads, and its settings for `vae`."""
    settings = FolderConfig("folder", str(tmp_path), 256, 2, None, False, 1, path=str(pictures))
    keys = [f"data.root={tmp_path}", f"data.path={pictures}", "data.image_size=256"]
    packed = open_or_pack(FolderSource(settings), settings)
    assert (packed.folder / "train.npy").stat().st_size > 8 << 20
    return ["pack", "folder", *keys, "data.batch_size=2", "--verify"], packed


def test_verify_finds_a_byte_in_the_middle_of_a_large_file(large, capsys):
    arguments, packed = large
    assert main(arguments) == 0
    assert "every byte as it was written" in capsys.readouterr().out

    change("train.npy", (1 << 20) + 77)(packed.folder)
    assert main(arguments[:-1]) == 0  # more than a glance finds
    assert "every byte" not in capsys.readouterr().out
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert "train.npy is damaged in 1 of" in said.err
    assert "the first at byte 1,048,576" in said.err
    assert str(packed.folder) in said.err
    assert "every byte" not in said.out

    shutil.rmtree(packed.folder)  # as the message tells
    assert main(arguments) == 1
    assert "nothing is packed yet" in capsys.readouterr().err
    assert not packed.folder.exists()
