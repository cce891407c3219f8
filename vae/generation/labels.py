"""Text beside pictures: labels of rows and columns, captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vae.utils.text import printable, truncate

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont

LABEL_HEIGHT = 13  # pixels of Pillow's own font, at its default size
LABEL_LINES = 5  # above a column, at most
LABEL_LENGTH = 120  # characters, at most
BACKGROUND = (255, 255, 255)
INK = (40, 40, 40)


def label_rows(picture: Image, labels: Sequence[str]) -> Image:
    """Add a label to the left of each row of a grid."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(LABEL_HEIGHT)
    labels = [_shown(label) for label in labels]
    margin = max(round(font.getlength(label)) for label in labels) + 12
    labelled = Image.new("RGB", (picture.width + margin, picture.height), BACKGROUND)
    labelled.paste(picture, (margin, 0))
    draw = ImageDraw.Draw(labelled)
    row_height = picture.height / len(labels)
    for row, label in enumerate(labels):
        draw.text((6, row_height * (row + 0.5)), label, fill=INK, font=font, anchor="lm")
    return labelled


def label_columns(picture: Image, labels: Sequence[str], left: int = 0) -> Image:
    """Add a label above each column of a grid that begins at `left`, one word per line."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(LABEL_HEIGHT)
    width = (picture.width - left) / len(labels)
    texts = [_broken(_shown(label), font, width - 4) for label in labels]
    lines = max(text.count("\n") + 1 for text in texts)
    margin = lines * (LABEL_HEIGHT + 4) + 6
    labelled = Image.new("RGB", (picture.width, picture.height + margin), BACKGROUND)
    labelled.paste(picture, (0, margin))
    draw = ImageDraw.Draw(labelled)
    for column, text in enumerate(texts):
        place = (left + width * (column + 0.5), margin - 4)
        draw.multiline_text(place, text, fill=INK, font=font, anchor="md", align="center")
    return labelled


def add_caption(picture: Image, caption: str) -> Image:
    """Add a line of text above a picture; widen the picture if the line is longer."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(LABEL_HEIGHT)
    width = max(picture.width, round(font.getlength(caption)) + 12)
    margin = LABEL_HEIGHT + 10
    labelled = Image.new("RGB", (width, picture.height + margin), BACKGROUND)
    labelled.paste(picture, (0, margin))
    ImageDraw.Draw(labelled).text((6, margin / 2), caption, fill=INK, font=font, anchor="lm")
    return labelled


def stack(pictures: Sequence[Image]) -> Image:
    """Place pictures below each other, aligned on the left."""
    from PIL import Image

    size = (max(each.width for each in pictures), sum(each.height for each in pictures))
    stacked = Image.new("RGB", size, BACKGROUND)
    top = 0
    for picture in pictures:
        stacked.paste(picture, (0, top))
        top += picture.height
    return stacked


def _shown(label: str) -> str:
    return truncate(printable(label), LABEL_LENGTH)


def _broken(label: str, font: FreeTypeFont | ImageFont, width: float) -> str:
    """Wrap a label to one word per line, wide words to several: at most LABEL_LINES."""
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
