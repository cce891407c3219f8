"""Decoding, cropping and resizing one image."""

from __future__ import annotations

import io
import os
import struct
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torchvision.transforms.v2.functional import center_crop, resize

from tests.support.icc_profiles import ADOBE, SRGB, cmyk_profile, grey_profile, rgb_profile
from vae.data.base import ImageError
from vae.data.images import (
    BEGINNING,
    FORMATS,
    IMAGE_SUFFIXES,
    decode_square,
    image_format,
    is_image_name,
    limit_splits,
    load_square,
)


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


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "ppm", "tif", "gif", "avif"])
def test_reads_each_format(suffix):
    image = noise(64, 64).resize((64, 64), box=(20, 20, 30, 30))  # smooth, for a GIF's 256 colours
    content = encoded(image, Image.registered_extensions()[f".{suffix}"])

    assert is_image_name(f"FACE.{suffix.upper()}")
    assert image_format(content[:BEGINNING]).upper() in FORMATS
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
        ("I;16B", 0x8000, "TIFF", (128, 128, 128)),
        ("I", 0x8000, "PPM", (128, 128, 128)),
        ("PA", (0, 128), "TIFF", (127, 127, 127)),
        ("YCbCr", (76, 85, 255), "TIFF", (254, 0, 0)),
        ("LAB", (255, 128, 128), "TIFF", (255, 255, 255)),
    ],
)
def test_every_mode_becomes_rgb(mode, colour, format, rgb):
    # Pillow before 13 cannot read the TIFF in YCbCr that it writes without compression
    settings = {"compression": "tiff_lzw"} if format == "TIFF" and mode == "YCbCr" else {}
    content = encoded(Image.new(mode, (20, 16), colour), format, **settings)
    square = decode_square(content, "solid", 8)
    assert np.abs(square.astype(int) - np.array(rgb)).max() <= 2


def test_suffixes_are_those_of_the_formats():
    known = Image.registered_extensions()
    read = {suffix for suffix, name in known.items() if name in (*FORMATS, "MPO")}
    assert read - {".pfm"} == IMAGE_SUFFIXES  # floats


def tiff(width: int, bits: int, after: bytes, **more: int) -> bytes:
    """A grey TIFF by hand; `more` tags as t322=40000."""
    tags = {256: width, 257: width, 258: bits, 262: 1, 277: 1}
    tags |= {int(name[1:]): value for name, value in more.items()}
    entries = [struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags)]
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + bytes(4) + after


def test_twelve_bits_of_grey_are_all_used():
    """Pillow's mode is that of 16 bits, and it writes no file of 12 bits."""
    content = tiff(16, 12, b"\x80\x08\0" * 128, t259=1, t273=110, t279=384)
    assert (decode_square(content, "grey.tif", 8) == 128).all()


def as_srgb(linear: np.ndarray) -> np.ndarray:
    """Linear sRGB as its encoded values, 0 to 255 (IEC 61966-2-1)."""
    low = linear.clip(0, 1)
    return 255 * np.where(low <= 0.0031308, 12.92 * low, 1.055 * low ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_colours_are_converted_from_their_profile_to_srgb(mode, format):
    best = {"JPEG": {"quality": 100}, "AVIF": {"quality": 100}, "WEBP": {"lossless": True}}
    colour = (200, 100, 60)[: len(mode)]
    image, settings = Image.new(mode, (16, 16), colour), best.get(format, {})
    light = (np.resize(colour, 3) / 255) ** 2.19921875
    wanted = as_srgb(light @ np.array(ADOBE).T @ np.linalg.inv(SRGB).T)
    profiles = [(rgb_profile(ADOBE, 2.19921875), wanted)]
    if format == "JPEG":
        profiles.append((profiles[0][0] + bytes(70_000), wanted))  # in two parts
    if mode == "L" and format in ("JPEG", "PNG", "TIFF"):  # the others have no grey
        profiles.append((grey_profile(1), as_srgb(np.resize(colour, 3) / 255)))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profiles += [(profile, np.resize(colour, 3)) for profile in (srgb, b"damaged")]
    for profile, expected in profiles:
        found = decode_square(encoded(image, format, icc_profile=profile, **settings), "x", 8)
        assert np.abs(found - expected).max() <= 2.5


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_is_converted_by_its_profile(format):
    for ink, grey in (((0, 255, 255, 0), 255), ((255, 0, 0, 0), 0)):  # else red and cyan
        content = encoded(Image.new("CMYK", (16, 16), ink), format, icc_profile=cmyk_profile())
        assert np.abs(decode_square(content, "x", 8).astype(int) - grey).max() <= 2


def test_a_jpeg_of_srgb_keeps_the_quick_way(monkeypatch):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    content = encoded(noise(64, 64), icc_profile=srgb)
    monkeypatch.setattr(Image, "open", None)
    decode_square(content, "face.jpg", 16)


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
    assert (decode_square(encoded(image, "PNG", exif=b"x"), "odd", 32) == np.asarray(image)).all()
    wrong = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2)  # a resolution that is a text
    wrong += struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0) + struct.pack(">HHI", 282, 2, 4)
    jpeg = encoded(image, exif=wrong + b"abc\0" + bytes(4))
    assert (decode_square(jpeg, "odd", 32) == turn(by_pillow(encoded(image)))).all()
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
        (encoded(Image.new("I", (8, 8), 200), "TIFF"), "32 bits"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC is not supported: convert to JPEG"),
    ],
)
def test_non_images_are_named_with_their_kind(content, says):
    with pytest.raises(ImageError, match=rf"face\.jpg.*{says}"):
        decode_square(content, "face.jpg", 16)


def resized_header(format: str, width: int, height: int) -> bytes:
    """An image of 16x16 pixels whose header says otherwise."""
    content = encoded(Image.new("RGB", (16, 16)), format)
    if format == "PPM":
        return content.replace(b"16 16", b"%d %d" % (width, height))
    start, order = {
        "JPEG": (content.find(b"\xff\xc0") + 5, ">HH"),
        "PNG": (16, ">II"),
        "GIF": (6, "<HH"),
        "BMP": (18, "<ii"),
        "AVIF": (content.find(b"ispe") + 8, ">II"),
    }[format]
    size = (height, width) if format == "JPEG" else (width, height)
    packed = struct.pack(order, *size)
    if format == "PNG":
        packed += content[24:29]
        packed += struct.pack(">I", zlib.crc32(b"IHDR" + packed))
    return content[:start] + packed + content[start + len(packed) :]


@pytest.mark.parametrize("side", [11_000, 16_000])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "PPM", "AVIF"])
def test_too_many_pixels_are_refused_by_the_header(format, side, recwarn):
    content = resized_header(format, side, side)
    with pytest.raises(ImageError, match=r"x\.jpg: too large: more than 120,000,000 pixels"):
        decode_square(content, "x.jpg", 16)
    assert not recwarn.list  # Pillow's own


def test_a_tile_larger_than_the_image_is_refused():
    content = tiff(16, 8, bytes(36), t259=5, t322=40000, t323=40000, t324=8, t325=9)
    with pytest.raises(ImageError, match="too large: more than 120,000,000 pixels"):
        decode_square(content, "x.tif", 16)


def test_a_jpeg_of_many_scans_is_refused():
    """Of 120 million pixels and 300 KB, it would take minutes to decode."""
    content = encoded(noise(64, 64), progressive=True)
    start = content.rindex(b"\xff\xda")
    last_scan = content[start:-2]
    decode_square(content[:start] + 20 * last_scan + content[-2:], "x.jpg", 16)
    with pytest.raises(ImageError, match=r"x\.jpg: a JPEG image of more than 100 scans"):
        decode_square(content[:start] + 101 * last_scan + content[-2:], "x.jpg", 16)


def test_no_image_starts_a_program(tmp_path, monkeypatch):
    """Pillow would start Ghostscript, `gs`, for the second."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch '{tmp_path}/started'\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # not looked for yet
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    with Image.open(io.BytesIO(eps)) as image, suppress(OSError):
        image.load()
    assert (tmp_path / "started").exists()
    (tmp_path / "started").unlink()
    file = tmp_path / "face.jpg"
    file.write_bytes(eps)
    with pytest.raises(ImageError, match=r"face\.jpg: not an image, but text"):
        load_square(file, 16)
    assert not (tmp_path / "started").exists()


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
