"""`data.on_corrupt=skip`: other images are packed with their labels."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest

from tests.support.celeba_shards import (
    IMAGES,
    PARTITION,
    ROWS,
    ZIP,
    edit_lines,
    edit_shard,
    pack,
    require_packed,
    rewrite_zip,
    set_column,
    vae_pack,
)

GONE = [("train", 0), ("train", 7), ("train", 8), ("train", 23), ("val", 1), ("test", 2)]
BAD = [ROWS[split].start + number for split, number in GONE]  # among all images
NAMES = [f"{number + 1:06d}.jpg" for number in BAD]


def truncate_files(folder):
    for name in NAMES:
        os.truncate(folder / IMAGES / name, 2000)


def remove_members(folder):
    bad = [f"{IMAGES}/{name}" for name in NAMES]
    rewrite_zip(folder / ZIP, lambda name, jpeg: None if name in bad else jpeg)


def truncate_rows(folder):
    def truncate(cells):
        for cell in cells:
            if cell["path"] in NAMES:
                cell["bytes"] = None if cell["path"] == NAMES[0] else cell["bytes"][:2000]
        return cells

    for file in folder.rglob("*.parquet"):
        edit_shard(file, set_column("image", truncate))


@pytest.mark.parametrize(
    ("layout", "damage"),
    [("official", truncate_files), ("zip", remove_members), ("parquet", truncate_rows)],
)
def test_remaining_images_keep_their_labels(layout, damage, celeba_in, pixels, capsys, caplog):
    folder = celeba_in(layout)
    damage(folder)
    packed = pack(folder, on_corrupt="skip")

    kept = {split: np.setdiff1d(np.arange(30)[rows], BAD) for split, rows in ROWS.items()}
    require_packed(packed, pixels, kept)
    listed = [line.split("\t") for line in packed.skipped()]
    assert [(split, int(number)) for split, number, _ in listed] == GONE
    for name, (_, number, reason) in zip(NAMES, listed, strict=True):
        assert (f"row {int(number) % 12}" if layout == "parquet" else name) in reason

    code, found, err = vae_pack(capsys, folder, "data.on_corrupt=skip")
    assert (code, found["skipped"], found["cache"]) == (0, len(BAD), str(packed.folder))
    assert found["images"] == {split: len(rows) for split, rows in kept.items()}
    assert "Traceback" not in err
    assert ("lacks 6 of the 30 " in caplog.text) == (layout == "zip")
    assert re.search(rf"\b6\b.*{packed.folder / 'skipped.txt'}", caplog.text)


def test_images_without_a_split_are_skipped_with_a_warning(celeba, pixels, caplog):
    edit_lines(celeba / PARTITION, lambda lines: lines[:5] + lines[7:])
    packed = pack(celeba, on_corrupt="skip")

    assert re.search("2 of the 30 images .*000006.jpg, 000007.jpg", caplog.text)
    require_packed(packed, pixels, ROWS | {"train": np.setdiff1d(np.arange(24), (5, 6))})


def test_partition_entries_without_image_are_skipped_with_a_warning(celeba, pixels, caplog):
    more = [f"00004{number}.jpg 0" for number in range(7)]
    edit_lines(celeba / PARTITION, lambda lines: [*lines[:10], *more, *lines[10:]])
    packed = pack(celeba, on_corrupt="skip")

    assert re.search(r"lacks 7 of the 37 .*000040\.jpg.* They are left out", caplog.text)
    assert [line.split("\t")[0] for line in packed.skipped()] == ["train"] * 7
    require_packed(packed, pixels, ROWS)
