"""Decoding, cropping and resizing one image."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import center_crop, resize

from vae.data.base import ImageError
from vae.data.images import decode_square, is_image_name, limit_splits, load_square


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A picture with something in each corner and in every frequency that JPEG keeps."""
    random = np.random.default_rng(0)
    shape = (height // 3 + 1, width // 3 + 1, {"L": 1, "RGB": 3, "CMYK": 4}[mode])
    small = random.integers(0, 256, shape, dtype=np.uint8)
    bands = [Image.fromarray(band).resize((width, height)) for band in np.moveaxis(small, 2, 0)]
    return Image.merge(mode, bands)


def encoded(image: Image.Image, format: str = "JPEG", **settings: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, format, **settings)
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
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_centre_crop_then_antialiased_resize(format, crop):
    content = encoded(noise(178, 218), format)
    cut = Image.open(io.BytesIO(content)).crop(BOXES[crop])
    for size in (32, 128):
        square = decode_square(content, "face", size, crop)
        assert square.shape == (size, size, 3)
        assert square.dtype == np.uint8
        assert (square == np.asarray(cut.resize((size, size), Image.Resampling.BILINEAR))).all()


def test_resize_equals_torchvisions():
    image = noise(178, 218)
    pixels = torch.tensor(np.array(image)).permute(2, 0, 1)
    expected = resize(center_crop(pixels, [148, 148]), [64, 64], antialias=True).permute(1, 2, 0)
    found = decode_square(encoded(image, "PNG"), "face.png", 64, 148).astype(int)
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
        ("CMYK", {}),
    ],
)
def test_jpeg_pixels_equal_pillows(mode, settings):
    for size in ((178, 218), (177, 219), (33, 17), (9, 8), (1, 1)):
        for quality in (30, 100):
            content = encoded(noise(*size, mode), quality=quality, **settings)
            expected = by_pillow(content)

            side = min(size)
            left, top = (size[0] - side) // 2, (size[1] - side) // 2
            square = decode_square(content, "face.jpg", side)  # of its own size: not resized
            assert (square == expected[top : top + side, left : left + side]).all(), (size, quality)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "ppm", "tif", "gif"])
def test_reads_each_format(suffix):
    image = noise(64, 64).resize((64, 64), box=(20, 20, 30, 30))  # smooth, for a GIF's 256 colours
    content = encoded(image, Image.registered_extensions()[f".{suffix}"])

    assert is_image_name(f"FACE.{suffix.upper()}")
    error = decode_square(content, "face", 64) - np.asarray(image, int)
    assert np.abs(error).mean() < 8


@pytest.mark.parametrize(
    ("mode", "colour", "format", "rgb"),
    [
        ("L", 90, "PPM", (90, 90, 90)),
        ("1", 1, "PNG", (255, 255, 255)),
        ("CMYK", (0, 255, 255, 0), "TIFF", (255, 0, 0)),
        ("CMYK", (0, 255, 255, 0), "JPEG", (255, 0, 0)),
        ("I;16", 0x8000, "PNG", (128, 128, 128)),  # PIL's own conversion makes this white
        ("I;16", 0x8000, "TIFF", (128, 128, 128)),
        ("RGBA", (200, 0, 0, 0), "PNG", (255, 255, 255)),  # wholly transparent: the paper
        ("RGBA", (0, 0, 0, 128), "WEBP", (127, 127, 127)),
        ("LA", (10, 255), "PNG", (10, 10, 10)),
    ],
)
def test_every_mode_becomes_rgb(mode, colour, format, rgb):
    square = decode_square(encoded(Image.new(mode, (20, 16), colour), format), "solid", 8)
    assert np.abs(square.astype(int) - np.array(rgb)).max() <= 2


def test_transparent_palettes_are_on_white():
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 0, 0, 255])
    for settings, rgb in (({"transparency": 1}, (255, 255, 255)), ({}, (0, 0, 255))):
        assert (decode_square(encoded(image, "PNG", **settings), "palette", 8) == rgb).all()


TURNED = [  # by EXIF orientation, from 1 on
    lambda image: image,
    lambda image: image[:, ::-1],
    lambda image: image[::-1, ::-1],
    lambda image: image[::-1],
    lambda image: image.swapaxes(0, 1),
    lambda image: np.rot90(image, -1),
    lambda image: image[::-1, ::-1].swapaxes(0, 1),
    lambda image: np.rot90(image),
]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_applies_the_exif_orientation(orientation):
    turn, image, exif = TURNED[orientation - 1], noise(32, 32), Image.Exif()
    exif[0x0112] = orientation
    jpeg = encoded(image, exif=exif)
    comment = b"\xff\xfe\xff\xff" + bytes(0xFFFD)  # the longest that there is
    for content in (jpeg, jpeg[:2] + 2 * comment + jpeg[2:]):
        assert (decode_square(content, "turned", 32) == turn(by_pillow(encoded(image)))).all()
    png = encoded(image, "PNG", exif=exif)
    assert (decode_square(png, "turned", 32) == turn(np.asarray(image))).all()


def test_applies_an_orientation_in_xmp():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="3"/></x:xmpmeta>'
    plain, turned = encoded(noise(32, 32)), encoded(noise(32, 32), xmp=xmp)
    assert (decode_square(turned, "turned.jpg", 32) == by_pillow(plain)[::-1, ::-1]).all()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"404: not found\n", "text"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"PK\x03\x04\0\0\0", "zip"),
        (b"\x80\x81\x82" * 30, "no supported format"),
        (encoded(Image.new("F", (8, 8), 0.5), "TIFF"), "floats"),
    ],
)
def test_non_images_are_named_with_their_kind(content, says):
    with pytest.raises(ImageError, match=rf"face\.jpg.*{says}"):
        decode_square(content, "face.jpg", 16)


def test_a_jpeg_damaged_in_the_middle_is_reported():
    """Pillow decodes it to a face with stripes, and says nothing."""
    random = np.random.default_rng(0).integers(0, 256, (218, 178, 3), np.uint8)
    content = bytearray(encoded(Image.fromarray(random)))
    middle = len(content) // 2
    content[middle : middle + 512] = bytes(512)  # as a download that lost a piece
    by_pillow(bytes(content))

    with pytest.raises(ImageError, match=r"face\.jpg: the JPEG image is damaged .*Corrupt"):
        decode_square(bytes(content), "face.jpg", 16)


def test_trailing_bytes_are_ignored():
    content = encoded(noise(64, 64))
    padded = content[:-2] + b"\0" * 7 + b"\xff\xd9" + b"after the end"
    assert (decode_square(padded, "padded", 16) == decode_square(content, "whole", 16)).all()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "PPM", "BMP"])
@pytest.mark.parametrize("kept", [0.02, 0.6, 0.99])
def test_a_truncated_image_is_reported(format, kept):
    whole = encoded(noise(200, 200), format)
    with pytest.raises(ImageError, match=r"cut\.jpg.*truncated"):
        decode_square(whole[: max(12, int(kept * len(whole)))], "cut.jpg", 16)


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
