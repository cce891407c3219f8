"""CelebA in each of its layouts is found, and gives the same images, splits and labels."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
import pytest

from tests.support.celeba_shards import (
    ATTRIBUTE_LIST,
    IMAGES,
    PARTITION,
    ROWS,
    SIZES,
    ZIP,
    by_pil,
    edit_shard,
    pack,
    require_packed,
    require_whole,
    set_column,
    source,
    vae_pack,
)
from tests.support.celeba_stand_in import ATTRIBUTES, LAYOUTS
from tests.support.celeba_stand_in import names as all_names
from tests.support.data_sets import save_noise
from vae.data.celeba import layouts

KINDS = {
    **{layout: {"attributes", "identities", "landmarks"} for layout in LAYOUTS},
    "kaggle": {"attributes", "landmarks"},
    "parquet": {"attributes", "identities"},
}


@pytest.mark.parametrize("crop", [148, None])
def test_pixels_equal_pillows(crop, celeba_made, jpegs):
    for size in (16, crop or 178):  # at the second nothing is resized
        expected = np.stack([by_pil(jpeg, crop, size) for jpeg in jpegs[ROWS["train"]]])
        found = source(celeba_made("official"), crop=crop, image_size=size)
        assert (found.read("train", 0, SIZES["train"]) == expected).all()
    assert len(np.unique(expected, axis=0)) == 24  # no two alike


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_gives_images_splits_and_labels(layout, celeba_in, pixels, capsys):
    folder = celeba_in(layout)
    before = sorted(folder.rglob("*"))
    faces = source(folder)
    require_whole(faces, pixels)
    sent = pickle.dumps(faces)  # as to a worker
    assert len(sent) < 5_000  # no labels, no images
    assert (pickle.loads(sent).read("train", 5, 20) == pixels[5:20]).all()

    code, found, err = vae_pack(capsys, folder)
    assert (code, "error" in err) == (0, False)
    assert (found["images"], found["skipped"]) == (SIZES, 0)
    packed = pack(folder)
    assert set(found["labels"]) == set(packed.label_names()) == KINDS[layout]
    assert found["cache"] == str(packed.folder)
    require_packed(packed, pixels)
    assert sorted(folder.rglob("*")) == before  # nothing is unpacked


def test_any_range_reads_in_any_order(celeba_made, pixels):
    """From a zip, and across the row groups of two shards."""
    spans = [(start, stop) for start in range(24) for stop in range(start + 1, 25)]
    np.random.default_rng(0).shuffle(spans)
    for faces in (source(celeba_made("zip")), source(celeba_made("parquet"))):
        assert (faces.read("val", 1, 3) == pixels[25:27]).all()
        for start, stop in [*((n, n + 1) for n in reversed(range(24))), *spans[:40]]:
            assert (faces.read("train", start, stop) == pixels[start:stop]).all()


@pytest.mark.parametrize("layout", ["official", "parquet"])
def test_num_images_needs_only_the_first_of_each_split(layout, celeba_in, pixels):
    folder = celeba_in(layout)
    sizes = source(folder, num_images=15).sizes()
    assert sum(sizes.values()) == 15
    assert sizes == pytest.approx({"train": 12, "val": 2, "test": 1}, abs=1)
    used = {split: np.arange(30)[rows][: sizes[split]] for split, rows in ROWS.items()}
    for number in np.setdiff1d(np.arange(30), np.concatenate([*used.values()])):
        if layout == "official":
            (folder / IMAGES / f"{number + 1:06d}.jpg").write_bytes(b"not to be read")

    require_packed(pack(folder, num_images=15), pixels, used)


@pytest.mark.parametrize("value_of", [lambda flag: 2 * flag - 1, float], ids=["±1", "float"])
def test_shards_of_other_types_and_columns(value_of, celeba_in, pixels):
    folder = celeba_in("parquet")
    shards = list(folder.rglob("*.parquet"))

    def change(table):
        table = set_column("image", lambda cells: [cell["bytes"] for cell in cells])(table)
        for name in ATTRIBUTES:
            table = set_column(name, lambda cells: [value_of(cell) for cell in cells])(table)
        return table.select(table.column_names[::-1])

    for file in shards:
        edit_shard(file, change)
    require_whole(source(folder), pixels)

    for file in shards:
        edit_shard(file, lambda table: table.select(["image"]))
    assert pack(folder).label_names() == {}


@pytest.mark.parametrize(
    ("method", "above"),
    [
        (ZIP_STORED, ""),
        (ZIP_DEFLATED, "./"),
        (ZIP_DEFLATED, "celeba/img_align_celeba/"),
        (ZIP_DEFLATED, "img_align_celeba\\"),
    ],
)
def test_archives_of_other_programs(method, above, celeba_in, jpegs, pixels):
    folder = celeba_in("zip")
    with ZipFile(folder / ZIP, "w", method) as archive:
        for name in (f"{above}README.txt", "__MACOSX/._000001.jpg", f"{above}.hidden.jpg"):
            archive.writestr(name, b"")
        for name, jpeg in reversed([*zip(all_names(30), jpegs, strict=True)]):
            with archive.open(above + name, "w", force_zip64=name > "000015.jpg") as member:
                member.write(jpeg)
    require_whole(source(folder), pixels)

    whole = (folder / ZIP).read_bytes()
    (folder / ZIP).write_bytes(b"PK\3\4" + bytes(1000) + whole)  # as a self-extracting one
    require_whole(source(folder), pixels)


SNAPSHOTS = Path("hub", "datasets--flwrlabs--celeba", "snapshots")


def flatten(folder, _made):
    for file in (folder / IMAGES).iterdir():
        file.rename(folder / file.name)


def link(folder, _made):
    (folder / IMAGES).rename(folder.parent / "elsewhere")
    (folder / IMAGES).symlink_to(folder.parent / "elsewhere")
    (folder / "loop").symlink_to(folder)
    (folder / "circle").symlink_to("circle")


def archive_in_img(folder, made):
    shutil.rmtree(folder / "Img" / IMAGES)
    shutil.copy(made("zip") / ZIP, folder / "Img")


def clutter(folder, _made):
    for name in (".DS_Store", "README.txt", "__MACOSX/._000001.jpg", ".cache/x.png", "x.parquet"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    save_noise(folder / "img_celeba" / "000001.jpg")  # before alignment
    save_noise(folder / "overview.png")


def revisions(folder, made):
    """As in Hugging Face's cache: links to blobs, and another revision, which lacks a shard."""
    for number, shard in enumerate(folder.rglob("*.parquet")):
        blob = shard.rename(folder / f"{number}abc")
        shard.symlink_to(blob)
    for revision in ("abc", "ghi"):
        shutil.copytree(made("parquet"), folder / SNAPSHOTS / revision)
        next((folder / SNAPSHOTS / revision).rglob("valid*")).unlink()
    (folder / SNAPSHOTS / "def").mkdir()
    (folder / "img_align+identity+attr").rename(folder / SNAPSHOTS / "def" / "data")


def half_a_download(folder, _made):
    (folder / ZIP).write_bytes(b"half")
    (folder / ATTRIBUTE_LIST).write_bytes(b"<html>")


FOUND = {  # a layout, a change of its folder, and the path that is given
    "deeper": ("drive", lambda f, _: shutil.copytree(f, f.parent / "x" / "a" / "b"), "../x"),
    "images of another name": ("official", lambda f, _: (f / IMAGES).rename(f / "faces"), ""),
    "images beside the lists": ("official", flatten, ""),
    "the images' folder": ("official", lambda f, _: None, IMAGES),
    "the authors' images": ("drive", lambda f, _: None, f"Img/{IMAGES}"),
    "Kaggle's inner folder": ("kaggle", lambda f, _: None, f"{IMAGES}/{IMAGES}"),
    "an archive in the authors' folders": ("drive", archive_in_img, ""),
    "it alone": ("drive", archive_in_img, f"Img/{ZIP}"),
    "half an archive": ("official", lambda f, _: (f / ZIP).write_bytes(b"half"), ""),
    "links": ("official", link, ""),
    "other files": ("official", clutter, ""),
    "other files beside an archive": ("zip", clutter, ""),
    "Hugging Face's cache": ("parquet", revisions, ""),
    "a partition beside shards": (
        "parquet", lambda f, made: shutil.copy(made("official") / PARTITION, f), ""
    ),
    "half a download beside shards": ("parquet", half_a_download, ""),
}  # fmt: skip


@pytest.mark.parametrize(("layout", "change", "path"), FOUND.values(), ids=FOUND)
def test_celeba_is_found(layout, change, path, celeba_in, celeba_made, pixels):
    folder = celeba_in(layout)
    change(folder, celeba_made)

    require_whole(source(folder / path), pixels)


def test_relative_home_and_default_paths(celeba, pixels, monkeypatch, tmp_path):
    monkeypatch.chdir(celeba.parent)
    monkeypatch.setenv("HOME", str(tmp_path))

    for path in (Path("celeba"), Path("~/data/celeba"), None):
        require_whole(source(path, root=str(tmp_path / "data")), pixels)


def test_large_folders_are_not_searched(celeba, pixels, monkeypatch):
    monkeypatch.setattr(layouts, "MAX_ENTRIES", 2)

    require_whole(source(celeba), pixels)


@pytest.mark.parametrize("mode", [0, 0o400])
def test_inaccessible_subfolders_are_skipped(mode, celeba, pixels, as_nobody, monkeypatch):
    monkeypatch.chdir(celeba.parent)
    require_whole(source(Path("celeba")), pixels)  # imports all that is needed
    (celeba / "lost+found" / "inside").mkdir(parents=True)
    (celeba / "link").symlink_to(celeba / "lost+found" / "inside")
    (celeba / "lost+found").chmod(mode)
    try:
        with as_nobody():
            require_whole(source(Path("celeba")), pixels)
    finally:
        (celeba / "lost+found").chmod(0o700)
