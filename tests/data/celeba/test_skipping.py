"""`data.on_corrupt=skip`: other images are packed with their labels."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest

from tests.support.celeba_shards import (
    ENDS,
    IMAGES,
    PARTITION,
    SIZES,
    SPLITS,
    ZIP,
    edit_lines,
    edit_shard,
    known,
    names,
    pack,
    rewrite_zip,
    rows,
    set_column,
    vae_pack,
)

GONE = {"train": (0, 7, 8, 23), "val": (1,), "test": (2,)}  # numbers within their splits
BAD = [ENDS[split] - SIZES[split] + number for split in SPLITS for number in GONE[split]]


def truncate_files(folder):
    for number in BAD:
        os.truncate(folder / IMAGES / f"{number + 1:06d}.jpg", 2000)


def remove_members(folder):
    bad = {f"{IMAGES}/{number + 1:06d}.jpg" for number in BAD}
    rewrite_zip(folder / ZIP, lambda name, jpeg: None if name in bad else jpeg)


def truncate_rows(folder):
    for split, numbers in GONE.items():

        def truncate(cells, numbers=numbers):
            for number in numbers:
                cells[number]["bytes"] = cells[number]["bytes"][:2000] if number else None
            return cells

        (file,) = folder.rglob(f"{split}*.parquet")
        edit_shard(file, set_column("image", truncate))


@pytest.mark.parametrize(
    ("layout", "damage"),
    [("official", truncate_files), ("zip", remove_members), ("parquet", truncate_rows)],
)
def test_remaining_images_keep_their_labels(layout, damage, celeba_in, pixels, capsys, caplog):
    folder = celeba_in(layout)
    damage(folder)
    packed = pack(folder, on_corrupt="skip")

    for split in SPLITS:
        kept = np.setdiff1d(np.arange(SIZES[split]), GONE[split])
        assert (packed.images[split] == pixels[rows(split)][kept]).all()
        for kind, values in known().items():
            if not (layout == "parquet" and kind == "landmarks"):
                label = getattr(packed, kind)(split)
                np.testing.assert_array_equal(label.values, values[rows(split)][kept])
    listed = [line.split("\t") for line in packed.skipped()]
    assert [(split, int(number)) for split, number, _ in listed] == [
        (split, number) for split in SPLITS for number in GONE[split]
    ]
    for split, number, reason in listed:
        assert (f"row {number}" if layout == "parquet" else names(split)[int(number)]) in reason

    code, found, err = vae_pack(capsys, folder, "data.on_corrupt=skip")
    assert (code, found["skipped"], found["cache"]) == (0, len(BAD), str(packed.folder))
    assert found["images"] == {split: SIZES[split] - len(GONE[split]) for split in SPLITS}
    assert "Traceback" not in err
    assert ("lacks 6 of the 30 " in caplog.text) == (layout == "zip")
    assert re.search(rf"\b6\b.*{packed.folder / 'skipped.txt'}", caplog.text)


def test_images_without_a_split_are_skipped_with_a_warning(celeba, caplog):
    edit_lines(celeba / PARTITION, lambda lines: lines[:5] + lines[7:])
    packed = pack(celeba, on_corrupt="skip")
    assert "2 of the 30 images" in caplog.text
    assert "000006.jpg, 000007.jpg" in caplog.text

    kept = np.setdiff1d(np.arange(24), (5, 6))
    assert (packed.attributes("train").values == known()["attributes"][kept]).all()
    assert (packed.landmarks("train").values == known()["landmarks"][kept]).all()
