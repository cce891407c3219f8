"""Decoding, cropping and resizing one image."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data_sets import save_noise
from vae.data.images import is_image_name, limit_splits, load_square
from vae.errors import UserError


def solid(mode: str, colour: object, file: Path) -> Path:
    Image.new(mode, (20, 16), colour).save(file)  # type: ignore[arg-type]
    return file


@pytest.mark.parametrize(
    ("crop", "box"),
    [(None, (0, 20, 178, 198)), (148, (15, 35, 163, 183)), (300, (0, 20, 178, 198))],
)
def test_crops_the_centre_then_resizes_with_antialiasing(tmp_path, crop, box):
    file = tmp_path / "face.png"
    noise = np.random.default_rng(0).integers(0, 256, (218, 178, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)

    square = load_square(file, 64, crop)

    expected = Image.fromarray(noise).crop(box).resize((64, 64), Image.Resampling.BILINEAR)
    assert square.shape == (64, 64, 3)
    assert square.dtype == np.uint8
    assert np.abs(square.astype(int) - np.asarray(expected).astype(int)).max() <= 1


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "ppm", "tif", "gif"])
def test_reads_each_format(tmp_path, suffix):
    file = save_noise(tmp_path / f"face.{suffix}", 64, 64)
    reference = load_square(save_noise(tmp_path / "face.png", 64, 64), 32)

    assert is_image_name(file.name.upper())
    assert np.abs(load_square(file, 32).astype(int) - reference.astype(int)).mean() < 8


@pytest.mark.parametrize(
    ("mode", "colour", "suffix", "rgb"),
    [
        ("L", 90, "pgm", (90, 90, 90)),
        ("1", 1, "png", (255, 255, 255)),
        ("CMYK", (0, 255, 255, 0), "tif", (255, 0, 0)),
        ("I;16", 0x8000, "png", (128, 128, 128)),  # PIL's own conversion makes this white
        ("I;16", 0x8000, "tif", (128, 128, 128)),
        ("RGBA", (200, 0, 0, 0), "png", (255, 255, 255)),  # wholly transparent: the paper
        ("RGBA", (0, 0, 0, 128), "webp", (127, 127, 127)),
        ("LA", (10, 255), "png", (10, 10, 10)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, colour, suffix, rgb):
    square = load_square(solid(mode, colour, tmp_path / f"solid.{suffix}"), 8)

    assert np.abs(square.astype(int) - np.array(rgb)).max() <= 1


def test_a_palette_with_a_transparent_colour_comes_out_on_white(tmp_path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 0, 0, 255])
    image.save(tmp_path / "see_through.png", transparency=1)
    image.save(tmp_path / "solid.png")

    assert (load_square(tmp_path / "see_through.png", 8) == 255).all()
    assert (load_square(tmp_path / "solid.png", 8) == (0, 0, 255)).all()


def test_applies_the_exif_orientation(tmp_path):
    upright = Image.fromarray(np.repeat(np.arange(0, 256, 8, dtype=np.uint8), 32).reshape(32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned: show it rotated by 90 degrees
    upright.rotate(90).save(tmp_path / "turned.png", exif=exif)

    assert (load_square(tmp_path / "turned.png", 32)[..., 0] == np.asarray(upright)).all()


def test_takes_an_open_file(tmp_path):
    file = save_noise(tmp_path / "face.png")

    assert (load_square(io.BytesIO(file.read_bytes()), 16) == load_square(file, 16)).all()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.jpg", b"", "empty"),
        ("text.jpg", b"404: not found\n", "text"),
        ("page.jpg", b"<!DOCTYPE html><html>", "HTML"),
        ("archive.png", b"PK\x03\x04\0\0\0", "zip"),
        ("junk.png", b"\x80\x81\x82" * 30, "no format"),
        ("float.tiff", None, "floats"),
    ],
)
def test_what_is_no_image_is_named_with_what_it_is(tmp_path, name, content, says):
    file = tmp_path / name
    if content is None:
        Image.new("F", (8, 8), 0.5).save(file)
    else:
        file.write_bytes(content)

    with pytest.raises(UserError, match=f"{name}.*{says}"):
        load_square(file, 16)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "pgm", "bmp"])
@pytest.mark.parametrize("kept", [0.02, 0.6])
def test_a_truncated_image_is_said_to_be(tmp_path, suffix, kept):
    whole = save_noise(tmp_path / f"whole.{suffix}", 200, 200).read_bytes()
    file = tmp_path / f"cut.{suffix}"
    file.write_bytes(whole[: max(12, int(kept * len(whole)))])

    with pytest.raises(UserError, match=rf"cut\.{suffix}.*truncated"):
        load_square(file, 16)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.png.*No such file"):
        load_square(tmp_path / "gone.png", 16)


@pytest.mark.parametrize("sizes", [(80, 10, 10), (162770, 19867, 19962), (998, 1, 1)])
def test_a_limit_is_shared_in_proportion_and_grows_steadily(sizes):
    there = dict(zip(("train", "val", "test"), sizes, strict=True))
    total = sum(sizes)
    last = dict.fromkeys(there, 1)
    for limit in sorted((10, 11, 12, 13, 25, 50, 99, total // 3, total - 1)):
        used = limit_splits(there, limit)
        assert sum(used.values()) == min(limit, total)
        for split, size in there.items():
            assert last[split] <= used[split] <= size
            assert abs(used[split] - limit * size / total) <= 2
        last = used
    assert limit_splits(there, None) == limit_splits(there, total + 1) == there
