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


def test_reads_a_tree_in_the_order_of_its_paths(pictures):
    folder = source(pictures)

    assert folder.sizes() == {split: len(folder.files[split]) for split in SPLITS}
    assert sum(folder.sizes().values()) == 60
    train = folder.files["train"]
    assert train == sorted(train)
    expected = [load_square(pictures / path, 16) for path in train[3:7]]
    assert (folder.read("train", 3, 7) == np.stack(expected)).all()
    assert folder.labels("train") == {}


def test_adding_files_moves_none_of_the_others(pictures):
    before = used(source(pictures))
    for number in range(20):
        save_noise(pictures / "0-first" / f"{number}.jpg")
    after = used(source(pictures))

    assert len(after) == 80
    assert before.items() <= after.items()


def test_splits_80_10_10():
    splits = [split_of(f"person {number // 10}/{number}.jpg") for number in range(20_000)]

    shares = [splits.count(split) / len(splits) for split in SPLITS]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.01)


def test_num_images_takes_subsets_of_one_another(pictures):
    few, more, all_ = (used(source(pictures, count)) for count in (12, 30, None))

    assert (len(few), len(more), len(all_)) == (12, 30, 60)
    assert few.items() <= more.items() <= all_.items()
    assert set(few.values()) == set(SPLITS)
    train = [path for path, split in more.items() if split == "train"]
    beginning = [path for path, split in all_.items() if split == "train"][: len(train)]
    assert train != beginning  # spread over the folder


def test_leaves_out_hidden_and_other_files(pictures):
    before = used(source(pictures))
    for name in (".hidden.png", ".git/a.png", "__MACOSX/a.png", "notes.txt", "a/.DS_Store"):
        (pictures / name).parent.mkdir(exist_ok=True)
        (pictures / name).write_bytes(b"nothing")

    assert used(source(pictures)) == before


def test_follows_links_and_ends(pictures, tmp_path):
    for number in range(5):
        save_noise(tmp_path / "elsewhere" / f"{number}.png")
    (pictures / "link").symlink_to(tmp_path / "elsewhere")
    (pictures / "a" / "loop").symlink_to(pictures)

    assert len(used(source(pictures))) == 65


def test_fingerprint_follows_the_files_and_not_their_place(pictures):
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
def test_asks_for_a_path(path):
    with pytest.raises(UserError, match=r"data\.path=FOLDER"):
        source(path)


def test_says_what_it_found_instead_of_images(tmp_path):
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


def test_a_folder_in_one_that_may_not_be_entered(pictures, as_nobody, monkeypatch):
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


def test_names_a_bad_image(pictures):
    bad = pictures / source(pictures).files["val"][0]
    bad.write_bytes(bad.read_bytes()[:-100])

    with pytest.raises(UserError, match=f"{bad}.*truncated"):
        source(pictures).read("val", 0, 1)
