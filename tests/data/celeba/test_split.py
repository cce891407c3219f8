"""`data.split=hash`: CelebA without its partition."""

from __future__ import annotations

import os
import re
import sys

import numpy as np
import pytest

from tests.support.celeba_shards import known, pack, refusal, source
from tests.support.celeba_stand_in import LAYOUTS, NUM, make
from tests.support.celeba_stand_in import names as all_names
from vae.data.celeba.listed import rows_by_hash
from vae.data.folder import split_of


def parts(folder, **settings):
    faces = source(folder, split="hash", **settings)
    faces.check()
    return {
        split: (faces.read(split, 0, size), faces.labels(split)["attributes"].values)
        for split, size in faces.sizes().items()
    }


def test_about_80_10_10_of_all_images():
    names = all_names(NUM)
    rows = rows_by_hash(names)
    assert [len(rows[split]) / NUM for split in rows] == pytest.approx([0.8, 0.1, 0.1], abs=0.005)
    assert (np.sort(np.concatenate([*rows.values()])) == np.arange(NUM)).all()
    again = rows_by_hash([f"{name[:-4]}.PNG" for name in names[:1000]])
    assert (again["val"] == rows["val"][: len(again["val"])]).all()  # by stem


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_divides_each_layout_alike(layout, celeba_in, celeba_made, pixels, caplog):
    folder = celeba_in(layout)
    for name in ("list_eval_partition.*", "identity*", "list_landmarks*"):
        for file in folder.rglob(name):
            file.unlink()
    expected = rows_by_hash(all_names(30))
    caplog.set_level("INFO")
    for split, (images, attributes) in parts(folder).items():
        assert (images == pixels[expected[split]]).all()
        assert (attributes == known()["attributes"][expected[split]]).all()
    assert len(re.findall("data.split: hash: by image name, 80/10/10", caplog.text)) == 1
    assert sum(source(folder, split="hash", num_images=15).sizes().values()) == 15


def test_a_part_of_the_shards_is_enough(tmp_path):
    folder = tmp_path / "celeba"
    make(folder, "parquet", 60, 30, 10)
    next(folder.rglob("test*")).unlink()
    says = r"has no parquet files of test\..* data\.split=hash divides"
    assert re.search(says, refusal(folder))
    assert sum(len(images) for images, _ in parts(folder).values()) == 54
    next(folder.rglob("valid*")).unlink()
    first = next(folder.rglob("train-00000*"))
    first.rename(tmp_path / "away")
    assert "missing: 00000-of-00002" in refusal(folder, split="hash")
    (tmp_path / "away").rename(first)
    assert sum(map(len, pack(folder, split="hash").images.values())) == 48


def test_the_message_without_a_partition_names_it(celeba):
    (celeba / "list_eval_partition.txt").unlink()
    assert "data.split=hash divides the images 80/10/10 by name" in refusal(celeba)
    for number in range(3, 31):
        (celeba / "img_align_celeba" / f"{number:06d}.jpg").unlink()
    assert "data.split: hash divides the 2 images" in refusal(celeba, split="hash")
    assert "data.split: got 'half', but it takes official or hash" in refusal(celeba, split="half")


def test_one_of_several_folders_of_images_is_asked_for(celeba):
    images = celeba / "img_align_celeba"
    (celeba / "more").mkdir()
    (images / "000030.jpg").rename(celeba / "more" / "000031.jpg")
    assert sum(source(celeba, split="hash").sizes().values()) == 29
    images.rename(celeba / "some")
    says = r"several folders of images: .*/more, .*/some\. Give one of them, data\.path=ONE.*folder"
    assert re.search(says, refusal(celeba, split="hash"))
    assert sum(source(celeba / "some", split="hash").sizes().values()) == 29


def test_it_has_a_cache_of_its_own_that_changes_with_the_names(celeba):
    official, before = (source(celeba, split=split).fingerprint() for split in ("official", "hash"))
    assert "split" not in official  # caches of earlier versions stay
    assert before != official
    for number in range(1001, 4000):  # of so many, only some are asked for their times
        (celeba / "img_align_celeba" / f"{number:06d}.jpg").touch()
    before = source(celeba, split="hash")
    name = before.layout.names["train"][1]
    others = (f"{name[:-4]}-{number}" for number in range(100))
    other = next(stem for stem in others if split_of(stem) == "train")
    image = celeba / "img_align_celeba" / name
    image.rename(image.with_stem(other))
    after = source(celeba, split="hash")
    assert after.sizes() == before.sizes()
    assert after.fingerprint() != before.fingerprint()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have only names in Unicode")
def test_names_in_another_encoding_are_read(celeba):
    images = celeba / "img_align_celeba"
    for file in celeba.glob("*.txt"):
        file.unlink()
    for name in (b"fran\xe7ois.jpg", b"andr\xe9.jpg"):
        (images / os.fsdecode(name)).write_bytes((images / "000001.jpg").read_bytes())
    assert sum(map(len, pack(celeba, split="hash").images.values())) == 32
