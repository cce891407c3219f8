"""CelebA is found below `data.path`; unrelated files are ignored."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.celeba_shards import (
    ATTRIBUTE_LIST,
    IMAGES,
    PARTITION,
    SIZES,
    ZIP,
    all_pixels,
    known,
    read_jpegs,
    refusal,
    rows,
    source,
    write_shard,
)
from tests.support.celeba_stand_in import LAYOUTS
from tests.support.data_sets import save_noise
from vae.utils.errors import UserError

SNAPSHOTS = Path("hub", "datasets--flwrlabs--celeba", "snapshots")


@pytest.fixture
def is_whole(celeba_made):
    """Whether all of CelebA is found at a path: images, splits and attributes."""
    pixels = all_pixels(source(celeba_made("official")))

    def whole(path: Path | None, **settings) -> bool:
        faces = source(path, **settings)
        faces.check()
        values = faces.labels("val")["attributes"].values
        return (
            faces.sizes() == SIZES
            and (all_pixels(faces) == pixels).all()
            and (values == known()["attributes"][rows("val")]).all()
        )

    return whole


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("deeper", ["CelebA", "datasets/CelebA"])
def test_files_in_subfolders_are_found(layout, deeper, celeba_in, tmp_path, is_whole):
    celeba_in(layout, tmp_path / "here" / deeper)

    assert is_whole(tmp_path / "here")


def test_files_under_data_root_are_found(celeba_in, tmp_path, is_whole):
    celeba_in("drive", tmp_path / "root" / "celeba")

    assert is_whole(None, root=str(tmp_path / "root"))


def test_hugging_faces_cache_is_found(celeba_made, tmp_path, is_whole):
    snapshot = tmp_path / "cache" / SNAPSHOTS / "abc" / "img_align+identity+attr"
    snapshot.mkdir(parents=True)
    blobs = tmp_path / "cache" / SNAPSHOTS.with_name("blobs")
    blobs.mkdir()
    for number, shard in enumerate(sorted(celeba_made("parquet").rglob("*.parquet"))):
        shutil.copy(shard, blobs / f"{number}abc")
        (snapshot / shard.name).symlink_to(blobs / f"{number}abc")

    for path in (tmp_path / "cache", snapshot.parents[1], snapshot):
        assert is_whole(path)


def test_two_cached_revisions_are_not_merged(celeba_made, tmp_path):
    for revision in ("abc", "def"):
        shutil.copytree(celeba_made("parquet"), tmp_path / "cache" / SNAPSHOTS / revision)

    assert source(tmp_path / "cache").sizes() == SIZES


@pytest.mark.parametrize("layout", ["official", "kaggle", "drive"])
def test_the_image_folder_itself_is_accepted(layout, celeba_in, is_whole):
    folder = celeba_in(layout)

    assert is_whole(next(folder.rglob("000001.jpg")).parent)


def test_kaggles_outer_folder_is_accepted(celeba_in, is_whole):
    assert is_whole(celeba_in("kaggle") / IMAGES)


def test_the_archive_itself_is_accepted(celeba_in, is_whole):
    assert is_whole(celeba_in("zip") / ZIP)


def test_the_archive_in_the_drives_folders_is_accepted(celeba_in, celeba_made, is_whole):
    folder = celeba_in("drive")
    shutil.rmtree(folder / "Img" / IMAGES)
    shutil.copy(celeba_made("zip") / ZIP, folder / "Img")

    assert is_whole(folder)
    assert is_whole(folder / "Img" / ZIP)


def test_relative_and_home_paths_are_accepted(celeba, is_whole, monkeypatch, tmp_path):
    monkeypatch.chdir(celeba.parent)
    monkeypatch.setenv("HOME", str(tmp_path))

    assert is_whole(Path("celeba"))
    assert is_whole(Path("~/data/celeba"), root=str(tmp_path))


def test_links_are_followed(celeba, is_whole, tmp_path):
    (celeba / IMAGES).rename(tmp_path / "elsewhere")
    (celeba / IMAGES).symlink_to(tmp_path / "elsewhere")
    (celeba / "loop").symlink_to(celeba)
    (tmp_path / "link").symlink_to(celeba)

    assert is_whole(tmp_path / "link")


def test_image_folders_of_any_name_are_found(celeba, is_whole):
    (celeba / IMAGES).rename(celeba / "faces")

    assert is_whole(celeba)


def test_images_unpacked_beside_the_lists(celeba, is_whole):
    for file in (celeba / IMAGES).iterdir():
        file.rename(celeba / file.name)

    assert is_whole(celeba)


@pytest.mark.parametrize("layout", ["official", "zip"])
def test_other_files_are_ignored(layout, celeba_in, is_whole):
    folder = celeba_in(layout)
    for name in (".DS_Store", "README.txt", "__MACOSX/._000001.jpg", ".cache/x.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    save_noise(folder / "img_celeba" / "000001.jpg")  # before alignment

    assert is_whole(folder)


@pytest.mark.parametrize("layout", ["official", "zip"])
def test_stray_pictures_are_ignored(layout, celeba_in, is_whole):
    folder = celeba_in(layout)
    save_noise(folder / "overview.png")

    assert is_whole(folder)


def test_an_unpacked_folder_is_preferred_to_its_archive(celeba, celeba_made, is_whole):
    (celeba / ZIP).write_bytes(b"half a download")

    assert is_whole(celeba)


def test_an_empty_folder_falls_back_to_the_archive(celeba_in, is_whole):
    folder = celeba_in("zip")
    (folder / IMAGES).mkdir()

    assert is_whole(folder)


def test_large_folders_are_not_searched(celeba, is_whole, monkeypatch):
    monkeypatch.setattr("vae.data.celeba.layouts.MAX_ENTRIES", 2)

    assert is_whole(celeba)


def test_lists_beside_shards_do_not_hide_them(celeba_made, tmp_path, is_whole):
    """A failed download leaves the lists without the archive."""
    folder = tmp_path / "celeba"
    shutil.copytree(celeba_made("parquet"), folder)
    shutil.copy(celeba_made("official") / PARTITION, folder)

    assert is_whole(folder)


def test_stray_parquet_files_are_ignored(celeba, is_whole):
    (celeba / "latents.parquet").write_bytes(b"PAR1")
    assert is_whole(celeba)

    (celeba / PARTITION).unlink()
    assert "lacks the partition" in refusal(celeba)


@pytest.mark.parametrize("mode", [0, 0o400, 0o100])
def test_inaccessible_subfolders_are_skipped(mode, celeba, is_whole, as_nobody, monkeypatch):
    monkeypatch.chdir(celeba.parent)
    assert is_whole(Path("celeba"))  # imports all that is needed
    (celeba / "lost+found" / "inside").mkdir(parents=True)
    (celeba / "link").symlink_to(celeba / "lost+found" / "inside")
    (celeba / "lost+found").chmod(mode)
    try:
        with as_nobody():
            assert is_whole(Path("celeba"))
    finally:
        (celeba / "lost+found").chmod(0o700)


def test_circular_links_are_skipped(celeba, is_whole):
    (celeba / "loop").symlink_to("loop")

    assert is_whole(celeba)


def test_an_inaccessible_parent_is_reported(celeba, as_nobody, monkeypatch):
    monkeypatch.chdir(celeba.parents[1])
    for path in (Path("data/celeba"), Path("data/celeba") / IMAGES):
        celeba.parent.chmod(0)
        try:
            with as_nobody(), pytest.raises(UserError, match=f"there is no {path}"):
                source(path)
        finally:
            celeba.parent.chmod(0o700)


def test_shards_with_the_split_as_folder(celeba_made, tmp_path, is_whole):
    jpegs = read_jpegs(celeba_made("official"))
    for name, split in (("train", "train"), ("validation", "val"), ("test", "test")):
        numbers = range(30)[rows(split)]
        write_shard(tmp_path / "celeba" / name / "0000.parquet", numbers, jpegs)

    assert is_whole(tmp_path / "celeba")


def test_a_layout_without_attributes_is_found(celeba, is_whole):
    (celeba / ATTRIBUTE_LIST).unlink()

    assert set(source(celeba).labels("train")) == {"identities", "landmarks"}
