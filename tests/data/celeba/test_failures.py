"""Missing and wrong files: errors name the file and the remedy."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.support.celeba_shards import (
    ATTRIBUTE_LIST,
    IMAGES,
    PARTITION,
    ZIP,
    edit_lines,
    refusal,
    rewrite_zip,
    source,
)
from tests.support.data_sets import save_noise
from tests.support.train_command import TINY, call_train
from vae.utils.errors import UserError

WAYS_TO_GET = ("mmlab.ie.cuhk.edu.hk", "jessicali9530/celeba-dataset", "flwrlabs/celeba")
PAGE = b"\n <!DOCTYPE html><title>Google Drive - Quota exceeded</title>"
JPEG, BAD = f"{IMAGES}/000013.jpg", "000013\\.jpg"
HINT = "data\\.on_corrupt=skip"


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def other_pictures(folder):
    empty(folder)
    for number in range(5):
        save_noise(folder / f"{number}.png")


def only_images(folder):
    for file in folder.glob("*.txt"):
        file.unlink()


def packed_as_archive(folder):
    shutil.make_archive(folder / "archive", "zip", folder, IMAGES)
    shutil.rmtree(folder / IMAGES)


def remove(*numbers):
    def removed(folder):
        for number in numbers:
            (folder / IMAGES / f"{number:06d}.jpg").unlink()

    return removed


def remove_member(folder):
    rewrite_zip(folder / ZIP, lambda name, jpeg: jpeg if name != JPEG else None)


def write(path, content):
    return lambda folder: (folder / path).write_bytes(content)


def lose_the_middle(folder):
    with (folder / JPEG).open("r+b") as file:
        file.seek(4000)
        file.write(bytes(512))


def truncate(folder):
    os.truncate(folder / JPEG, 2000)


def unlist(folder):
    edit_lines(folder / PARTITION, lambda lines: lines[:5] + lines[7:])


def folder_as_image(folder):
    remove(13)(folder)
    (folder / JPEG).mkdir()


LACKS_PARTITION = "lacks the partition .list_eval"
FAILURES = [  # a layout, what happens to its folder, and what is said
    ("official", shutil.rmtree, ["there is no ", "data\\.path=FOLDER", "synthetic", *WAYS_TO_GET]),
    ("official", empty, ["lacks the images .* and the partition", "0 files", *WAYS_TO_GET]),
    ("official", other_pictures, [LACKS_PARTITION, "5 \\.png", "data=folder data.path=FOLDER"]),
    ("official", only_images, [LACKS_PARTITION, "30 \\.jpg", *WAYS_TO_GET]),
    ("official", lambda f: (f / IMAGES).rename(f / "img_celeba"), ["lacks the images", "4 \\.txt"]),
    ("official", packed_as_archive, ["lacks the images", "Unpack archive\\.zip"]),
    ("official", remove(9), ["lacks 1 of the 30 ", "000009\\.jpg", "Unpack or fetch", HINT]),
    ("official", remove(*range(2, 15)), ["lacks 13 of .*02\\.jpg, .*06\\.jpg, \\.\\.\\.", HINT]),
    ("official", write(PARTITION, PAGE), [f"{PARTITION}: is an HTML page", "quota", *WAYS_TO_GET]),
    ("official", write(ATTRIBUTE_LIST, PAGE), [f"{ATTRIBUTE_LIST}: is an HTML page", "Remove it"]),
    (
        "official",
        write(ATTRIBUTE_LIST, b"version https://git-lfs.github.com/spec/v1\n"),
        [f"{ATTRIBUTE_LIST}: is only Git LFS's pointer", "git lfs pull"],
    ),
    ("official", truncate, [f"{BAD}: .*JPEG.* truncated", "Fix or remove it", HINT]),
    ("official", lose_the_middle, [f"{BAD}: the JPEG image is damaged", "Fix or remove", HINT]),
    ("official", write(JPEG, PAGE), [f"{BAD}: .*an HTML or XML page", HINT]),
    ("official", folder_as_image, [f"{BAD}: cannot be read: Is a directory", HINT]),
    ("kaggle", write("list_attr_celeba.csv", PAGE), ["csv: is an HTML page", "Remove it"]),
    ("zip", write(ZIP, PAGE), [f"{ZIP}: is an HTML page", "quota", "Remove it"]),
    ("zip", write(ZIP, b""), [f"{ZIP}: the file is empty", f"Get {ZIP} again"]),
    ("zip", write(ZIP, b"Rar!\x1a\7\0" * 99), [f"{ZIP}: is no zip", f"Get {ZIP} again"]),
    ("zip", remove_member, [f"{ZIP} lacks 1 of the 30 images", BAD, HINT]),
    ("zip", unlist, ["2 of the 30 .*06\\.jpg, 000007\\.jpg", f"Get {PARTITION} again", HINT]),
]


@pytest.mark.parametrize(("layout", "damage", "says"), FAILURES)
def test_failures(layout, damage, says, celeba_in):
    folder = celeba_in(layout)
    damage(folder)

    text = refusal(folder)
    assert str(folder) in text
    for part in says:
        assert re.search(part, text), text


@pytest.mark.parametrize("name", [".", IMAGES, PARTITION, ATTRIBUTE_LIST, JPEG])
def test_unreadable_files_are_reported(name, celeba, as_nobody, monkeypatch):
    source(celeba).read("val", 0, 1)  # imports all that is needed
    monkeypatch.chdir(celeba.parent)
    (celeba / name).chmod(0)
    try:
        with as_nobody(), pytest.raises(UserError) as caught:
            source(Path("celeba")).read("train", 0, 24)
    finally:
        (celeba / name).chmod(0o700)
    assert re.search(
        f"{Path('celeba', name)}:? cannot be read: Permission denied", str(caught.value)
    )


def test_a_run_ends_with_the_message_alone(celeba, tmp_path, monkeypatch, capsys):
    truncate(celeba)
    keys = ("experiment", "data.num_images")
    base = [setting for setting in TINY if not setting.startswith(keys)]
    arguments = [*base, "data=celeba", "data.batch_size=2"]
    code, _, err = call_train(arguments, tmp_path, monkeypatch, capsys)

    assert code == 1
    assert "Traceback" not in err
    assert re.search(f"{BAD}: .*truncated.*{HINT}", err)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"on_corrupt": "maybe"}, "data.on_corrupt: got 'maybe', but it takes error or skip"),
        ({"crop": 3}, "data.crop: got 3"),
    ],
)
def test_settings(setting, says, celeba):
    assert says in refusal(celeba, **setting)
