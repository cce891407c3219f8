"""Missing and wrong files in a folder: errors name the file and the remedy."""

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
    refusal,
    source,
    vae_pack,
)
from tests.support.data_sets import save_noise
from tests.support.train_command import TINY, call_train
from vae.cli.main import main
from vae.utils.errors import UserError

WAYS_TO_GET = ("mmlab.ie.cuhk.edu.hk", "jessicali9530/celeba-dataset", "flwrlabs/celeba")
PAGE = "\n <!DOCTYPE html><title>Google Drive - Quota exceeded</title>"


def nothing(folder):
    shutil.rmtree(folder)


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def only_images(folder):
    for file in folder.glob("*.txt"):
        file.unlink()


def only_lists(folder):
    shutil.rmtree(folder / IMAGES)


def uncropped(folder):
    (folder / IMAGES).rename(folder / "img_celeba")


def packed_as(name):
    def packed(folder):
        shutil.make_archive(folder / Path(name).stem, "zip", folder, IMAGES)
        shutil.rmtree(folder / IMAGES)

    return packed


def remove(*numbers):
    def removed(folder):
        for number in numbers:
            (folder / IMAGES / f"{number:06d}.jpg").unlink()

    return removed


def write(path, content):
    return lambda folder: (folder / path).write_bytes(content)


def page_as(name):
    def saved(folder):
        if name == ZIP:
            shutil.rmtree(folder / IMAGES)
        (folder / name).write_text(PAGE)

    return saved


def lose_the_middle(folder):
    with (folder / IMAGES / "000013.jpg").open("r+b") as file:
        file.seek(4000)
        file.write(bytes(512))


def truncate(folder):
    os.truncate(folder / IMAGES / "000013.jpg", 2000)


def unlist(folder):
    lines = (folder / PARTITION).read_text().splitlines(keepends=True)
    (folder / PARTITION).write_text("".join(lines[:5] + lines[7:]))


def list_others(folder):
    text = (folder / PARTITION).read_text()
    (folder / PARTITION).write_text(text + "".join(f"00004{n}.jpg 0\n" for n in range(7)))


def folder_as_image(folder):
    remove(13)(folder)
    (folder / IMAGES / "000013.jpg").mkdir()


BAD = "000013\\.jpg"
HINT = "data\\.on_corrupt=skip"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (
            nothing,
            ["there is no .*data/celeba", "data\\.path=FOLDER", *WAYS_TO_GET, "data=synthetic"],
        ),
        (empty, ["data/celeba lacks the images .* and the partition", "no files", *WAYS_TO_GET]),
        (only_images, ["lacks the partition .list_eval_partition", "30 \\.jpg", *WAYS_TO_GET]),
        (only_lists, [f"lacks the images .{IMAGES}", "5 \\.txt", *WAYS_TO_GET]),
        (uncropped, ["lacks the images", "img_celeba/ are .*before alignment", *WAYS_TO_GET]),
        (packed_as("archive.zip"), ["lacks the images", "Unpack archive\\.zip", *WAYS_TO_GET]),
        (
            lambda f: (f / PARTITION).rename(f / "partition.txt"),
            ["lacks the partition", *WAYS_TO_GET],
        ),
        (remove(9), ["lacks 1 of the 30 ", "000009\\.jpg", "Unpack or fetch", HINT]),
        (
            remove(*range(2, 15)),
            ["lacks 13 of the 30 ", "000002\\.jpg, .*06\\.jpg, \\.\\.\\.", "Unpack or fetch", HINT],
        ),
        (list_others, ["lacks 7 of the 37 ", "000040\\.jpg", HINT]),
        (unlist, ["2 of the 30 images", "000006\\.jpg, 000007\\.jpg", f"Get {PARTITION}", HINT]),
        (page_as(ZIP), [f"{ZIP}: is an HTML page", "quota", "Remove it", *WAYS_TO_GET]),
        (
            page_as(ATTRIBUTE_LIST),
            [f"{ATTRIBUTE_LIST}: is an HTML page", "Remove it", *WAYS_TO_GET],
        ),
        (page_as(PARTITION), [f"{PARTITION}: is an HTML page", "Remove it", *WAYS_TO_GET]),
        (page_as("identity_CelebA.txt"), ["identity_CelebA.txt: is an HTML page", "Remove it"]),
        (write(PARTITION, b""), [f"{PARTITION}: the file is empty", f"Get {PARTITION} again"]),
        (
            write(ATTRIBUTE_LIST, b"version https://git-lfs.github.com/spec/v1\n"),
            [f"{ATTRIBUTE_LIST}: is only Git LFS's pointer", "git lfs pull"],
        ),
        (truncate, [f"{BAD}: .*JPEG.* truncated", "Fix or remove it", HINT]),
        (lose_the_middle, [f"{BAD}: the JPEG image is damaged", "Fix or remove it", HINT]),
        (write(f"{IMAGES}/000013.jpg", b"hello"), [f"{BAD}: not an image, but text", HINT]),
        (write(f"{IMAGES}/000013.jpg", PAGE.encode()), [f"{BAD}: .*an HTML or XML page", HINT]),
        (write(f"{IMAGES}/000013.jpg", b""), [f"{BAD}: the file is empty", HINT]),
        (folder_as_image, [f"{BAD}: cannot be read: Is a directory", HINT]),
    ],
)
def test_failures_in_a_folder(damage, says, celeba):
    damage(celeba)

    text = refusal(celeba)
    assert str(celeba) in text
    for part in says:
        assert re.search(part, text), text


@pytest.mark.parametrize("name", ["list_eval_partition.csv", "list_attr_celeba.csv"])
def test_a_page_saved_as_csv(name, celeba_in):
    folder = celeba_in("kaggle")
    page_as(name)(folder)

    text = refusal(folder)
    assert f"{folder / name}: is an HTML page" in text
    assert all(part in text for part in ("quota", "Remove it", *WAYS_TO_GET))


def test_an_archive_beside_partial_images_is_named(celeba, celeba_made):
    shutil.copy(celeba_made("zip") / ZIP, celeba)
    remove(9)(celeba)

    assert f"remove the folder: {ZIP} beside it is read in place" in refusal(celeba)


@pytest.mark.parametrize("name", [".", IMAGES, PARTITION, ATTRIBUTE_LIST, f"{IMAGES}/000013.jpg"])
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


def test_a_folder_that_is_not_celeba_is_refused(tmp_path):
    for number in range(5):
        save_noise(tmp_path / "pictures" / f"{number}.png")

    text = refusal(tmp_path / "pictures")
    assert "data=folder data.path=FOLDER" in text
    assert "5 .png" in text


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"on_corrupt": "maybe"}, "data.on_corrupt: got 'maybe', but it takes error or skip"),
        ({"crop": 3}, "data.crop: got 3"),
    ],
)
def test_settings(setting, says, celeba):
    with pytest.raises(UserError, match=re.escape(says)):
        refuse_setting(celeba, setting)


def refuse_setting(folder, setting):
    raise UserError(refusal(folder, **setting))


@pytest.mark.parametrize("damage", [nothing, only_images, page_as(PARTITION), remove(9), truncate])
def test_the_command_ends_with_the_message_alone(damage, celeba, capsys):
    damage(celeba)
    code, found, err = vae_pack(capsys, celeba)

    assert (code, found) == (1, {})
    assert err.count("error: ") == 1
    assert err[err.index("error: ") :].startswith(f"error: {refusal(celeba)}")
    assert "Traceback" not in err


def test_the_command_names_a_key(celeba, capsys):
    assert main(["pack", "celeba", f"data.path={celeba}", "data.on_corrupt=maybe"]) == 1
    assert capsys.readouterr().err.startswith("error: data.on_corrupt: got 'maybe'")


def test_a_run_ends_with_the_message_alone(celeba, tmp_path, monkeypatch, capsys):
    truncate(celeba)
    keys = ("experiment", "data.num_images")
    base = [setting for setting in TINY if not setting.startswith(keys)]
    arguments = [*base, "data=celeba", "data.batch_size=2"]
    code, _, err = call_train(arguments, tmp_path, monkeypatch, capsys)

    assert code == 1
    assert "Traceback" not in err
    assert re.search(f"{BAD}: .*truncated.*{HINT}", err)
