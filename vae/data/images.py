"""What the sources that read image files share: decoding one, and limiting their number."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from vae.errors import UserError

if TYPE_CHECKING:  # PIL is imported where it decodes: a warm cache never pays for it
    from PIL.Image import Image

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".pgm", ".ppm", ".pbm", ".tif", ".tiff")
)

# How files begin, to say what a file that cannot be read looks like.
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
    """Whether a file's name ends in one of `IMAGE_SUFFIXES`, in any case."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def load_square(file: str | Path | BinaryIO, size: int, crop: int | None = None) -> np.ndarray:
    """Decode an image, cut its centre square and resize it.

    The orientation in its EXIF data is applied. Transparent parts come out white, the
    paper that such pictures are mostly drawn for; 16-bit grey keeps its upper 8 bits;
    of an animation the first frame counts.

    The filter is bilinear with antialiasing, as torchvision's Resize: it cannot
    overshoot, so no halos are learned, and nothing is clipped.

    Args:
        file: a path, or a seekable binary file.
        size: side of the result, pixels.
        crop: side of the square cut from the centre, pixels; None, or more than there
            is, takes the largest square.

    Returns:
        RGB, (size, size, 3) uint8.

    Raises:
        UserError: it cannot be read; names the file and what it looks like.
    """
    if not isinstance(file, (str, Path)):
        return _load(file, str(getattr(file, "name", "image")), size, crop)
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}.") from error
    return _load(io.BytesIO(content), str(file), size, crop)


def limit_splits(sizes: dict[str, int], limit: int | None) -> dict[str, int]:
    """How many images to use of each split, `limit` in all, in proportion, at least 1 each.

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


def _load(file: BinaryIO, name: str, size: int, crop: int | None) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            square = _to_rgb(_centre(image, crop), name)
            # Cropped before, not by resize(box=): that lets pixels outside the box bleed in.
            return np.asarray(square.resize((size, size), Image.Resampling.BILINEAR))
    except (UserError, MemoryError):
        raise
    except Exception as error:  # PIL's readers raise nearly anything on damaged bytes
        raise UserError(f"{name}: {_what_is_wrong(file, error)} Mend or remove it.") from error


def _centre(image: Image, crop: int | None) -> Image:
    """The centre square of `crop` pixels, or the largest there is."""
    side = min(*image.size, crop or max(image.size))
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _to_rgb(image: Image, name: str) -> Image:
    """Any of PIL's modes -> RGB, 8 bits a channel."""
    from PIL import Image

    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith(("I", "F")):  # 16-bit grey; PIL's own conversion would clip at 255
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
            raise UserError(
                f"{name}: its pixels are floats or 32-bit numbers of unknown range. "
                "Save it with 8 or 16 bits a channel."
            )
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        paper = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(paper, layer).convert("RGB")
    return image.convert("RGB")


def _what_is_wrong(file: BinaryIO, error: Exception) -> str:
    """A sentence on a file that could not be decoded."""
    file.seek(0)
    start = file.read(64)
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
