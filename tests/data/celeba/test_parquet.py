"""CelebA as parquet shards, in other shapes than the stand-in's."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.support.celeba_shards import (
    SHARDS,
    SIZES,
    SPLITS,
    all_pixels,
    by_pil,
    known,
    pack,
    rows,
    source,
    write_shard,
)
from tests.support.celeba_stand_in import ATTRIBUTES


def test_reads_cross_row_groups_and_shards(shards, jpegs):
    faces = source(shards)
    expected = np.stack([by_pil(jpeg) for jpeg in jpegs]).astype(int)

    assert faces.sizes() == SIZES
    spans = [(start, stop) for start in range(24) for stop in range(start + 1, 25)]
    np.random.default_rng(0).shuffle(spans)
    ordered = [("val", 0, 3), *(("train", n, n + 1) for n in reversed(range(24))), ("test", 1, 2)]
    for split, start, stop in [*ordered, *(("train", *span) for span in spans[:40])]:
        found = faces.read(split, start, stop)
        assert np.abs(found - expected[rows(split)][start:stop]).max() <= 1


@pytest.mark.parametrize(
    "value_of",
    [
        lambda values: values.astype(np.int64),
        lambda values: values * 2 - 1,
        lambda values: values.astype(np.float32),
    ],
    ids=["0/1", "±1", "float"],
)
def test_attributes_as_numbers(value_of, tmp_path, jpegs):
    for name, numbers in SHARDS.items():
        write_shard(tmp_path / "shards" / f"{name}.parquet", numbers, jpegs, value_of)
    packed = pack(tmp_path / "shards")

    for split in SPLITS:
        labels = packed.attributes(split)
        assert labels.names == ATTRIBUTES
        assert labels.values.dtype == np.int8
        assert (labels.values == known()["attributes"][rows(split)]).all()
        assert (packed.identities(split).values == known()["identities"][rows(split)]).all()


def test_column_order_and_plain_bytes_are_accepted(shards):
    expected = all_pixels(source(shards))
    for file in shards.iterdir():
        table = pq.read_table(file)
        table = table.set_column(0, "image", table["image"].combine_chunks().field("bytes"))
        pq.write_table(table.select(table.column_names[::-1]), file)
    faces = source(shards)

    assert (all_pixels(faces) == expected).all()
    assert faces.labels("val")["attributes"].names == ATTRIBUTES
    assert (faces.labels("val")["attributes"].values == known()["attributes"][rows("val")]).all()


def test_shards_without_labels_are_read(shards):
    for file in shards.iterdir():
        pq.write_table(pq.read_table(file, columns=["image"]), file)

    assert source(shards).labels("train") == {}
    assert pack(shards).label_names() == {}


def test_small_reads_give_the_same_rows(shards, monkeypatch):
    monkeypatch.setattr("vae.data.celeba.parquet.ROWS_AT_ONCE", 2)
    expected = all_pixels(source(shards))

    assert (all_pixels(source(shards)) == expected).all()
