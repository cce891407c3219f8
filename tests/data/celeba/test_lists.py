"""CelebA's list files in several notations, and damaged."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

from tests.support.celeba_shards import (
    ATTRIBUTE_LIST,
    PARTITION,
    SIZES,
    SPLITS,
    all_pixels,
    edit_lines,
    known,
    pack,
    refusal,
    rows,
    source,
)
from tests.support.celeba_stand_in import ATTRIBUTES
from vae.utils.errors import UserError

IDENTITIES, LANDMARKS = "identity_CelebA.txt", "list_landmarks_align_celeba.txt"
LISTS = (PARTITION, ATTRIBUTE_LIST, IDENTITIES, LANDMARKS)
KINDS = ("attributes", "identities", "landmarks")


def assert_whole(folder, kinds=KINDS):
    faces = source(folder)
    assert faces.sizes() == SIZES
    for split in SPLITS:
        labels = faces.labels(split)
        for kind in kinds:
            np.testing.assert_array_equal(labels[kind].values, known()[kind][rows(split)])
        assert labels["attributes"].names == ATTRIBUTES


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\n\n"])
@pytest.mark.parametrize(
    ("beginning", "end"), [(b"", b"\n"), (b"\xef\xbb\xbf", b"\n \n\n"), (b"", b"")]
)
def test_line_ends_byte_order_marks_and_blank_lines(line_end, beginning, end, celeba):
    for name in LISTS:
        content = (celeba / name).read_bytes().rstrip()
        if line_end == b"\n\n":  # in between the images only
            content = content.replace(b"\n000009.jpg", b"\n\n000009.jpg")
        else:
            content = content.replace(b"\n", line_end)
        (celeba / name).write_bytes(beginning + content + end)

    assert_whole(celeba)


@pytest.mark.parametrize("layout", ["official", "kaggle"])
@pytest.mark.parametrize(
    ("no", "yes"), [("-1", "1"), ("0", "1"), ("False", "True"), ("false", "true"), ("-1", "+1")]
)
def test_other_attribute_notations_are_read(layout, no, yes, celeba_in):
    folder = celeba_in(layout)
    file, between = folder / ATTRIBUTE_LIST, "  "
    if layout == "kaggle":
        file, between = file.with_suffix(".csv"), ","
    head = 2 if layout == "official" else 1
    words = np.where(known()["attributes"], yes, no).tolist()
    edit_lines(
        file,
        lambda lines: [
            *lines[:head],
            *(
                between.join([line[:10], *row])
                for line, row in zip(lines[head:], words, strict=True)
            ),
        ],
    )

    assert_whole(folder, ["attributes", "landmarks"])


def test_csv_as_excel_saves_it(celeba_in):
    folder = celeba_in("kaggle")
    for file in folder.glob("*.csv"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))

    assert_whole(folder, ["attributes", "landmarks"])


def test_quoted_csv_with_another_header_is_read(celeba_in):
    folder = celeba_in("kaggle")
    for file in folder.glob("*.csv"):
        lines = [line.split(",") for line in file.read_text().splitlines()]
        lines[0][0] = "file"
        file.write_text("".join(",".join(f'"{word}"' for word in line) + "\n" for line in lines))

    assert_whole(folder, ["attributes", "landmarks"])


def test_blanks_after_the_commas(celeba_in):
    folder = celeba_in("kaggle")
    for file in folder.glob("*.csv"):
        file.write_text(file.read_text().replace(",", ", "))

    assert_whole(folder, ["attributes", "landmarks"])


def test_labels_follow_the_names_and_not_the_lines(celeba):
    for seed, name in enumerate(LISTS[1:]):
        head = sum(".jpg" not in line for line in (celeba / name).read_text().splitlines())
        edit_lines(
            celeba / name,
            lambda lines, head=head, seed=seed: [
                *lines[:head],
                *random.Random(seed).sample(lines[head:], 30),
            ],
        )

    assert_whole(celeba)


def test_images_come_in_the_order_of_the_partition(celeba):
    expected = source(celeba).read("train", 0, 24)
    edit_lines(celeba / PARTITION, lambda lines: lines[::-1])
    packed = pack(celeba)

    assert (packed.images["train"] == expected[::-1]).all()
    values = packed.attributes("train").values
    assert (values == known()["attributes"][rows("train")][::-1]).all()


def test_any_partition_is_accepted(celeba):
    splits = np.arange(30) * 7 % 3
    pixels = all_pixels(source(celeba))
    edit_lines(celeba / PARTITION, lambda ls: [f"{ls[n][:10]} {splits[n]}" for n in range(30)])
    packed = pack(celeba)

    for number, split in enumerate(SPLITS):
        assert (packed.images[split] == pixels[splits == number]).all()
        for kind in KINDS:
            values = getattr(packed, kind)(split).values
            np.testing.assert_array_equal(values, known()[kind][splits == number])


@pytest.mark.parametrize("kind", KINDS)
def test_each_list_but_the_partition_is_optional(kind, celeba):
    (celeba / dict(zip(KINDS, LISTS[1:], strict=True))[kind]).unlink()

    assert set(source(celeba).labels("val")) == set(KINDS) - {kind}


def cut(characters):
    return lambda text: text[:-characters]


def change(old, new):
    return lambda text: text.replace(old, new)


@pytest.mark.parametrize(
    ("name", "damage", "says"),
    [
        (PARTITION, change("000013.jpg 0", "000013.jpg"), r"line 13 .*000013\.jpg"),
        (PARTITION, change("000013.jpg 0", "000013.jpg x"), r"line 13 .*000013\.jpg x"),
        (PARTITION, change("000013.jpg 0", "000013.jpg 0 0"), r"line 13 .*000013\.jpg 0 0"),
        (PARTITION, change("000013.jpg 0", "000013\0jpg"), "line 13 "),
        (PARTITION, change("000013.jpg 0", "000013.jpg 7"), "split 7"),
        (PARTITION, change("000013.jpg 0", "000012.jpg 0"), r"000012\.jpg more than once"),
        (PARTITION, change(".jpg 1", ".jpg 0"), "no images for val"),
        (PARTITION, cut(3), r"line 30 .*000030\.jp"),
        (PARTITION, cut(13), r"1 of the 30 images .*000030\.jpg"),
        (PARTITION, change("000013.jpg", "\0" + "00013.jpg"), "line 13 "),
        (PARTITION, lambda text: "", "empty"),
        (PARTITION, lambda text: "000001.jpg\n", "line 1 "),
        (PARTITION, lambda text: "a\nb\nc\nd\n", "names no image"),
        (ATTRIBUTE_LIST, cut(300), r"line \d+ .*000028\.jpg.* is not a file name and 40 numbers"),
        (ATTRIBUTE_LIST, change("000013.jpg", "000013.jpg x"), r"line 15 .*000013\.jpg x"),
        (ATTRIBUTE_LIST, change("000030.jpg", "000031.jpg"), r"1 of the images .*000030\.jpg"),
        (ATTRIBUTE_LIST, lambda text: text.split("\n", 2)[2], "names of the columns"),
        (ATTRIBUTE_LIST, change("Young", ""), "line 3 .* is not a file name and 39 numbers"),
        (ATTRIBUTE_LIST, lambda text: "", "empty"),
        (ATTRIBUTE_LIST, change("000013.jpg -1", "000013.jpg 1000"), "line 15 "),
        (ATTRIBUTE_LIST, change("000013.jpg -1", "000013.jpg  5"), "line 15 .* from -1 to 1"),
        (ATTRIBUTE_LIST, change("000013.jpg -1", "000013.jpg  \u00b2"), "line 15 "),
        (ATTRIBUTE_LIST, change("000001.jpg -1", "000001.jpg False"), "line 3 .*True or False"),
        (IDENTITIES, lambda text: text + text.splitlines()[0], r"000001\.jpg more than once"),
        (ATTRIBUTE_LIST, change("000013.jpg", "000012.jpg"), r"000012\.jpg more than once|000013"),
        (IDENTITIES, change("000030.jpg", "30.jpg"), r"1 of the images .*000030\.jpg"),
        (IDENTITIES, change("000013.jpg", "000013.jpg ?"), r"line 13 .*000013\.jpg \?"),
        (IDENTITIES, change("000013.jpg", "000013.jpg --1"), r"line 13 .*000013\.jpg --1"),
        (IDENTITIES, lambda text: f"{text}000031.jpg {'1' * 5000}", r"line 31 .*000031\.jpg 11"),
        (LANDMARKS, change("000013.jpg", "000013.jpg 1e3"), r"line 15 .*000013\.jpg 1e3"),
    ],
)
def test_a_damaged_list_is_named_with_its_line(name, damage, says, celeba):
    (celeba / name).write_text(damage((celeba / name).read_text()))

    text = refusal(celeba)
    assert str(celeba / name) in text
    assert re.search(says, text), text
    assert f"Get {name} again" in text


@pytest.mark.parametrize("place", [1, 2, 13])
@pytest.mark.parametrize("beginning", ["", '"', "000013.jpg,"])
def test_a_line_without_end_in_a_csv(place, beginning, celeba_in):
    """Its words are longer than Python's reader takes."""
    file = celeba_in("kaggle") / "list_attr_celeba.csv"
    edit_lines(file, lambda lines: [*lines[:place], beginning + "x" * 140_000, *lines[place:]])

    text = refusal(file.parent)
    assert f"{file}: " in text
    assert f"Get {file.name} again" in text
    assert len(text) < 400


def test_random_damage_gives_user_errors(celeba):
    """Bytes changed anywhere: what is read is right in shape, or refused."""
    whole = {name: (celeba / name).read_bytes() for name in LISTS}
    chance = random.Random(0)
    refused = 0
    for number in range(150):
        name = LISTS[number % len(LISTS)]
        damaged = bytearray(whole[name])
        start = chance.randrange(len(damaged))
        damaged[start : start + chance.randint(1, 4)] = chance.randbytes(chance.randint(0, 4))
        (celeba / name).write_bytes(damaged)
        try:
            faces = source(celeba)
            faces.check()
            for split in SPLITS:
                for label in faces.labels(split).values():
                    assert len(label.values) == faces.sizes()[split]
        except UserError:
            refused += 1
        (celeba / name).write_bytes(whole[name])
    assert refused > 15
