"""The fingerprint changes with pixels and labels, and with nothing else."""

from __future__ import annotations

import json
import os
from zipfile import ZIP_STORED

import pytest

from tests.support.celeba_shards import (
    ATTRIBUTE_LIST,
    IMAGES,
    PARTITION,
    ZIP,
    edit_shard,
    pack,
    rewrite_zip,
    set_column,
    source,
)
from tests.support.celeba_stand_in import LAYOUTS, NUM
from vae.data.celeba.listed import ListedCelebA
from vae.data.celeba.parquet import FOOTER_BYTES
from vae.data.celeba.stores import END_BYTES

JPEG = f"{IMAGES}/000013.jpg"


def mark(folder, **settings) -> str:
    return json.dumps(source(folder, **settings).fingerprint(), sort_keys=True)


def edit(name, old, new):
    def change(folder):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


def append(folder, name=JPEG):
    (folder / name).write_bytes((folder / name).read_bytes() + b"\0")


CHANGES = {
    "split": edit(PARTITION, "000024.jpg 0", "000024.jpg 1"),
    "attribute": edit(ATTRIBUTE_LIST, " 1\n", "-1\n"),
    "identity": edit("identity_CelebA.txt", "000001.jpg ", "000001.jpg 1"),
    "landmark": edit("list_landmarks_align_celeba.txt", "000001.jpg ", "000001.jpg 1"),
    "list gone": lambda folder: (folder / ATTRIBUTE_LIST).unlink(),
    "image touched": lambda folder: os.utime(folder / JPEG, ns=(0, 0)),
    "image longer": append,
    "image gone": lambda folder: (folder / JPEG).unlink(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_other_files_change_it(change, celeba):
    before = mark(celeba)
    change(celeba)

    assert mark(celeba) != before


def test_another_archive_changes_it(celeba_in):
    folder = celeba_in("zip")
    rewrite_zip(folder / ZIP, method=ZIP_STORED)
    before = mark(folder)
    os.utime(folder / ZIP, ns=(0, 0))
    assert mark(folder) == before  # copied or fetched again

    def change(name, jpeg):  # of the same length
        return jpeg[:-1] + b"x" if name == JPEG else jpeg

    rewrite_zip(folder / ZIP, change, ZIP_STORED)
    assert mark(folder) != before


def test_every_member_of_a_full_archive_affects_it():
    """Info-ZIP adds 24 bytes to each entry at the archive's end: times and owners."""
    assert NUM * (46 + len(JPEG) + 24) < END_BYTES


def lengthen(cells):
    return [*cells[:-1], cells[-1] | {"bytes": cells[-1]["bytes"] + b"0"}]


def swap(cells):
    """Exchange images of two row groups."""
    return [cells[-1], *cells[1:-1], cells[0]]


@pytest.mark.parametrize(("number", "change"), [(0, lengthen), (3, lengthen), (1, swap), (2, swap)])
def test_another_shard_changes_it(number, change, celeba_in):
    folder = celeba_in("parquet")
    file = sorted(folder.rglob("*.parquet"))[number]
    edit_shard(file, lambda table: table)
    before = mark(folder)
    edit_shard(file, lambda table: table)
    assert mark(folder) == before
    edit_shard(file, set_column("image", change))
    assert mark(folder) != before


def test_only_the_end_of_a_shard_is_read(celeba_in):
    folder = celeba_in("parquet")
    before = mark(folder)
    file = sorted(folder.rglob("*.parquet"))[1]
    content = file.read_bytes()
    file.write_bytes(content[:100] + bytes(1000) + content[1100:])

    assert len(content) > FOOTER_BYTES + 1100
    assert mark(folder) == before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_settings_of_the_pixels_change_it_and_the_place_does_not(layout, celeba_in, tmp_path):
    folder = celeba_in(layout)
    before = mark(folder)
    other = [{"crop": None}, {"crop": 140}, {"image_size": 24}, {"num_images": 20}]
    assert len({before, *(mark(folder, **setting) for setting in other)}) == 5
    for setting in ({"on_corrupt": "skip"}, {"batch_size": 4}, {"flip": False}, {"num_workers": 2}):
        assert mark(folder, **setting) == before
    (tmp_path / "far" / "away").mkdir(parents=True)
    folder.rename(tmp_path / "far" / "away" / "faces")

    assert mark(tmp_path / "far") == before


def test_images_that_are_not_used_keep_it(celeba):
    before, all_of_them = mark(celeba, num_images=15), mark(celeba)
    append(celeba, f"{IMAGES}/000024.jpg")

    assert mark(celeba, num_images=15) == before
    assert mark(celeba) != all_of_them


def test_a_second_start_finds_the_cache_and_reads_no_image(celeba, monkeypatch):
    first = pack(celeba)
    monkeypatch.setattr("vae.data.celeba.decode_square", None)
    monkeypatch.setattr(ListedCelebA, "check", None)

    assert pack(celeba).folder == first.folder
