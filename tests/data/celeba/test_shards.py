"""Damaged parquet shards: errors name the file and the remedy."""

from __future__ import annotations

import re
import shutil
import sys

import pyarrow.parquet as pq
import pytest

from tests.support.celeba_shards import GROUP, edit_shard, pack, refusal, set_column

TRAIN_0, TRAIN_1 = (f"train-0000{number}-of-00002.parquet" for number in (0, 1))
VALID, TEST = (f"{split}-00000-of-00001.parquet" for split in ("valid", "test"))
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 422\n"


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def cut(folder):
    (folder / TRAIN_1).write_bytes((folder / TRAIN_1).read_bytes()[:-1000])


def edit(name, change):
    return lambda folder: edit_shard(folder / name, change)


def rename_all(folder):
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(folder / f"part-{number}.parquet")


def copy(old, new):
    return lambda folder: shutil.copy(folder / old, folder / new)


def spoil_labels(folder):
    """Overwrite the columns, but the images, with zeros."""
    group = pq.read_metadata(folder / VALID).row_group(0)
    content = bytearray((folder / VALID).read_bytes())
    for number in range(2, group.num_columns):  # after image.bytes, image.path
        column = group.column(number)
        start = column.dictionary_page_offset or column.data_page_offset
        content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    (folder / VALID).write_bytes(content)


def spoil_image(cell):
    def spoil(cells):
        cells[11] = {"bytes": cell(cells[11]["bytes"]), "path": None}
        return cells

    return edit(TRAIN_1, set_column("image", spoil))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / TRAIN_0).unlink(), "has 1 of the 2 .* of train; missing: 00000-of-00002"),
        (lambda f: (f / VALID).unlink(), r"no parquet files of val\..* valid-\*"),
        (
            copy(TEST, "train-00000-of-00001.parquet"),
            "one parquet file of train twice, or of another set .train-00000-of-00001",
        ),
        (  # as a browser saves a second download
            copy(TRAIN_1, "train-00001-of-00002 (1).parquet"),
            r"one parquet file of train twice.*train-00001-of-00002 \(1\)",
        ),
        (rename_all, r"4 files: 4 \.parquet.* named train-\*"),
        (cut, f"{TRAIN_1}: .*truncated.*Get {TRAIN_1} again"),
        (write(VALID, b""), f"{VALID}: .*empty.*Get {VALID} again"),
        (write(VALID, POINTER), f"{VALID}: .*Git LFS.*`git lfs pull`"),
        (write(VALID, b"<!DOCTYPE html><p>"), f"{VALID}: .*HTML page.*Remove it"),
        (
            edit(TRAIN_1, lambda table: table.drop_columns(["image"])),
            f"{TRAIN_1}: has no column `image`.*flwrlabs",
        ),
        (
            edit(VALID, set_column("image", lambda _: ["a.jpg"] * 3)),
            f"{VALID}: has no column `image`",
        ),
        (edit(TRAIN_1, lambda table: table.drop_columns(["Male"])), f"{TRAIN_1}: .*Male"),
        (edit(VALID, set_column("Male", lambda _: [1, None, 0])), f"{VALID}: .*Male is empty"),
        (edit(VALID, set_column("Male", lambda _: ["yes"] * 3)), f"{VALID}: is damaged.*yes"),
        (edit(TEST, lambda table: table.slice(0, 0)), f"{TEST}: holds no images of test"),
        (spoil_labels, f"{VALID}: is damaged"),
        (
            spoil_image(lambda jpeg: jpeg[:2000]),
            f"{TRAIN_1}: row 11: .*truncated.*data.on_corrupt=skip",
        ),
        (spoil_image(lambda _: None), f"{TRAIN_1}: row 11 holds no image.*data.on_corrupt=skip"),
    ],
)
def test_damaged_shards(damage, says, shards):
    damage(shards)

    text = refusal(shards)
    assert str(shards) in text
    assert re.search(says, text), text


def test_bytes_changed_within_a_shard(shards):
    with (shards / TRAIN_1).open("r+b") as file:
        file.seek(100)
        file.write(bytes(19_900))

    text = refusal(shards)
    assert str(shards / TRAIN_1) in text
    assert "data.on_corrupt=skip" in text
    assert len(pack(shards, on_corrupt="skip").images["train"]) >= 24 - GROUP


def test_missing_pyarrow_is_reported(shards, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    assert "pip install pyarrow" in refusal(shards)
