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
    all_pixels,
    known,
    names,
    pack,
    read_jpegs,
    refusal,
    rewrite_zip,
    rows,
    source,
    vae_pack,
    write_shard,
)
from vae.utils.errors import UserError

GONE = {"train": (0, 7, 8, 23), "val": (1,), "test": (2,)}  # numbers within their splits
BAD = [ENDS[split] - SIZES[split] + number for split in SPLITS for number in GONE[split]]


def truncate(folder, layout):
    if layout == "official":
        for number in BAD:
            os.truncate(folder / IMAGES / f"{number + 1:06d}.jpg", 2000)
    elif layout == "zip":
        bad = {f"{IMAGES}/{number + 1:06d}.jpg" for number in BAD}
        rewrite_zip(folder / ZIP, lambda name, jpeg: jpeg[:2000] if name in bad else jpeg)
    else:
        shards = sorted(folder.rglob("*.parquet"))  # test, train, valid
        jpegs = read_jpegs(folder.with_name("whole"))
        for number in BAD:
            jpegs[number] = jpegs[number][:2000] if number else None
        for shard, split in zip(shards, ("test", "train", "val"), strict=True):
            write_shard(shard, range(30)[rows(split)], jpegs)


def remove(folder, layout):
    bad = {f"{number + 1:06d}.jpg" for number in BAD}
    if layout == "official":
        for name in bad:
            (folder / IMAGES / name).unlink()
    else:
        rewrite_zip(folder / ZIP, lambda name, jpeg: None if name[-10:] in bad else jpeg)


CASES = [
    (truncate, "official"),
    (truncate, "zip"),
    (truncate, "parquet"),
    (remove, "official"),
    (remove, "zip"),
]


@pytest.mark.parametrize(("damage", "layout"), CASES)
def test_remaining_images_keep_their_labels(damage, layout, celeba_in, capsys, caplog):
    folder = celeba_in(layout)
    whole = source(celeba_in("official", folder.with_name("whole")))
    damage(folder, layout)
    packed = pack(folder, on_corrupt="skip")

    for split in SPLITS:
        kept = np.setdiff1d(np.arange(SIZES[split]), GONE[split])
        assert len(kept) == SIZES[split] - len(GONE[split])
        assert (packed.images[split] == whole.read(split, 0, SIZES[split])[kept]).all()
        for kind, values in known().items():
            label = getattr(packed, kind)(split)
            if not (layout == "parquet" and kind == "landmarks"):
                np.testing.assert_array_equal(label.values, values[rows(split)][kept])
    listed = [line.split("\t") for line in packed.skipped()]
    assert [(split, int(number)) for split, number, _ in listed] == [
        (split, number) for split in SPLITS for number in GONE[split]
    ]
    for (split, number, reason), bad in zip(listed, BAD, strict=True):
        at = f"row {number}" if layout == "parquet" else names(split)[int(number)]
        assert at in reason, bad

    code, found, err = vae_pack(capsys, folder, "data.on_corrupt=skip")
    assert (code, found["skipped"], found["cache"]) == (0, len(BAD), str(packed.folder))
    assert found["images"] == {split: SIZES[split] - len(GONE[split]) for split in SPLITS}
    assert "Traceback" not in err
    assert re.search(rf"\b6\b.*{packed.folder / 'skipped.txt'}", caplog.text)


@pytest.mark.parametrize(("damage", "layout"), CASES)
def test_a_cache_with_skips_is_refused_without_skip(damage, layout, celeba_in):
    folder = celeba_in(layout)
    celeba_in("official", folder.with_name("whole"))
    damage(folder, layout)
    packed = pack(folder, on_corrupt="skip")

    with pytest.raises(UserError) as caught:
        pack(folder)
    text = str(caught.value)
    assert re.search(r"\b6\b", text)
    for part in ("data.on_corrupt", str(packed.folder / "skipped.txt"), "skip again", "fix them"):
        assert part in text
    assert pack(folder, on_corrupt="skip").folder == packed.folder


def test_repaired_images_are_packed_again(celeba, celeba_in, tmp_path):
    truncate(celeba, "official")
    before = pack(celeba, on_corrupt="skip")
    whole = celeba_in("official", tmp_path / "whole")
    for number in BAD:
        name = f"{number + 1:06d}.jpg"
        (celeba / IMAGES / name).write_bytes((whole / IMAGES / name).read_bytes())

    after = pack(celeba)
    assert after.folder != before.folder
    assert after.skipped() == []
    images = np.concatenate([after.images[split] for split in SPLITS])
    assert (images == all_pixels(source(whole))).all()


def test_images_without_a_split_are_skipped_with_a_warning(celeba, caplog):
    lines = (celeba / PARTITION).read_text().splitlines(keepends=True)
    (celeba / PARTITION).write_text("".join(lines[:5] + lines[7:]))
    packed = pack(celeba, on_corrupt="skip")
    assert "2 of the 30 images" in caplog.text
    assert "000006.jpg, 000007.jpg" in caplog.text

    kept = np.setdiff1d(np.arange(24), (5, 6))
    assert (packed.attributes("train").values == known()["attributes"][kept]).all()
    assert (packed.landmarks("train").values == known()["landmarks"][kept]).all()


@pytest.mark.parametrize("layout", ["official", "zip", "kaggle"])
def test_partition_entries_without_image_are_skipped_with_a_warning(
    layout, celeba_in, celeba_made, caplog
):
    folder = celeba_in(layout)
    (file,) = folder.glob("list_eval_partition.*")
    between = "," if layout == "kaggle" else " "
    lines = file.read_text().splitlines(keepends=True)
    more = [f"00004{number}.jpg{between}0\n" for number in range(7)]
    file.write_text("".join([*lines[:10], *more, *lines[10:]]))
    packed = pack(folder, on_corrupt="skip")

    assert re.search(r"lacks 7 of the 37 .*000040\.jpg.* They are left out", caplog.text)
    assert [line.split("\t")[0] for line in packed.skipped()] == ["train"] * 7
    images = np.concatenate([packed.images[split] for split in SPLITS])
    assert (images == all_pixels(source(celeba_made("official")))).all()
    for split in SPLITS:
        for kind in ("attributes", "landmarks"):
            values = getattr(packed, kind)(split).values
            np.testing.assert_array_equal(values, known()[kind][rows(split)])


def test_an_image_without_attributes_is_refused(celeba):
    (celeba / IMAGES / "000040.jpg").write_bytes((celeba / IMAGES / "000001.jpg").read_bytes())
    with (celeba / PARTITION).open("a") as lines:
        lines.write("000040.jpg 0\n000041.jpg 0\n")

    says = r"list_attr_celeba\.txt: 1 of the images have no line here \(000040\.jpg\)"
    assert re.search(says, refusal(celeba, on_corrupt="skip"))


def test_skip_changes_nothing_without_damage(celeba):
    packed = pack(celeba, on_corrupt="skip")

    assert packed.skipped() == []
    assert pack(celeba).folder == packed.folder


def test_a_split_without_any_image_is_refused(celeba):
    for name in names("val"):
        (celeba / IMAGES / name).write_bytes(b"")

    text = refusal(celeba, on_corrupt="skip")
    assert "nothing of val: none of its 3 images can be read" in text
    assert str(celeba / IMAGES / "000025.jpg") in text
