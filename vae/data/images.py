"""Decoding of image files, and limits on their number, for the sources that read files."""

from __future__ import annotations

import io
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vae.data.base import ImageError
from vae.utils.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".pgm", ".ppm", ".pbm", ".tif", ".tiff")
)

FIX = "Fix or remove it."

# First bytes of file formats, to describe unreadable files.
_IMAGE_BEGINNINGS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"RIFF": "WebP",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"P4": "PBM",
    b"P5": "PGM",
    b"P6": "PPM",
}
_OTHER_BEGINNINGS = {b"PK\x03\x04": "a zip archive", b"%PDF": "a PDF", b"<": "an HTML or XML page"}


def is_image_name(name: str) -> bool:
    """Return whether a file's name ends in one of `IMAGE_SUFFIXES`, in any case."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def count_suffixes(names: Iterable[str]) -> str:
    """Format which files there are: '12 files: 8 .txt, 4 without a suffix'."""
    counts = Counter(Path(name).suffix.lower() or "without a suffix" for name in names)
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common(5))
    return f"{counts.total()} files: {kinds}" if kinds else "0 files"


def read_image_file(file: Path) -> bytes:
    """Return the content of a file. ImageError: it cannot be read."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise ImageError(f"{file}: cannot be read: {error.strerror}.") from error


def load_square(file: Path, size: int, crop: int | None = None) -> np.ndarray:
    """Call `decode_square` on a file; ImageError also if it cannot be opened."""
    return decode_square(read_image_file(file), str(file), size, crop)


def open_image(file: Path) -> Image:
    """Read a file as RGB, as `decode_square` does before cropping.

    Raises:
        ImageError: it cannot be read; names the file and its apparent format.
    """
    return _decode(read_image_file(file), str(file), lambda image: image)


def decode_square(content: bytes, name: str, size: int, crop: int | None = None) -> np.ndarray:
    """Decode an image, cut its centre square and resize it.

    The orientation in its EXIF data is applied. Transparent parts come out white, the
    paper that such pictures are mostly drawn for; 16-bit grey keeps its upper 8 bits;
    of an animation the first frame counts.

    The filter is bilinear with antialiasing, as torchvision's Resize: it cannot
    overshoot, so no halos are learned, and nothing is clipped.

    Args:
        content: the file's.
        name: for messages.
        size: side of the result, pixels.
        crop: side of the square cut from the centre, pixels; None, or more than there
            is, takes the largest square.

    Returns:
        RGB, (size, size, 3) uint8.

    Raises:
        ImageError: it cannot be read; names the file and its apparent format.
    """
    from PIL import Image

    square = _decode_plain_jpeg(content, name, crop)
    if square is None:
        square = _decode(content, name, lambda image: image.crop(_centre(*image.size, crop)))
    # Cropped before, not by resize(box=): that lets pixels outside the box bleed in.
    return np.asarray(square.resize((size, size), Image.Resampling.BILINEAR))


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


def _decode_plain_jpeg(content: bytes, name: str, crop: int | None) -> Image | None:
    """Decode the centre square of a plain JPEG as RGB; None for files left to Pillow.

    The decoder, libjpeg-turbo, is also Pillow's, so the pixels are the same; without
    Pillow's way to it and its copies a third of the time is saved. And it says what Pillow
    keeps to itself: that bytes in the middle are damaged.
    """
    if not content.startswith(b"\xff\xd8\xff") or b"\xff\xe1" in content:
        return None  # the marker of EXIF and XMP data, which may turn the picture
    import simplejpeg
    from PIL import Image

    try:
        if simplejpeg.decode_jpeg_header(content)[2] not in ("YCbCr", "Gray", "RGB"):
            return None  # CMYK, which it converts otherwise
        pixels = simplejpeg.decode_jpeg(content, "RGBX")  # four bytes each, as in Pillow's memory
    except ValueError as error:
        reason = str(error)
        if not reason.startswith("Corrupt JPEG data"):
            return None  # truncated, which Pillow says better
        left_over = re.search(r"(\d+) extraneous bytes", reason)
        if left_over and int(left_over[1]) < len(content) // 100:
            return None  # padding, of no harm
        raise ImageError(f"{name}: the JPEG image is damaged ({reason}). {FIX}") from error
    height, width, _ = pixels.shape
    left, top, right, bottom = _centre(width, height, crop)
    first, last = top * width + left, (bottom - 1) * width + right
    rows = pixels.reshape(-1, 4)[first:last]  # the square is in it, a row each `width` pixels
    return Image.frombytes("RGB", (right - left,) * 2, rows, "raw", "RGBX", 4 * width)


def _decode(content: bytes, name: str, part: Callable[[Image], Image]) -> Image:
    """Decode an image of any supported format, apply EXIF orientation, return a part as RGB."""
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(part(image), name)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise nearly anything on damaged bytes
        raise ImageError(f"{name}: {_describe_damage(content, error)} {FIX}") from error


def _centre(width: int, height: int, crop: int | None) -> tuple[int, int, int, int]:
    """Return the centre square of `crop` pixels, or the largest: left, top, right, bottom."""
    side = min(width, height, crop or max(width, height))
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def _to_rgb(image: Image, name: str) -> Image:
    """Convert any of PIL's modes to RGB, 8 bits per channel."""
    from PIL import Image

    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith(("I", "F")):  # 16-bit grey; PIL's own conversion would clip at 255
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
            raise ImageError(
                f"{name}: its pixels are floats or 32-bit numbers of unknown range. "
                "Save it with 8 or 16 bits a channel."
            )
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        paper = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(paper, layer).convert("RGB")
    return image.convert("RGB")


def _describe_damage(content: bytes, error: Exception) -> str:
    """Describe a file that could not be decoded."""
    start = content[:64]
    if not start:
        return "the file is empty (0 bytes)."
    for beginning, kind in _IMAGE_BEGINNINGS.items():
        if start.startswith(beginning):
            if "truncated" in str(error).lower():
                return f"the {kind} image is truncated: its end is missing ({error})."
            return f"looks like a {kind} image, but is truncated or damaged ({error})."
    for beginning, kind in _OTHER_BEGINNINGS.items():
        if start.lstrip().startswith(beginning):
            return f"not an image, but {kind}."
    text = all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start)
    kind = "text" if text else "no format that Pillow knows"
    return f"not an image, but {kind}: it begins with {start[:24]!r}."
