"""CelebA in its official layout."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.data_sets import NAMES, attribute_values
from vae.data.celeba import ATTRIBUTES, IMAGES, PARTITION, CelebAConfig, CelebASource
from vae.data.images import load_square
from vae.errors import UserError


def source(
    root: Path, path: Path | None = None, num_images: int | None = None, crop: int | None = 148
) -> CelebASource:
    """CelebA under data.root, or at data.path."""
    name = None if path is None else str(path)
    return CelebASource(CelebAConfig("celeba", str(root), 16, 2, num_images, True, 1, name, crop))


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_official_split_and_pixels(celeba):
    faces = source(celeba.parent)

    assert faces.sizes() == {"train": 20, "val": 6, "test": 4}
    expected = [load_square(celeba / IMAGES / f"0000{n}.jpg", 16, crop=148) for n in (22, 23)]
    assert (faces.read("val", 1, 3) == np.stack(expected)).all()
    assert (source(celeba.parent, crop=None).read("val", 1, 3) != np.stack(expected)).any()
    assert faces.factors("val") is None


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_attributes_are_0_and_1_under_40_names(celeba, line_end):
    for file in (celeba / ATTRIBUTES, celeba / PARTITION):
        file.write_bytes(file.read_bytes().replace(b"\n", line_end.encode()))
    labels = source(celeba.parent).attributes("test")

    assert labels is not None
    assert labels.names == NAMES
    assert labels.values.dtype == np.int8
    assert (labels.values == attribute_values()[26:]).all()


def test_attributes_follow_the_names_and_not_the_lines(celeba):
    head, names, *rows = (celeba / ATTRIBUTES).read_text().splitlines()
    (celeba / ATTRIBUTES).write_text("\n".join([head, names, *reversed(rows)]))
    labels = source(celeba.parent).attributes("val")

    assert labels is not None
    assert (labels.values == attribute_values()[20:26]).all()


def test_attributes_are_optional(celeba):
    (celeba / ATTRIBUTES).unlink()

    assert source(celeba.parent).attributes("train") is None


def test_num_images_takes_the_first_of_each_split(celeba):
    faces = source(celeba.parent, num_images=15)

    assert faces.sizes() == {"train": 10, "val": 3, "test": 2}
    assert faces.files["val"] == ["000021.jpg", "000022.jpg", "000023.jpg"]
    labels = faces.attributes("test")
    assert labels is not None
    assert (labels.values == attribute_values()[26:28]).all()


def test_data_path_replaces_the_place_under_root(celeba, tmp_path):
    assert source(tmp_path / "nowhere", path=celeba).sizes()["train"] == 20


def test_fingerprint_follows_settings_lists_and_images(celeba):
    prints = [source(celeba.parent).fingerprint(), source(celeba.parent, crop=100).fingerprint()]
    prints.append(source(celeba.parent, num_images=15).fingerprint())
    edit(celeba / PARTITION, "000020.jpg 0", "000020.jpg 1")
    prints.append(source(celeba.parent).fingerprint())
    os.utime(celeba / IMAGES / "000007.jpg", ns=(0, 0))
    prints.append(source(celeba.parent).fingerprint())

    assert all(one not in prints[:place] for place, one in enumerate(prints))
    assert source(celeba.parent).fingerprint() == prints[-1]


def test_a_missing_folder_says_what_to_put_there(tmp_path):
    with pytest.raises(UserError) as caught:
        source(tmp_path)

    text = str(caught.value)
    for part in (str(tmp_path / "celeba"), IMAGES, PARTITION, ATTRIBUTES, "mmlab", "Kaggle"):
        assert part in text


def test_says_which_files_are_missing(celeba):
    (celeba / PARTITION).rename(celeba / "partition.csv")
    with pytest.raises(UserError, match=rf"lacks {PARTITION} .it holds .*partition\.csv"):
        source(celeba.parent)
    (celeba / IMAGES).rename(celeba / "images")
    with pytest.raises(UserError, match=f"lacks {IMAGES}/ and {PARTITION}"):
        source(celeba.parent)


def test_listed_images_that_are_not_there(celeba):
    for number in range(10, 17):
        (celeba / IMAGES / f"0000{number}.jpg").unlink()

    with pytest.raises(UserError, match=r"lacks 7 of the 30 images .*000010\.jpg, .*14\.jpg, \.\."):
        source(celeba.parent)


@pytest.mark.parametrize("name", [PARTITION, ATTRIBUTES])
def test_a_page_saved_as_a_list(celeba, name):
    (celeba / name).write_text("\n<!DOCTYPE html><title>Quota exceeded</title>")

    with pytest.raises(UserError, match=rf"{name}: is an HTML page"):
        source(celeba.parent)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("000003.jpg 0", "000003.jpg", "line 3 .*000003"),
        ("000003.jpg 0", "000003.jpg x", "line 3 .*000003.jpg x"),
        ("000003.jpg 0", "000003.jpg 7", "split 7"),
        (".jpg 2", ".jpg 1", "no images for test"),
    ],
)
def test_a_damaged_partition(celeba, old, new, says):
    edit(celeba / PARTITION, old, new)

    with pytest.raises(UserError, match=f"{PARTITION}: .*{says}"):
        source(celeba.parent)


def test_empty_lists(celeba):
    (celeba / ATTRIBUTES).write_text("")
    with pytest.raises(UserError, match=f"{ATTRIBUTES}: .*first two lines"):
        source(celeba.parent)
    (celeba / ATTRIBUTES).unlink()
    (celeba / PARTITION).write_text("")
    with pytest.raises(UserError, match=f"{PARTITION}: the file is empty"):
        source(celeba.parent)


def test_damaged_attributes(celeba):
    (celeba / ATTRIBUTES).write_text((celeba / ATTRIBUTES).read_text()[:-300])

    with pytest.raises(UserError, match=f"{ATTRIBUTES}: line .* is not a file name and 40 values"):
        source(celeba.parent).attributes("test")


def test_an_image_without_attributes(celeba):
    edit(celeba / ATTRIBUTES, "000030.jpg", "000031.jpg")

    with pytest.raises(UserError, match=rf"{ATTRIBUTES}: 1 images .*000030\.jpg"):
        source(celeba.parent).attributes("test")


def test_crop_has_a_range():
    with pytest.raises(UserError, match=r"data\.crop: got 3"):
        CelebAConfig("celeba", "data", 16, 2, None, True, 1, None, 3)
