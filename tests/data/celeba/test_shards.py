"""Damaged parquet shards: errors name the file and the remedy."""

from __future__ import annotations

import re
import shutil
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.celeba_shards import SHARDS, pack, refusal, write_shard

TRAIN_0, TRAIN_1, VALID, TEST = (f"{name}.parquet" for name in SHARDS)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 422\n"


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def cut(name):
    return lambda folder: write(name, (folder / name).read_bytes()[:-1000])(folder)


def change(name, how):
    return lambda folder: pq.write_table(how(pq.read_table(folder / name)), folder / name)


def replace(name, column, values):
    return change(
        name, lambda table: table.set_column(table.column_names.index(column), column, values)
    )


def only_other_names(folder):
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(folder / f"part-{number}.parquet")


def another_set(folder):
    shutil.copy(folder / TEST, folder / "train-00000-of-00001.parquet")


def copy(folder):
    """As a browser saves a second download."""
    shutil.copy(folder / TRAIN_1, folder / "train-00001-of-00002 (1).parquet")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / TRAIN_1).unlink(), "has 1 of the 2 .* of train; missing: 00001-of-00002"),
        (lambda f: (f / TRAIN_0).unlink(), "has 1 of the 2 .* of train; missing: 00000-of-00002"),
        (lambda f: (f / VALID).unlink(), r"no parquet files of val\..* valid-\*"),
        (another_set, "one parquet file of train twice, or of another set .train-00000-of-00001"),
        (copy, r"one parquet file of train twice.*train-00001-of-00002 \(1\)"),
        (only_other_names, r"4 files: 4 \.parquet.* named train-\*"),
        (cut(TRAIN_1), f"{TRAIN_1}: .*truncated.*Get {TRAIN_1} again"),
        (write(VALID, b""), f"{VALID}: .*empty.*Get {VALID} again"),
        (write(VALID, POINTER), f"{VALID}: .*Git LFS.*`git lfs pull`"),
        (write(VALID, b"<!DOCTYPE html><p>"), f"{VALID}: .*HTML page.*Remove it"),
        (write(VALID, b"PK\3\4" * 99), f"{VALID}: .*Get {VALID} again"),
        (
            change(TRAIN_1, lambda table: table.drop_columns(["image"])),
            f"{TRAIN_1}: has no column `image`.*flwrlabs",
        ),
        (replace(VALID, "image", pa.array(["a.jpg"] * 3)), f"{VALID}: has no column `image`"),
        (replace(VALID, "image", pa.array([{"path": "a"}] * 3)), f"{VALID}: has no column `image`"),
        (change(TRAIN_1, lambda table: table.drop_columns(["Male"])), f"{TRAIN_1}: .*Male"),
        (replace(VALID, "Male", pa.nulls(3, pa.int8())), f"{VALID}: .*Male is empty"),
        (replace(VALID, "Male", pa.array(["yes"] * 3)), f"{VALID}: is damaged.*yes"),
        (change(TEST, lambda table: table.slice(0, 0)), f"{TEST}: holds no images of test"),
    ],
)
def test_damaged_shards(damage, says, shards):
    damage(shards)

    text = refusal(shards)
    assert str(shards) in text
    assert re.search(says, text), text


@pytest.mark.parametrize(
    ("content", "says"), [(lambda jpeg: jpeg[:2000], "truncated"), (lambda _: None, "no image")]
)
def test_a_damaged_image_is_named_by_file_and_row(content, says, shards, jpegs):
    jpegs[20] = content(jpegs[20])
    file = write_shard(shards / TRAIN_1, SHARDS["train-00001-of-00002"], jpegs)

    text = refusal(shards)
    assert f"{file}: row 11" in text
    assert says in text
    assert "data.on_corrupt=skip" in text


def test_bytes_changed_within_a_shard(shards):
    file = shards / TRAIN_1
    content = bytearray(file.read_bytes())
    content[100:20_000] = bytes(19_900)
    file.write_bytes(content)

    text = refusal(shards)
    assert str(file) in text
    assert "data.on_corrupt=skip" in text
    assert len(pack(shards, on_corrupt="skip").images["train"]) >= 24 - 7  # all but a row group


def test_damaged_labels(shards):
    file = shards / VALID
    group = pq.read_metadata(file).row_group(0)
    content = bytearray(file.read_bytes())
    for number in range(2, group.num_columns):  # after image.bytes, image.path
        column = group.column(number)
        start = column.dictionary_page_offset or column.data_page_offset
        content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    file.write_bytes(content)

    assert f"{file}: " in refusal(shards)


def test_missing_pyarrow_is_reported(shards, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    assert "pip install pyarrow" in refusal(shards)
