"""Pictures for people: tensors in, PNG out. Knows nothing of models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from vae.files import write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

GAP = 2  # white pixels between the images of a grid
LABEL_HEIGHT = 13  # pixels of Pillow's own font, at its default size
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
