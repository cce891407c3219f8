"""A folder of images as a source."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.support.data_sets import save_noise
from vae.data.base import SPLITS
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


def test_splits_are_80_10_10():
    splits = [split_of(f"person {number // 10}/{number}.jpg") for number in range(20_000)]

    shares = [splits.count(split) / len(splits) for split in SPLITS]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.01)


def test_the_split_of_a_path_never_changes():
    """By the first digits of `printf PATH | sha256sum`: below 0.8, 0.9 or 1 of all there are."""
    for path, digits, split in (
        ("1.jpg", 0x4C46, "train"), ("4.jpg", 0xACF1, "train"), ("a/6.jpg", 0x11C7, "train"),
        ("3.jpg", 0xDA87, "val"), ("10.jpg", 0xD918, "val"), ("a/5.jpg", 0xE41C, "val"),
        ("b/8.jpg", 0xE834, "test"), ("b/7.jpg", 0xFA1E, "test"),
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
    beginning = [path for path, split in all_.items() if split == "train"][: len(train)]
    assert train != beginning  # spread over the folder


def test_hidden_and_other_files_are_ignored(pictures):
    before = used(source(pictures))
    for name in (".hidden.png", ".git/a.png", "__MACOSX/a.png", "notes.txt", "a/.DS_Store"):
        (pictures / name).parent.mkdir(exist_ok=True)
        (pictures / name).write_bytes(b"nothing")

    assert used(source(pictures)) == before


def test_links_are_followed_without_loops(pictures, tmp_path):
    for number in range(5):
        save_noise(tmp_path / "elsewhere" / f"{number}.png")
    (pictures / "link").symlink_to(tmp_path / "elsewhere")
    (pictures / "a" / "loop").symlink_to(pictures)

    assert len(used(source(pictures))) == 65


def test_fingerprint_depends_on_files_and_not_location(pictures):
    first = source(pictures).fingerprint()
    moved = pictures.rename(pictures.with_name("moved"))

    assert source(moved).fingerprint() == first
    assert source(moved, size=32).fingerprint() != first
    assert source(moved, num_images=30).fingerprint() != first
    os.utime(moved / "a" / "0.png", ns=(0, 0))
    touched = source(moved).fingerprint()
    assert touched != first
    last = source(moved).files["train"][-1]
    names = (f"{last}-{number}.png" for number in range(1000))
    (moved / last).rename(moved / next(name for name in names if split_of(name) == "train"))
    renamed = source(moved).fingerprint()
    assert renamed != touched
    save_noise(moved / "new.png")
    assert source(moved).fingerprint() != renamed


@pytest.mark.parametrize("path", [None, "", "???"])
def test_a_missing_path_is_reported(path):
    with pytest.raises(UserError, match=r"data\.path=FOLDER"):
        source(path)


def test_a_folder_without_images_lists_its_files(tmp_path):
    with pytest.raises(UserError, match=r"data.path: there is no .*nowhere"):
        source(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no images .0 files"):
        source(tmp_path)
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.txt").write_text("")
    (tmp_path / "README").write_text("")
    with pytest.raises(UserError, match=r"3 files: 2 \.txt, 1 without a suffix"):
        source(tmp_path)
    with pytest.raises(UserError, match="is a file"):
        source(tmp_path / "a.txt")


def test_an_inaccessible_parent_folder_is_reported(pictures, as_nobody, monkeypatch):
    monkeypatch.chdir(pictures.parent)
    pictures.chmod(0)
    try:
        with as_nobody(), pytest.raises(UserError, match="there is no pictures/a"):
            source("pictures/a")
    finally:
        pictures.chmod(0o700)


def test_too_few_images_for_three_splits(tmp_path):
    save_noise(tmp_path / "only.png")

    with pytest.raises(UserError, match=r"holds 1 image, .*would be empty. Add images"):
        source(tmp_path)


def test_a_damaged_image_is_named(pictures):
    bad = pictures / source(pictures).files["val"][0]
    bad.write_bytes(bad.read_bytes()[:-100])

    with pytest.raises(UserError, match=f"{bad}.*truncated"):
        source(pictures).read("val", 0, 1)
