"""Decoding, cropping and resizing one image."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import center_crop, resize

from tests.support.data_sets import save_noise
from vae.data.base import ImageError
from vae.data.images import decode_square, is_image_name, limit_splits, load_square


def solid(mode: str, colour: object, file: Path) -> Path:
    Image.new(mode, (20, 16), colour).save(file)  # type: ignore[arg-type]
    return file


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A picture with something in each corner and in every frequency that JPEG keeps."""
    random = np.random.default_rng(0)
    shape = (height // 3 + 1, width // 3 + 1, {"L": 1, "RGB": 3, "CMYK": 4}[mode])
    small = random.integers(0, 256, shape, dtype=np.uint8)
    bands = [Image.fromarray(band).resize((width, height)) for band in np.moveaxis(small, 2, 0)]
    return Image.merge(mode, bands)


def as_jpeg(image: Image.Image, **settings: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, "JPEG", **settings)
    return content.getvalue()


def by_pillow(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


BOXES = {  # of 178 x 218: left, top, right, bottom, counted by hand
    None: (0, 20, 178, 198),
    300: (0, 20, 178, 198),
    178: (0, 20, 178, 198),
    148: (15, 35, 163, 183),
    140: (19, 39, 159, 179),
    128: (25, 45, 153, 173),
}


@pytest.mark.parametrize("crop", BOXES)
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_centre_crop_then_antialiased_resize(tmp_path, suffix, crop):
    file = tmp_path / f"face.{suffix}"
    noise(178, 218).save(file)
    cut = Image.open(file).crop(BOXES[crop])
    for size in (32, 64, 128):
        square = load_square(file, size, crop)
        assert square.shape == (size, size, 3)
        assert square.dtype == np.uint8
        assert (square == np.asarray(cut.resize((size, size), Image.Resampling.BILINEAR))).all()


def test_resize_equals_torchvisions(tmp_path):
    noise(178, 218).save(tmp_path / "face.png")
    pixels = torch.tensor(np.array(noise(178, 218))).permute(2, 0, 1)

    expected = resize(center_crop(pixels, [148, 148]), [64, 64], antialias=True).permute(1, 2, 0)
    found = load_square(tmp_path / "face.png", 64, 148).astype(int)
    assert np.abs(found - expected.numpy().astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        ("RGB", {"subsampling": "4:2:0"}),
        ("RGB", {"subsampling": "4:2:2"}),
        ("RGB", {"subsampling": "4:4:4"}),
        ("RGB", {"progressive": True}),
        ("RGB", {"restart_marker_blocks": 3}),
        ("RGB", {"keep_rgb": True}),
        ("L", {}),
        ("L", {"progressive": True}),
    ],
)
def test_jpeg_pixels_equal_pillows(mode, settings):
    for size in ((178, 218), (177, 219), (33, 17), (9, 8), (1, 1)):
        for quality in (30, 100):
            content = as_jpeg(noise(*size, mode), quality=quality, **settings)
            expected = by_pillow(content)

            side = min(size)
            left, top = (size[0] - side) // 2, (size[1] - side) // 2
            square = decode_square(content, "face.jpg", side)  # of its own size: not resized
            assert (square == expected[top : top + side, left : left + side]).all(), (size, quality)


def test_cmyk_jpeg_pixels_equal_pillows():
    for colour, rgb in (((0, 255, 255, 0), (255, 0, 0)), ((0, 0, 0, 255), (0, 0, 0))):
        content = as_jpeg(Image.new("CMYK", (16, 16), colour), quality=100)
        assert np.abs(decode_square(content, "print.jpg", 8).astype(int) - rgb).max() <= 2
    content = as_jpeg(noise(64, 64, "CMYK"))
    assert (decode_square(content, "print.jpg", 64) == by_pillow(content)).all()


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


def test_transparent_palettes_are_on_white(tmp_path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 0, 0, 255])
    image.save(tmp_path / "see_through.png", transparency=1)
    image.save(tmp_path / "solid.png")

    assert (load_square(tmp_path / "see_through.png", 8) == 255).all()
    assert (load_square(tmp_path / "solid.png", 8) == (0, 0, 255)).all()


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_applies_the_exif_orientation(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.asarray(noise(48, 48))
    turned = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(stored),
    }
    content = io.BytesIO()
    noise(48, 48).save(content, format, exif=exif, **FINEST[format])

    found = decode_square(content.getvalue(), "turned", 48).astype(int)
    assert np.abs(found - turned[orientation]).mean() < 2


FINEST: dict[str, Any] = {"PNG": {}, "JPEG": {"quality": 100, "subsampling": 0}}


def test_applies_an_orientation_wherever_it_stands():
    exif = Image.Exif()
    exif[0x0112] = 3
    in_exif = as_jpeg(noise(32, 32), exif=exif)
    comment = b"\xff\xfe\xff\xff" + bytes(0xFFFD)  # the longest that there is
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="3"/></x:xmpmeta>'

    turned = by_pillow(as_jpeg(noise(32, 32)))[::-1, ::-1]
    for late in (in_exif[:2] + 2 * comment + in_exif[2:], as_jpeg(noise(32, 32), xmp=xmp)):
        assert (decode_square(late, "turned.jpg", 32) == turned).all()


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
def test_non_images_are_named_with_their_kind(tmp_path, name, content, says):
    file = tmp_path / name
    if content is None:
        Image.new("F", (8, 8), 0.5).save(file)
    else:
        file.write_bytes(content)

    with pytest.raises(ImageError, match=f"{name}.*{says}"):
        load_square(file, 16)


def test_a_jpeg_damaged_in_the_middle_is_reported(tmp_path):
    """Pillow decodes it to a face with stripes, and says nothing."""
    noise = np.random.default_rng(0).integers(0, 256, (218, 178, 3), np.uint8)
    file = tmp_path / "face.jpg"
    Image.fromarray(noise).save(file)
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 512] = bytes(512)  # as a download that lost a piece
    file.write_bytes(content)
    with Image.open(file) as image:
        image.load()

    with pytest.raises(ImageError, match=r"face\.jpg: the JPEG image is damaged .*Corrupt"):
        load_square(file, 16)


def test_trailing_bytes_are_ignored(tmp_path):
    file = save_noise(tmp_path / "face.jpg", 64, 64)
    whole = load_square(file, 16)
    file.write_bytes(file.read_bytes()[:-2] + b"\0" * 7 + b"\xff\xd9" + b"after the end")

    assert (load_square(file, 16) == whole).all()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "pgm", "bmp"])
@pytest.mark.parametrize("kept", [0.02, 0.6, 0.99])
def test_a_truncated_image_is_reported(tmp_path, suffix, kept):
    whole = save_noise(tmp_path / f"whole.{suffix}", 200, 200).read_bytes()
    file = tmp_path / f"cut.{suffix}"
    file.write_bytes(whole[: max(12, int(kept * len(whole)))])

    with pytest.raises(ImageError, match=rf"cut\.{suffix}.*truncated"):
        load_square(file, 16)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"gone\.png.*No such file"):
        load_square(tmp_path / "gone.png", 16)


@pytest.mark.parametrize("sizes", [(80, 10, 10), (162770, 19867, 19962), (998, 1, 1)])
def test_limits_are_divided_in_proportion(sizes):
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
