"""A folder of images as a source."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from tests.support.data_sets import save_noise
from vae.data.base import SPLITS, ImageError
from vae.data.folder import FolderConfig, FolderSource, split_of
from vae.data.images import load_square
from vae.utils.errors import UserError


def source(path: Path | str | None, num_images: int | None = None, size: int = 16) -> FolderSource:
    config = FolderConfig("folder", "data", size, 2, num_images, False, 1, path="")
    config.path = path  # type: ignore[assignment]
    return FolderSource(config)


def used(folder: FolderSource) -> dict[str, str]:
    return {path: split for split in SPLITS for path in folder.files[split]}


def test_images_are_sorted_by_path(pictures):
    folder = source(pictures)

    assert folder.sizes() == {split: len(folder.files[split]) for split in SPLITS}
    assert sum(folder.sizes().values()) == 60
    train = folder.files["train"]
    assert train == sorted(train)
    expected = [load_square(pictures / path, 16) for path in train[3:7]]
    assert (folder.read("train", 3, 7) == np.stack(expected)).all()
    assert folder.labels("train") == {}


def test_added_files_do_not_change_the_split_of_others(pictures):
    before = used(source(pictures))
    for number in range(20):
        save_noise(pictures / "0-first" / f"{number}.jpg")
    after = used(source(pictures))

    assert len(after) == 80
    assert before.items() <= after.items()


def test_the_split_of_a_path_never_changes():
    """By the first digits of `printf PATH | sha256sum`: below 0.8, 0.9 or 1 of all there are."""
    for path, digits, split in (
        ("a/23.jpg", 0x0507, "train"), ("50.jpg", 0xCC9A, "train"), ("a/69.jpg", 0xCCAB, "train"),
        ("377.jpg", 0xCCEA, "val"), ("319.jpg", 0xCD6A, "val"), ("a/252.jpg", 0xE5E3, "val"),
        ("a/436.jpg", 0xE6DA, "test"), ("a/11.jpg", 0xFBEF, "test"),
    ):  # fmt: skip
        share = digits / 0x10000
        assert split == ("train" if share < 0.8 else "val" if share < 0.9 else "test")
        assert split_of(path) == split


def test_num_images_selects_nested_subsets(pictures):
    few, more, all_ = (used(source(pictures, count)) for count in (12, 30, None))

    assert (len(few), len(more), len(all_)) == (12, 30, 60)
    assert few.items() <= more.items() <= all_.items()
    assert set(few.values()) == set(SPLITS)
    train = [path for path, split in more.items() if split == "train"]
    by_hash = [path for path, split in all_.items() if split == "train"]
    by_hash.sort(key=lambda path: sha256(path.encode()).digest()[8:16])
    assert train == sorted(by_hash[: len(train)])


def test_only_visible_images_are_read_and_linked_ones_once(pictures, tmp_path):
    for name in (".hidden.png", ".git/a.png", "__MACOSX/a.png", "notes.txt", "a/.DS_Store"):
        (pictures / name).parent.mkdir(exist_ok=True)
        (pictures / name).write_bytes(b"nothing")
    assert len(used(source(pictures))) == 60

    for number in range(5):
        save_noise(tmp_path / "elsewhere" / f"{number}.png")
    (pictures / "link").symlink_to(tmp_path / "elsewhere")
    (pictures / "a" / "loop").symlink_to(pictures)
    (pictures / "a" / "itself").symlink_to("itself")
    assert len(used(source(pictures))) == 65


def test_other_files_are_counted_in_one_line(pictures, caplog):
    for name in ("a.jfif", "a.JPE", "a.avif", "a.apng", "a.pnm", "z"):
        save_noise(pictures / "x.jpeg").rename(pictures / name)
    for name in ("b.heic", "c.HEIC", "notes.txt", "c.nef", "README", "empty"):
        (pictures / name).write_text("x" * (name != "empty"))
    (pictures / "gone.txt").symlink_to("nothing")
    folder = source(pictures)
    assert len(used(folder)) == 66
    with caplog.at_level("INFO"):
        folder.check()
    (line,) = caplog.messages
    assert (
        "left out: 7 files: 2 without a suffix, 2 .heic, 2 .txt, 1 .nef. HEIC is not supported"
        in line
    )


def test_links_to_nothing_and_pipes_are_unreadable_images(pictures):
    (pictures / "gone.png").symlink_to("nothing")
    os.mkfifo(pictures / "pipe.jpg")
    folder = source(pictures)
    folder.fingerprint()
    for name, says in (("gone.png", "No such file"), ("pipe.jpg", "not a regular file")):
        place = folder.files[split_of(name)].index(name)
        with pytest.raises(ImageError, match=f"{name}: cannot be read: {says}"):
            folder.read(split_of(name), place, place + 1)


def test_fingerprint_depends_on_files_and_not_location(pictures):
    first = source(pictures).fingerprint()
    moved = pictures.rename(pictures.with_name("moved"))
    assert source(moved).fingerprint() == first

    seen = [first, source(moved, size=32).fingerprint(), source(moved, 30).fingerprint()]
    os.utime(moved / "a" / "0.png", ns=(0, 0))
    seen.append(source(moved).fingerprint())
    last = source(moved).files["train"][-1]
    names = (f"{last}-{number}.png" for number in range(1000))
    (moved / last).rename(moved / next(name for name in names if split_of(name) == "train"))
    seen.append(source(moved).fingerprint())
    save_noise(moved / "new.png")
    seen.append(source(moved).fingerprint())
    assert len({json.dumps(each) for each in seen}) == 6


@pytest.mark.parametrize("path", [None, "", "???"])
def test_a_missing_path_is_reported(path):
    with pytest.raises(UserError, match=r"data\.path=FOLDER"):
        source(path)


def test_a_folder_without_images_lists_its_files(tmp_path):
    with pytest.raises(UserError, match=r"data.path: there is no .*nowhere"):
        source(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no images .0 files"):
        source(tmp_path)
    (tmp_path / "a.txt").touch()
    with pytest.raises(UserError, match=r"holds no images .1 file: 1 \.txt\)"):
        source(tmp_path)
    for name in ("a.txt", "b.txt", "README"):
        (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=r"3 files: 2 \.txt, 1 without a suffix"):
        source(tmp_path)
    with pytest.raises(UserError, match="is a file"):
        source(tmp_path / "a.txt")
    save_noise(tmp_path / "only.png")
    with pytest.raises(UserError, match=r"holds 1 image, .*would be empty. Add images"):
        source(tmp_path)


def test_an_inaccessible_parent_folder_is_reported(pictures, as_nobody, monkeypatch):
    monkeypatch.chdir(pictures.parent)
    pictures.chmod(0)
    try:
        with as_nobody(), pytest.raises(UserError, match="there is no pictures/a"):
            source("pictures/a")
    finally:
        pictures.chmod(0o700)


def test_a_damaged_image_is_named(pictures):
    bad = pictures / source(pictures).files["val"][0]
    bad.write_bytes(bad.read_bytes()[:-100])

    with pytest.raises(UserError, match=f"{bad}.*truncated"):
        source(pictures).read("val", 0, 1)
