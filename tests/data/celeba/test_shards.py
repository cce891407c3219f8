"""Damaged parquet shards: errors name the file and the remedy."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.celeba_shards import SHARDS, pack, refusal, write_shard


def rewrite(file: Path, change) -> None:
    """Write a shard again: `change(table)`."""
    pq.write_table(change(pq.read_table(file)), file)


def drop(name):
    return lambda folder: (folder / f"{name}.parquet").unlink()


def write(name, content):
    return lambda folder: (folder / f"{name}.parquet").write_bytes(content)


def cut(name):
    def cut_it(folder):
        file = folder / f"{name}.parquet"
        file.write_bytes(file.read_bytes()[: file.stat().st_size * 6 // 10])

    return cut_it


def change(name, how):
    return lambda folder: rewrite(folder / f"{name}.parquet", how)


def only_other_names(folder):
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(folder / f"part-{number}.parquet")


TRAIN_0, TRAIN_1, VALID, TEST = SHARDS
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 422\n"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (drop(TRAIN_1), rf"1 of the 2 .*{TRAIN_0}.*missing: 00001-of-00002.*Fetch"),
        (drop(TRAIN_0), rf"1 of the 2 .*{TRAIN_1}.*missing: 00000-of-00002.*Fetch"),
        (drop(VALID), r"no parquet files of val .*valid-\*"),
        (only_other_names, r"no parquet files of train and val and test .*part-0.*train-\*"),
        (cut(TRAIN_1), rf"{TRAIN_1}\.parquet: .*truncated.*Get {TRAIN_1}\.parquet again"),
        (cut(TEST), rf"{TEST}\.parquet: .*truncated.*Get {TEST}\.parquet again"),
        (write(VALID, b""), rf"{VALID}\.parquet: .*empty.*Get {VALID}\.parquet again"),
        (write(VALID, POINTER), rf"{VALID}\.parquet: .*Git LFS.*`git lfs pull`"),
        (write(VALID, b"<!DOCTYPE html><p>"), rf"{VALID}\.parquet: .*HTML page.*Remove it"),
        (write(VALID, b"PK\3\4" * 99), rf"{VALID}\.parquet: .*Get {VALID}\.parquet again"),
        (
            change(TRAIN_0, lambda table: table.rename_columns(["img", *table.column_names[1:]])),
            rf"{TRAIN_0}\.parquet: has no column `image`.*(Get|flwrlabs)",
        ),
        (
            change(TRAIN_1, lambda table: table.drop_columns(["image"])),
            rf"{TRAIN_1}\.parquet: has no column `image`",
        ),
        (
            change(TRAIN_1, lambda table: table.drop_columns(["Male"])),
            rf"{TRAIN_1}\.parquet: .*Male",
        ),
        (change(TEST, lambda table: table.slice(0, 0)), rf"{TEST}|no images.* test"),
    ],
)
def test_damaged_shards(damage, says, shards):
    damage(shards)

    text = refusal(shards)
    assert str(shards) in text
    assert re.search(says, text, re.DOTALL), text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda jpeg: jpeg[: len(jpeg) // 2], "truncated"),
        (lambda jpeg: b"no picture", "text"),
        (lambda jpeg: b"", "empty"),
        (lambda jpeg: None, "no image"),
    ],
)
def test_a_damaged_image_is_named_by_file_and_row(content, says, shards, jpegs):
    jpegs[20] = content(jpegs[20])
    file = write_shard(shards / f"{TRAIN_1}.parquet", SHARDS[TRAIN_1], jpegs)

    text = refusal(shards)
    assert f"{file}: row 11" in text
    assert says in text
    assert "data.on_corrupt=skip" in text


def test_bytes_changed_within_a_shard(shards):
    file = shards / f"{TRAIN_1}.parquet"
    content = bytearray(file.read_bytes())
    content[100:20_000] = bytes(19_900)
    file.write_bytes(content)

    text = refusal(shards)
    assert str(file) in text
    assert "data.on_corrupt=skip" in text
    packed = pack(shards, on_corrupt="skip")
    left = [number for number in range(24) if number < 9 or number >= 16]  # but for a row group
    assert len(packed.images["train"]) >= len(left)


def test_damaged_labels(shards):
    file = shards / f"{VALID}.parquet"
    group = pq.read_metadata(file).row_group(0)
    content = bytearray(file.read_bytes())
    for number in range(2, group.num_columns):  # after image.bytes, image.path
        column = group.column(number)
        start = column.dictionary_page_offset or column.data_page_offset
        content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    file.write_bytes(content)

    assert f"{file}: " in refusal(shards)


def test_a_damaged_name_of_a_column(shards):
    file = shards / f"{TRAIN_0}.parquet"
    file.write_bytes(file.read_bytes().replace(b"Male", b"M\xdd\xdde"))

    assert f"{file}: " in refusal(shards)


def test_unknown_attributes_are_refused(shards):
    """Null is neither yes nor no."""
    nulls = pa.nulls(3, pa.bool_())
    change(VALID, lambda table: table.set_column(table.column_names.index("Male"), "Male", nulls))(
        shards
    )

    assert "Male" in refusal(shards)


def test_missing_pyarrow_is_reported(shards, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    assert "pip install pyarrow" in refusal(shards)


def test_shards_of_two_layouts_at_once_are_not_mixed(shards, celeba_made):
    """The stand-in's own single shards beside two of two: their names contradict."""
    for file in celeba_made("parquet").rglob("train*.parquet"):
        shutil.copy(file, shards)

    assert "train" in refusal(shards)


def test_duplicate_shards_are_refused(shards):
    """A browser saves a second download under another name."""
    shutil.copy(shards / f"{TRAIN_1}.parquet", shards / f"{TRAIN_1} (1).parquet")

    assert re.search(rf"twice.*{TRAIN_1} \(1\).*Remove the copy", refusal(shards))


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("image", pa.array(["a.jpg"] * 3)),
        ("image", pa.array([{"path": "a.jpg"}] * 3)),
        ("Male", pa.array(["yes"] * 3)),
        ("celeb_id", pa.array(["me"] * 3)),
    ],
)
def test_columns_of_another_type(column, values, shards):
    rewrite(
        shards / f"{VALID}.parquet",
        lambda table: table.set_column(table.column_names.index(column), column, values),
    )

    assert re.search(rf"{VALID}\.parquet: column `{column}` holds", refusal(shards))
