"""Conversion of a decoded image, of any of Pillow's modes, to sRGB with 8 bits per channel."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vae.data.base import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageCms import ImageCmsTransform

MAX_PROFILE = 4 << 20  # bytes: those of printers, the largest, have 0.5 to 2 MB
SRGB_TOLERANCE = 2  # of 255: within this of sRGB a profile counts as sRGB

# TIFF's tags, and their values in a file of unsigned numbers with 0 for black
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _UNSIGNED = 0, 1


def is_srgb(profile: bytes) -> bool:
    """Return whether an ICC profile of RGB images changes nothing: sRGB, or damaged."""
    return _transform(profile, "RGB") is None and _transform(profile, "L") is None


class Decoded(NamedTuple):
    """An opaque image and its conversion to sRGB (None: already sRGB)."""

    image: Image
    transform: ImageCmsTransform | None = None


def flatten(image: Image, bits: int | None, name: str) -> Decoded:
    """Make an image opaque, of 8 bits, in RGB or in the colour space of its ICC profile.

    Transparent parts come out white. Of grey with 12 or 16 bits the upper 8 are kept.

    Args:
        image: of any mode.
        bits: `grey_bits` of the opened file.
        name: for messages.

    Raises:
        ImageError: its numbers have no known range.
    """
    from PIL import Image

    profile = image.info.get("icc_profile")
    if image.mode.startswith(("I", "F")):
        if bits is None:
            raise ImageError(
                f"{name}: its grey values are floats, signed, inverted or of 32 bits, so their "
                "range is unknown. Save it with 8 or 16 bits a channel."
            )
        values = np.asarray(image) >> (bits - 8)  # Pillow's own conversion clips at 255
        image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        colours = "L" if image.mode in ("LA", "La") else "RGB"
        layer = image.convert("LA" if image.mode == "La" else "RGBA")
        paper = Image.new("RGBA", layer.size, "white")
        image = Image.alpha_composite(paper, layer.convert("RGBA")).convert(colours)
    if image.mode not in ("L", "CMYK", "LAB", "RGB"):
        image = image.convert("RGB")
    # A grey image may have a profile of RGB: it is that of equal channels.
    for mode in dict.fromkeys((image.mode, "RGB")) if profile else ():
        if transform := _transform(profile, mode):
            return Decoded(image.convert(mode), transform)
    return Decoded(image.convert("RGB"))


def grey_bits(image: Image) -> int | None:
    """Return the significant bits of an opened file of grey numbers; None if unknown.

    Pillow's mode does not tell: it has 12-bit and 16-bit grey as "I;16", and 16-bit PGM and
    32-bit TIFF as "I".
    """
    if image.format != "TIFF":
        return 16 if image.mode.startswith("I") else None
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits = tags.get(_BITS, (1,))[0]
    known = tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0] == _UNSIGNED and bits in (12, 16)
    return bits if known and tags.get(_PHOTOMETRIC) != _WHITE_IS_ZERO else None


@lru_cache(maxsize=16)  # the images of a folder have few
def _transform(profile: bytes, mode: str) -> ImageCmsTransform | None:
    """Return the conversion of a mode to sRGB by an ICC profile.

    None where the profile is sRGB, is of another colour space than the mode, or is damaged:
    then it is ignored, as browsers do.
    """
    from PIL import Image, ImageCms

    if len(profile) > MAX_PROFILE:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, ImportError):
        return None
    if mode == "RGB":
        levels = np.linspace(0, 255, 9).round().astype(np.uint8)
        colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(27, 27, 3)
        converted = np.asarray(transform.apply(Image.fromarray(colours))).astype(int)
        if np.abs(converted - colours).max() <= SRGB_TOLERANCE:
            return None
    return transform
