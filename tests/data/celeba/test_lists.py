"""CelebA's list files in several notations, and damaged."""

from __future__ import annotations

import os
import pickle
import re
import time
import tracemalloc

import numpy as np
import pytest

from tests.support.celeba_shards import (
    ATTRIBUTE_LIST,
    IMAGES,
    PARTITION,
    SPLITS,
    ZIP,
    edit_lines,
    known,
    pack,
    refusal,
    require_packed,
    require_whole,
    rewrite_zip,
    source,
)
from tests.support.celeba_stand_in import NUM
from tests.support.celeba_stand_in import names as all_names

IDENTITIES, LANDMARKS = "identity_CelebA.txt", "list_landmarks_align_celeba.txt"
LISTS = (PARTITION, ATTRIBUTE_LIST, IDENTITIES, LANDMARKS)
KINDS = ("attributes", "identities", "landmarks")
BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize("layout", ["official", "kaggle"])
@pytest.mark.parametrize(
    "change",
    [
        lambda content: BOM + content.replace(b"\n", b"\r\n"),  # as Excel saves it
        lambda content: content.decode().encode("utf-16"),  # as PowerShell does
        lambda content: content.rstrip(),
        lambda content: content.replace(b"\n000009.jpg", b"\n\n000009.jpg") + b"\n\n",
    ],
    ids=["Windows", "UTF-16", "no last line end", "blank lines"],
)
def test_line_ends_and_byte_order_marks(layout, change, celeba_in, pixels):
    folder = celeba_in(layout)
    for file in folder.glob("list_*"):
        file.write_bytes(change(file.read_bytes()))

    require_whole(source(folder), pixels)


@pytest.mark.parametrize(
    ("no", "yes"), [("0", "1"), ("-1", "+1"), ("False", "True"), ("-1.0", "1.00")]
)
def test_other_attribute_notations_are_read(no, yes, celeba, pixels):
    words = [" ".join(row) for row in np.where(known()["attributes"], yes, no).tolist()]
    edit_lines(
        celeba / ATTRIBUTE_LIST,
        lambda lines: lines[:2] + [f"{lines[n + 2][:10]} {words[n]}" for n in range(30)],
    )

    require_whole(source(celeba), pixels)


def quoted(cells):
    return [f'"{cell}"' for cell in cells]


def indexed(cells):
    """As pandas writes it: a column without a name, of the rows' numbers."""
    return ["" if cells[0] == "image_id" else str(int(cells[0][:6]) - 1), *cells]


def of_name(change):
    return lambda cells: [change(cells[0]) if cells[0] != "image_id" else "image_id", *cells[1:]]


NOTATIONS = {  # between the cells, and a change of the cells of each line of Kaggle's files
    "tabs": ("\t", list),
    "semicolons": (";", list),
    "blanks": ("  ", list),
    "comma and blank": (", ", list),
    "quotes": (",", quoted),
    "quotes and blanks": (" ", quoted),
    "an index": (",", indexed),
    "an index and tabs": ("\t", indexed),
    "a last comma": (",", lambda cells: [*cells, ""]),
    "no suffix": (",", of_name(lambda name: name[:-4])),
    "another suffix": (",", of_name(lambda name: f"{name[:-4]}.PNG")),
    "folders": (",", of_name(lambda name: f"img_align_celeba/{name}")),
    "folders of Windows": (",", of_name(lambda name: f"..\\faces\\{name}")),
}


@pytest.mark.parametrize(("between", "change"), NOTATIONS.values(), ids=NOTATIONS)
def test_other_notations_are_read(between, change, celeba_in, pixels):
    folder = celeba_in("kaggle")
    for file in folder.glob("*.csv"):
        lines = [between.join(change(line.split(","))) for line in file.read_text().splitlines()]
        file.write_text("\n".join(["# from a table", *lines]) + "\n")

    require_whole(source(folder), pixels)


@pytest.mark.parametrize("layout", ["official", "zip"])
@pytest.mark.parametrize("suffix", [".JPG", ".png"])
def test_images_and_lists_are_matched_by_stem(layout, suffix, celeba_in, pixels, caplog):
    folder = celeba_in(layout)
    if layout == "zip":
        rewrite_zip(folder / ZIP, rename=lambda name: name.replace(".jpg", suffix))
    for file in folder.glob(f"{IMAGES}/*"):
        file.rename(file.with_suffix(suffix))
    caplog.set_level("INFO")
    faces = source(folder)
    before = faces.fingerprint()
    require_whole(faces, pixels)
    assert (pickle.loads(pickle.dumps(faces)).read("val", 0, 3) == pixels[24:27]).all()
    says = rf"{PARTITION}: 30 of its names are matched .* stem: 000001\.jpg to 000001{suffix}"
    assert len(re.findall(says, caplog.text)) == 1
    if layout == "official":
        (folder / IMAGES / f"000001{suffix}").touch()
        assert source(folder).fingerprint() != before


def test_any_partition_is_accepted(celeba, pixels):
    """Images and labels come in its order, which is from the last to the first here."""
    splits = np.arange(30) * 7 % 3
    edit_lines(
        celeba / PARTITION, lambda ls: [f"{ls[n][:10]} {splits[n]}" for n in range(30)][::-1]
    )

    rows = {split: np.flatnonzero(splits == n)[::-1] for n, split in enumerate(SPLITS)}
    require_packed(pack(celeba), pixels, rows)


@pytest.mark.parametrize("kind", KINDS)
def test_each_list_but_the_partition_is_optional(kind, celeba):
    (celeba / dict(zip(KINDS, LISTS[1:], strict=True))[kind]).unlink()

    assert set(source(celeba).labels("val")) == set(KINDS) - {kind}


def change(old, new):
    return lambda text: text.replace(old, new)


@pytest.mark.parametrize(
    ("name", "damage", "says"),
    [
        (PARTITION, change("000013.jpg 0", "000013.jpg"), r"line 13 .*000013\.jpg"),
        (PARTITION, change("000013.jpg 0", "000013.jpg 0 0"), r"line 13 .*000013\.jpg 0 0"),
        (PARTITION, change("000013.jpg 0", "000013.jpg 7"), r"line 13 .* 1 number from 0 to 2"),
        (PARTITION, change("000013.jpg 0", "000012.jpg 0"), r"000012\.jpg more than once"),
        (PARTITION, change(".jpg 1", ".jpg 0"), "no images for val"),
        (PARTITION, lambda text: text[:-3], r"line 30 .*000030\.jp"),
        (PARTITION, lambda text: "", "empty"),
        (PARTITION, lambda text: "a\nb\nc\nd\n", "names no image"),
        (ATTRIBUTE_LIST, lambda text: text[:-300], r"line \d+ .*28\.jpg.* and 40 numbers"),
        (ATTRIBUTE_LIST, change("000030.jpg", "000031.jpg"), r"1 of the images .*000030\.jpg"),
        (
            ATTRIBUTE_LIST,
            lambda text: text.split("\n", 2)[2],
            "line 1 .*000001.* but 0 columns",
        ),
        (ATTRIBUTE_LIST, change("Young", ""), "line 3 .* 40 numbers, but 39 columns are named"),
        (ATTRIBUTE_LIST, lambda text: text + "\n" * 10**6, "1,000,032 lines"),
        (ATTRIBUTE_LIST, lambda text: text + "x" * 140_000, "line 33 .'x{40}'. has 140,000 char"),
        (ATTRIBUTE_LIST, change("000013.jpg -1", "000013.jpg 0.5"), "line 15 .* from -1 to 1"),
        (ATTRIBUTE_LIST, change("000013.jpg -1", "000013.jpg  5"), "line 15 .* from -1 to 1"),
        (ATTRIBUTE_LIST, change("000013.jpg -1", "000013.jpg  \u00b2"), "line 15 "),
        (IDENTITIES, change("000013.jpg ", "000013.jpg True"), r"line 13 .*000013\.jpg True"),
        (IDENTITIES, lambda text: f"{text}000031.jpg {'1' * 5000}", r"line 31 .*000031\.jpg 11"),
        (LANDMARKS, change("000013.jpg", "000013.jpg 1e3"), r"line 15 .*000013\.jpg 1e3"),
    ],
)
def test_a_damaged_list_is_named_with_its_line(name, damage, says, celeba):
    (celeba / name).write_text(damage((celeba / name).read_text()))

    text = refusal(celeba)
    assert re.search(f"{celeba / name}: .*{says}", text), text
    assert f"Get {name} again" in text


@pytest.mark.parametrize("name", [PARTITION, ATTRIBUTE_LIST])
def test_a_list_of_gigabytes_is_not_read(name, celeba):
    os.truncate(celeba / name, 10 << 30)  # no bytes on the disk

    says = f"{celeba / name}: cannot be read: too large: 10,737 MB of at most 67"
    assert says in refusal(celeba)


def test_lists_of_full_size_take_little_time_and_memory(celeba_made, tmp_path):
    names = all_names(NUM)
    for file in LISTS[1:]:
        lines = (celeba_made("official") / file).read_text().splitlines(keepends=True)
        head, tails = lines[:-30], [line[10:] for line in lines[-30:]]
        values = (f"{name}{tails[n % 30]}" for n, name in enumerate(names))
        (tmp_path / file).write_text("".join([*head, *values]))
    splits = "".join(f"{name} {n * 3 // NUM}\n" for n, name in enumerate(names))
    (tmp_path / PARTITION).write_text(splits)
    (tmp_path / IMAGES).mkdir()
    (tmp_path / IMAGES / names[0]).touch()

    tracemalloc.start()
    started = time.process_time()
    try:
        faces = source(tmp_path)
        labels = [faces.labels(split) for split in SPLITS]
        seconds, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert set(faces.sizes().values()) == {NUM // 3}
    whole, rest = divmod(NUM, 30)
    for kind, values in known().items():
        expected = whole * values.sum() + values[:rest].sum()
        assert sum(int(label[kind].values.sum()) for label in labels) == expected
    assert 10e6 < peak < 300e6  # bytes; torchvision's reader takes 1.4 GB
    assert seconds < 20  # of the processor's time; a second where nothing traces memory
