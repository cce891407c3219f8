"""Pictures for people: tensors in, PNG or GIF out. Knows nothing of models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from vae.files import write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont

GAP = 2  # white pixels between the images of a grid
LABEL_HEIGHT = 13  # pixels of Pillow's own font, at its default size
LABEL_LINES = 5  # above a column, at most
BACKGROUND = (255, 255, 255)
INK = (40, 40, 40)


def grid(images: Tensor, columns: int) -> Image:
    """Images (count, 3, size, size) in [0, 1] in rows of `columns`, small ones enlarged."""
    from PIL import Image

    scale = max(1, round(96 / images.shape[-1]))  # a face of 32 px is hard to see
    images = images.detach().float().cpu().clamp(0, 1)
    images = images.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    rows = -(-len(images) // columns)
    tiles = F.pad(images, (GAP, 0, GAP, 0, 0, 0, 0, rows * columns - len(images)), value=1.0)
    sheet = tiles.view(rows, columns, *tiles.shape[1:]).permute(
        0, 3, 1, 4, 2
    )  # rows, y, columns, x, rgb
    sheet = F.pad(sheet.flatten(2, 3).flatten(0, 1), (0, 0, 0, GAP, 0, GAP), value=1.0)
    return Image.fromarray((sheet * 255).round().byte().numpy())


def label_rows(picture: Image, labels: Sequence[str]) -> Image:
    """A grid with a label to the left of each of its rows."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(LABEL_HEIGHT)
    margin = max(round(font.getlength(label)) for label in labels) + 12
    labelled = Image.new("RGB", (picture.width + margin, picture.height), BACKGROUND)
    labelled.paste(picture, (margin, 0))
    draw = ImageDraw.Draw(labelled)
    row_height = picture.height / len(labels)
    for row, label in enumerate(labels):
        draw.text((6, row_height * (row + 0.5)), label, fill=INK, font=font, anchor="lm")
    return labelled


def label_columns(picture: Image, labels: Sequence[str], left: int = 0) -> Image:
    """A grid, which begins at `left`, with a label above each column, a word to a line."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(LABEL_HEIGHT)
    width = (picture.width - left) / len(labels)
    texts = [_broken(label, font, width - 4) for label in labels]
    lines = max(text.count("\n") + 1 for text in texts)
    margin = lines * (LABEL_HEIGHT + 4) + 6
    labelled = Image.new("RGB", (picture.width, picture.height + margin), BACKGROUND)
    labelled.paste(picture, (0, margin))
    draw = ImageDraw.Draw(labelled)
    for column, text in enumerate(texts):
        place = (left + width * (column + 0.5), margin - 4)
        draw.multiline_text(place, text, fill=INK, font=font, anchor="md", align="center")
    return labelled


def _broken(label: str, font: FreeTypeFont | ImageFont, width: float) -> str:
    """A label with a word to a line, words that are too wide on several: LABEL_LINES at most."""
    lines = []
    for word in label.split():
        line = ""
        for letter in word:
            if line and font.getlength(line + letter) > width:
                cut = line.rfind("_") + 1 or len(line)
                lines.append(line[:cut])
                line = line[cut:]
            line += letter
        lines.append(line)
    return "\n".join(lines if len(lines) <= LABEL_LINES else [*lines[: LABEL_LINES - 1], "..."])


def picture(image: Tensor) -> Image:
    """One image (3, size, size) in [0, 1], pixel for pixel."""
    from PIL import Image

    pixels = image.detach().float().cpu().clamp(0, 1).permute(1, 2, 0)
    return Image.fromarray((pixels * 255).round().byte().numpy())


def save(picture: Image, path: Path) -> Path:
    """Write a PNG atomically."""
    write_atomically(path, lambda file: picture.save(file, format="PNG"))
    return path


def reconstructions(originals: Tensor, reconstructed: Tensor, path: Path, columns: int = 8) -> Path:
    """Each original with its reconstruction below it, in pairs of rows.

    Args:
        originals, reconstructed: (count, 3, size, size) in [0, 1].
        path: the PNG to write.
        columns: images a row.
    """
    columns = min(columns, len(originals))
    rows = len(originals) // columns
    shape = (rows, 1, columns, *originals.shape[1:])
    used = rows * columns
    pairs = torch.cat([originals[:used].view(shape), reconstructed[:used].view(shape)], dim=1)
    return save(label_rows(grid(pairs.flatten(0, 2), columns), ["original", "model"] * rows), path)


def samples(images: Tensor, path: Path, columns: int = 8) -> Path:
    """Images (count, 3, size, size) in [0, 1] in rows."""
    return save(grid(images, min(columns, len(images))), path)


def interpolation(strips: Tensor, path: Path) -> Path:
    """One row per pair of faces: strips (pairs, steps, 3, size, size) in [0, 1]."""
    return save(grid(strips.flatten(0, 1), strips.shape[1]), path)


def traversal(strips: Tensor, labels: Sequence[str], path: Path) -> Path:
    """One labelled row per latent: strips (latents, steps, 3, size, size) in [0, 1]."""
    return save(label_rows(grid(strips.flatten(0, 1), strips.shape[1]), labels), path)


def table(
    images: Tensor, path: Path, *, columns: Sequence[str], rows: Sequence[str] | None = None
) -> Path:
    """Labelled columns, and rows if given, of images (rows, columns, 3, size, size) in [0, 1]."""
    faces = grid(images.flatten(0, 1), images.shape[1])
    sheet = label_rows(faces, rows) if rows else faces
    return save(label_columns(sheet, columns, sheet.width - faces.width), path)


def animation(
    frames: Iterable[Tensor],
    path: Path,
    *,
    labels: Sequence[str] | None = None,
    seconds: float = 4.0,
) -> Path:
    """A GIF that runs through frames and back, for ever.

    Each frame has a palette of its own, without dithering: faces are smooth, so that 256
    colours are nearly enough for one, and dots that change from frame to frame are seen first.

    Args:
        frames: two or more, each (count, 3, size, size) in [0, 1], its faces in rows of
            about half as many rows as columns. One is held at a time.
        path: the GIF to write.
        labels: of the faces of a frame, above each.
        seconds: there and back.
    """
    there = [_frame(frame, labels).quantize(256) for frame in frames]
    first, *others = there + there[-2:0:-1]
    duration = max(20, round(1000 * seconds / (1 + len(others))))  # viewers slow below 20 ms

    def write(file: Path) -> None:
        first.save(
            file, format="GIF", save_all=True, append_images=others, duration=duration, loop=0
        )

    write_atomically(path, write)
    return path


def _frame(images: Tensor, labels: Sequence[str] | None) -> Image:
    """Images (count, 3, size, size) about twice as wide as high, with a label above each."""
    from PIL import Image

    columns = min(len(images), math.ceil(math.sqrt(2 * len(images))))
    if labels is None:
        return grid(images, columns)
    rows = []
    for start in range(0, len(images), columns):
        named = list(labels[start : start + columns])
        named += [""] * (columns - len(named))
        rows.append(label_columns(grid(images[start : start + columns], columns), named))
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), BACKGROUND)
    for number, row in enumerate(rows):
        sheet.paste(row, (0, sum(above.height for above in rows[:number])))
    return sheet
