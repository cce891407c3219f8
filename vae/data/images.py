"""Decoding of image files, and limits on their number, for the sources that read files."""

from __future__ import annotations

import io
import math
import os
import re
import struct
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vae.data.base import ImageError
from vae.data.colours import Decoded, flatten, grey_bits, is_srgb
from vae.utils.errors import UserError
from vae.utils.files import read_bytes
from vae.utils.text import plural, printable

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

Square = tuple[int, int, int]  # left, top, side, in pixels of the picture
SquareOf = Callable[[int, int], Square]  # of width and height

# First bytes of the formats that are read, and of HEIC. Others of Pillow's start programs
# (Ghostscript for EPS) or have rarely used, rarely tested decoders.
_IMAGE_BEGINNINGS = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG",
    "WebP": rb"RIFF.{4}WEBP",
    "GIF": rb"GIF8[79]a",
    "BMP": rb"BM.{4}\0{4}",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "PPM": rb"P[1-6]\s",
    "AVIF": rb".{4}ftyp(avi[fs]|m[is]f1.*avif)",
    "HEIC": rb".{4}ftyp(hei|hev|m[is]f1)",
}
_READ = [name for name in _IMAGE_BEGINNINGS if name != "HEIC"]
FORMATS = tuple(name.upper() for name in _READ)  # Pillow's names
FORMATS_TEXT = ", ".join(_READ).replace("PPM", "PPM, PGM, PBM")
_JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")
_OTHER_SUFFIXES = (".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".avifs")
IMAGE_SUFFIXES = frozenset((*_JPEG_SUFFIXES, *_OTHER_SUFFIXES, ".ppm", ".pgm", ".pbm", ".pnm"))
HEIC_SUFFIXES = frozenset((".heic", ".heif", ".hif"))

MAX_PIXELS = 120_000_000  # of an image: 1 GB while it is decoded; the largest cameras have 108
MAX_BYTES = 1 << 29  # of a file: as many pixels in 4 bytes each, not compressed

MAX_SCANS = 100  # of a JPEG; programs write 10 to 20, and each costs as much as the whole image

FIX = "Fix or remove it."
CONVERT_HEIC = "HEIC is not supported: convert to JPEG (`magick mogrify -format jpg *.heic`)."

_OTHER_BEGINNINGS = {"a zip archive": b"PK\x03\x04", "a PDF": b"%PDF", "an HTML or XML page": b"<"}
_JPEG_SCAN = b"\xff\xda\0"  # marker, and the first byte of its length
_TILE_SIZE = (322, 323)  # tags of TIFF
BEGINNING = 64  # bytes that tell the format


def is_image_name(name: str) -> bool:
    """Return whether a file's name ends in one of `IMAGE_SUFFIXES`, in any case."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def image_format(beginning: bytes) -> str | None:
    """Return the image format that a file's first bytes tell; None for other files."""
    formats = _IMAGE_BEGINNINGS.items()
    return next((name for name, start in formats if re.match(start, beginning, re.DOTALL)), None)


def count_suffixes(names: Iterable[str]) -> str:
    """Format which files there are: '12 files: 8 .txt, 4 without a suffix'."""
    counts = Counter(Path(name).suffix.lower() or "without a suffix" for name in names)
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common(5))
    return printable(plural(counts.total(), "file") + (f": {kinds}" if kinds else ""))


def read_image_file(file: Path) -> bytes:
    """Return the content of a regular file of at most MAX_BYTES. ImageError: it cannot be read."""
    try:
        return read_bytes(file, MAX_BYTES)
    except OSError as error:
        raise ImageError(f"{file}: cannot be read: {error.strerror}.") from error


def load_square(file: Path, size: int, square: SquareOf | int | None = None) -> np.ndarray:
    """Call `decode_square` on a file; ImageError also if it cannot be opened."""
    return decode_square(read_image_file(file), str(file), size, square)


def decode_square(
    content: bytes,
    name: str,
    size: int,
    square: SquareOf | int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Decode an image, cut a square and resize it.

    The orientation in its EXIF data is applied, and its ICC profile: the result is sRGB.
    Transparent parts come out white, the paper that such pictures are mostly drawn for;
    16-bit grey keeps its upper 8 bits; of an animation the first frame counts.

    The filter is bilinear with antialiasing, as torchvision's Resize: it cannot
    overshoot, so no halos are learned, and nothing is clipped.

    Args:
        content: the file's.
        name: for messages.
        size: side of the result, pixels.
        square: side of the square cut from the centre, pixels; None, or more than there
            is, takes the largest square. Or a function of width and height that returns
            left, top and side: beyond the edges the pixels at the edge are repeated.
        max_pixels: at most MAX_PIXELS.

    Returns:
        RGB, (size, size, 3) uint8.

    Raises:
        ImageError: it cannot be read, or has more than `max_pixels`; names the file and its
            apparent format.
    """
    from PIL import Image

    if content.startswith(b"\xff\xd8\xff") and content.count(_JPEG_SCAN) > MAX_SCANS:
        raise ImageError(f"{name}: a JPEG image of more than {MAX_SCANS} scans. {FIX}")
    square_of = square if callable(square) else partial(centre_square, crop=square)
    given = content, name, square_of, max_pixels
    decoded = _decode_plain_jpeg(*given) or _decode(*given)
    # Cropped before, not by resize(box=): that lets pixels outside the box bleed in. Converted
    # after: of a photograph of 12 million pixels it would take four times as long as to decode it.
    resized = decoded.image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(decoded.transform.apply(resized) if decoded.transform else resized)


def centre_square(width: int, height: int, crop: int | None = None) -> Square:
    """Return the centre square of `crop` pixels, or the largest: left, top, side."""
    side = min(width, height, crop or max(width, height))
    return (width - side) // 2, (height - side) // 2, side


def limit_splits(sizes: dict[str, int], limit: int | None) -> dict[str, int]:
    """Divide `limit` images over the splits in proportion, at least 1 each.

    A larger limit never uses fewer of any split, so that taking each split's first
    images gives subsets of one another.

    Args:
        sizes: images there are per split, each at least 1.
        limit: at least as many as there are splits; None for no limit.
    """
    # How deep in its split each image lies, 0 to 1; the first of each comes before all.
    depths = [(np.arange(size) + 0.5) / size for size in sizes.values()]
    for depth in depths:
        depth[0] = -1
    split_of = np.repeat(np.arange(len(sizes)), list(sizes.values()))
    used = split_of[np.argsort(np.concatenate(depths), kind="stable")[:limit]]
    counts = np.bincount(used, minlength=len(sizes))
    return {split: int(count) for split, count in zip(sizes, counts, strict=True)}


def _decode_plain_jpeg(
    content: bytes, name: str, square_of: SquareOf, max_pixels: int
) -> Decoded | None:
    """Decode a square of a plain JPEG; None for files left to Pillow.

    The decoder, libjpeg-turbo, is also Pillow's, so the pixels are the same; without
    Pillow's way to it and its copies a third of the time is saved. And it says what Pillow
    keeps to itself: that bytes in the middle are damaged.
    """
    if not content.startswith(b"\xff\xd8\xff") or b"\xff\xe1" in content:
        return None  # the marker of EXIF and XMP data, which may turn the picture
    if b"ICC_PROFILE\0" in content and not _is_srgb_jpeg(content):
        return None
    import simplejpeg
    from PIL import Image

    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours not in ("YCbCr", "Gray", "RGB"):
            return None  # CMYK, which it converts otherwise
        _require_size(width * height, name, max_pixels)
        pixels = simplejpeg.decode_jpeg(content, "RGBX")  # four bytes each, as in Pillow's memory
    except ValueError as error:
        reason = str(error)
        if not reason.startswith("Corrupt JPEG data"):
            return None  # truncated, which Pillow says better
        left_over = re.search(r"(\d+) extraneous bytes", reason)
        if left_over and int(left_over[1]) < len(content) // 100:
            return None  # padding, of no harm
        raise ImageError(f"{name}: the JPEG image is damaged ({reason}). {FIX}") from error
    left, top, side = square_of(width, height)
    if not (0 <= left <= width - side and 0 <= top <= height - side):
        return None
    first, last = top * width + left, (top + side - 1) * width + left + side
    rows = pixels.reshape(-1, 4)[first:last]  # the square is in it, a row each `width` pixels
    return Decoded(Image.frombytes("RGB", (side, side), rows, "raw", "RGBX", 4 * width))


def _is_srgb_jpeg(jpeg: bytes) -> bool:
    """Return whether the ICC profile of a JPEG image is in one part, and sRGB."""
    start = jpeg.find(b"ICC_PROFILE\0\1\1")  # the first part of one
    length = int.from_bytes(jpeg[start - 2 : start], "big")  # with these two bytes
    return start > 0 and is_srgb(jpeg[start + 14 : start - 2 + length])


def _require_size(pixels: int, name: str, most: int) -> None:
    """Raise an ImageError if an image has more than `most` pixels."""
    if pixels > most:
        raise _too_large(name, most)


def _too_large(name: str, most: int) -> ImageError:
    return ImageError(f"{name}: too large: more than {most:,} pixels. Scale it down.")


def _decode(content: bytes, name: str, square_of: SquareOf, max_pixels: int) -> Decoded:
    """Decode an image of any of FORMATS, apply EXIF orientation, return a square of it."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, on sizes and metadata
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                tags = getattr(image, "tag_v2", {})  # of TIFF: its tiles may exceed the image
                tile = math.prod(int(tags.get(tag, 1)) for tag in _TILE_SIZE)
                _require_size(max(image.width * image.height, tile), name, max_pixels)
                image.load()
                with suppress(SyntaxError, TypeError, ValueError, struct.error):  # damaged metadata
                    ImageOps.exif_transpose(image, in_place=True)
                return _cut(image, *square_of(*image.size), name)
    except Image.DecompressionBombError as error:  # Pillow's limit is above MAX_PIXELS
        raise _too_large(name, max_pixels) from error
    except (UserError, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise nearly anything on damaged bytes
        raise ImageError(f"{name}: {_describe_damage(content, error)} {FIX}") from error


def _cut(image: ImageFile, left: int, top: int, side: int, name: str) -> Decoded:
    """Cut a square, and repeat the pixels at the edges where it reaches beyond them.

    Reflected, a face that fills the picture would get halves of others beside it.
    """
    from PIL import Image

    right, bottom = left + side, top + side
    inside = max(0, left), max(0, top), min(image.width, right), min(image.height, bottom)
    decoded = flatten(image.crop(inside), grey_bits(image), name)
    if inside == (left, top, right, bottom):
        return decoded
    margins = [(inside[1] - top, bottom - inside[3]), (inside[0] - left, right - inside[2]), (0, 0)]
    pixels = np.asarray(decoded.image)
    padded = np.pad(pixels, margins[: pixels.ndim], mode="edge")
    return Decoded(Image.fromarray(padded), decoded.transform)


def _describe_damage(content: bytes, error: Exception) -> str:
    """Describe a file that could not be decoded."""
    from PIL import UnidentifiedImageError, features

    start = content[:BEGINNING]
    if not start:
        return "the file is empty (0 bytes)."
    kind = image_format(start)
    if kind == "HEIC":
        return CONVERT_HEIC
    if kind in ("AVIF", "WebP") and not features.check(kind.lower()):
        return f"{kind} is not supported by this build of Pillow: pip install -U pillow."
    if kind and "truncated" in str(error).lower():
        return f"the {kind} image is truncated: its end is missing ({error})."
    if kind:
        reason = "its header cannot be read" if isinstance(error, UnidentifiedImageError) else error
        return f"the {kind} image is truncated or damaged ({reason})."
    for kind, beginning in _OTHER_BEGINNINGS.items():
        if start.lstrip().startswith(beginning):
            return f"not an image, but {kind}."
    text = all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start)
    fault = "not an image, but text" if text else f"in no supported format ({FORMATS_TEXT})"
    return f"{fault}: it begins with {start[:24]!r}."
