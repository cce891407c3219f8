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
    pack,
    read_jpegs,
    rewrite_zip,
    source,
    write_shard,
)
from tests.support.celeba_stand_in import LAYOUTS, NUM
from vae.data.celeba.stores import END_BYTES

SETTINGS = {"crop": 140, "image_size": 24, "num_images": 20}


def mark(folder, **settings) -> str:
    return json.dumps(source(folder, **settings).fingerprint(), sort_keys=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_moving_the_folder_keeps_it(layout, celeba_in, tmp_path):
    folder = celeba_in(layout)
    before = mark(folder)
    (tmp_path / "far" / "away").mkdir(parents=True)

    assert mark(folder.rename(tmp_path / "far" / "away" / "faces")) == before
    assert mark(tmp_path / "far") == before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_settings_change_it(layout, celeba_made):
    folder = celeba_made(layout)
    marks = [mark(folder), mark(folder, crop=None)]
    marks += [mark(folder, **{key: value}) for key, value in SETTINGS.items()]

    assert len(set(marks)) == len(marks)


@pytest.mark.parametrize(
    "settings", [{"on_corrupt": "skip"}, {"batch_size": 4}, {"flip": False}, {"num_workers": 2}]
)
def test_settings_without_effect_on_pixels_keep_it(settings, celeba_made):
    assert mark(celeba_made("official"), **settings) == mark(celeba_made("official"))


@pytest.mark.parametrize("layout", ["official", "zip"])
@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (PARTITION, b"000024.jpg 0", b"000024.jpg 1"),
        (ATTRIBUTE_LIST, b" 1\n", b"-1\n"),
        ("identity_CelebA.txt", b"000001.jpg ", b"000001.jpg 1"),
        ("list_landmarks_align_celeba.txt", b"000001.jpg ", b"000001.jpg 1"),
    ],
)
def test_another_list_changes_it(layout, name, old, new, celeba_in):
    folder = celeba_in(layout)
    before = mark(folder)
    content = (folder / name).read_bytes()
    assert old in content
    (folder / name).write_bytes(content.replace(old, new))

    assert mark(folder) != before


def test_a_removed_list_changes_it(celeba):
    before = mark(celeba)
    (celeba / ATTRIBUTE_LIST).unlink()

    assert mark(celeba) != before


@pytest.mark.parametrize("number", [1, 13, 30])
def test_another_image_file_changes_it(number, celeba):
    file = celeba / IMAGES / f"{number:06d}.jpg"
    marks = [mark(celeba)]
    os.utime(file, ns=(0, 0))
    marks.append(mark(celeba))
    file.write_bytes(file.read_bytes() + b"\0")
    os.utime(file, ns=(0, 0))
    marks.append(mark(celeba))
    file.unlink()
    marks.append(mark(celeba))

    assert len(set(marks)) == 4


def test_images_that_are_not_used_do_not(celeba):
    before = mark(celeba, num_images=15)
    (celeba / IMAGES / "000024.jpg").write_bytes(b"other")

    assert mark(celeba, num_images=15) == before
    assert mark(celeba) != before


def test_another_archive_changes_it(celeba_in):
    folder = celeba_in("zip")
    rewrite_zip(folder / ZIP, lambda name, jpeg: jpeg, ZIP_STORED)
    before, size = mark(folder), (folder / ZIP).stat().st_size
    os.utime(folder / ZIP, ns=(0, 0))
    assert mark(folder) == before  # copied or fetched again

    def change(name, jpeg):  # one bit
        return jpeg[:-1] + bytes([jpeg[-1] ^ 1]) if "000013" in name else jpeg

    rewrite_zip(folder / ZIP, change, ZIP_STORED)
    assert (folder / ZIP).stat().st_size == size
    assert mark(folder) != before


def test_every_member_of_a_full_archive_affects_it():
    """Info-ZIP adds 24 bytes to each entry at the archive's end: times and owners."""
    assert NUM * (46 + len(f"{IMAGES}/000001.jpg") + 24) < END_BYTES


@pytest.mark.parametrize("number", [0, 12, 29])
def test_another_shard_changes_it(number, celeba_made, tmp_path):
    marks = []
    for more in (b"", b"\0"):
        jpegs = read_jpegs(celeba_made("official"))
        jpegs[number] += more
        for split, numbers in (("train", range(24)), ("valid", range(24, 27)), ("test", [27, 29])):
            name = f"{split}-00000-of-00001.parquet"
            write_shard(tmp_path / "celeba" / name, numbers, jpegs)
        marks.append(mark(tmp_path / "celeba"))

    assert marks[0] != marks[1]


def test_a_second_start_finds_the_cache_and_reads_no_image(celeba, monkeypatch):
    first = pack(celeba)
    monkeypatch.setattr("vae.data.celeba.decode_square", None)
    monkeypatch.setattr("vae.data.celeba.lists.check_image_names", None)
    second = pack(celeba)

    assert second.folder == first.folder
