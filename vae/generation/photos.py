"""Input faces: photographs, cropped as the training images were, or numbers of a split.

CelebA's images are aligned: in 178x218 pixels the eyes are at (69, 111) and (108, 111) on
average, the corners of the mouth at (73, 152) and (105, 152). A model of CelebA or of drawn faces
expects that framing of a photograph. `describe_framing` states it; LEFT,TOP,SIDE cuts such a
square from a snapshot, and may reach beyond its edges.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vae.data import DataConfig
from vae.data.celeba import SIZE as CELEBA_SIZE
from vae.data.images import MAX_PIXELS, Square, centre_square, load_square
from vae.data.loader import to_float
from vae.evaluation import TrainedModel
from vae.utils.errors import UserError, require
from vae.utils.text import safe_names

log = logging.getLogger(__name__)

CELEBA_EYES_X, CELEBA_EYES_Y, CELEBA_MOUTH_Y = (69, 108), 111, 152  # pixels, on average
ASPECT_TOLERANCE = 0.01  # within which a picture has CelebA's
CROP_HELP = "auto, none, PIXELS of the centre square, or LEFT,TOP,SIDE"
MAX_OVERSIZE = 4  # sides of a picture that its square may have: a face may fill the picture
MAX_STEM = 24  # bytes of a label in a file's name, which has up to two of them


def load_faces(
    inputs: Sequence[str], trained: TrainedModel, split: str = "val", crop: str = "auto"
) -> tuple[Tensor, list[str]]:
    """Load the faces that `inputs` name, as the model takes them.

    Args:
        inputs: files of pictures, or numbers of faces of the split.
        trained: decides the size and the framing; its images are opened for numbers only.
        split: train, val or test.
        crop: of pictures. `auto`: as the training images were cropped, where the picture has
            the proportions of CelebA's and the model was trained on CelebA or on drawn faces;
            else the largest centre square, as `none`. `PIXELS`: a centre square.
            `LEFT,TOP,SIDE`: that square. Beyond a picture's edges its last pixels are repeated.

    Returns:
        (n, 3, size, size) float32 in [0, 1] on the CPU, and a label for each face; different
        faces have different labels.

    Raises:
        UserError: a picture cannot be read, there is no face of that number, or the crop is
            invalid, outside of a picture or much larger.
    """
    if trained.data_config.name == "synthetic" and not all(map(_is_number, inputs)):
        log.warning(
            "data=synthetic: this model was trained on drawn faces and does not transfer to "
            "photographs: they lose their detail. Train on data=celeba or data=folder for these."
        )
    images: np.ndarray | None = None
    faces = []
    for word in inputs:
        if _is_number(word):
            if images is None:
                images = trained.data.images[split]
            takes = f"a number below {len(images)}, or a file"
            require(int(word) < len(images), f"face of {split}", word, takes)
            faces.append(np.array(images[int(word)]))
        else:
            faces.append(_load(word, crop, trained.data_config))
    return to_float(np.stack(faces), torch.device("cpu")), _labels(inputs, split)


def file_stems(labels: Sequence[str]) -> list[str]:
    """Return file names without suffix for labels of faces, safe on any file system.

    Without suffixes, unless there are two that differ in these alone.

    >>> file_stems(["me.jpg", "you.jpg"]), file_stems(["me.jpg", "me.png"])
    (['me', 'you'], ['me.jpg', 'me.png'])
    """
    stems = [str(Path(label).with_suffix("")) for label in labels]
    tell_apart = len(set(stems)) == len(set(labels))
    return safe_names(stems if tell_apart else labels, MAX_STEM)


def describe_framing(crop: int) -> str:
    """Describe where the eyes and the mouth are in CelebA's centre squares of `crop` pixels."""
    left, top, side = centre_square(*CELEBA_SIZE, crop)
    x, other_x = (100 * (eye - left) / side for eye in CELEBA_EYES_X)
    y, mouth = (100 * (height - top) / side for height in (CELEBA_EYES_Y, CELEBA_MOUTH_Y))
    return (
        f"the eyes at {x:.0f} and {other_x:.0f} % of the width and {y:.0f} % of the height, the "
        f"mouth at {mouth:.0f} % of the height: a side of {100 / (other_x - x):.1f} times the "
        "distance of the eyes"
    )


def _is_number(word: str) -> bool:
    return re.fullmatch(r"\d{1,18}", word) is not None and not os.path.isfile(word)


def _labels(inputs: Sequence[str], split: str) -> list[str]:
    """Return a number with its split, or a file's name, after its folders if names repeat."""
    others = "" if split == "val" else f"{split}_"
    parts = {w: (f"{others}{int(w)}",) if _is_number(w) else Path(w).parts for w in inputs}
    labels: dict[str, str] = {}
    for count in range(1, max(map(len, parts.values())) + 1):
        called = Counter(path[-count:] for path in set(parts.values()))
        for word, path in parts.items():
            if called[path[-count:]] == 1:
                labels.setdefault(word, str(Path(*path[-count:])))
    return [labels[word] for word in inputs]


def _load(word: str, crop: str, data: DataConfig) -> np.ndarray:
    """Load a picture's square, (size, size, 3) uint8, resized as the training images were."""
    if os.path.isdir(word):
        raise UserError(f"{word}: is a folder. Name the pictures in it: {word}/*.jpg.")
    if not os.path.exists(word):
        raise UserError(f"{word}: there is no such file, and it is no number of a face either.")
    said = ""

    def square(width: int, height: int) -> Square:
        nonlocal said
        (left, top, side), note = _square(crop, (width, height), data)
        said = f"crop {left},{top},{side} of {width}x{height} pixels{note}"
        most = min(MAX_OVERSIZE * max(width, height), math.isqrt(MAX_PIXELS))
        overlaps = -side < left < width and -side < top < height
        takes = f"a square of 1 to {most} pixels that overlaps {word}, {width}x{height} pixels"
        require(1 <= side <= most and overlaps, "--crop", crop, takes)
        return left, top, side

    face = load_square(Path(word), data.image_size, square)
    log.info("%s: %s", word, said)
    return face


def _square(crop: str, shape: tuple[int, int], data: DataConfig) -> tuple[Square, str]:
    """Return the square of a picture (width, height) that a crop names, and a note for the log."""
    width, height = shape
    trained = data.celeba_crop
    if crop == "none" or (crop == "auto" and trained is None):
        return centre_square(width, height), ""
    wants = f"this model wants {describe_framing(trained)}" if trained else ""
    if crop == "auto" and trained:
        if abs(width / height / (CELEBA_SIZE[0] / CELEBA_SIZE[1]) - 1) <= ASPECT_TOLERANCE:
            return centre_square(width, height, round(trained * width / CELEBA_SIZE[0])), ""
        note = f", its largest centre square; {wants}. --crop LEFT,TOP,SIDE takes such a square."
        return centre_square(width, height), note
    well_formed = re.fullmatch(r"-?\d{1,6}(, *-?\d{1,6}, *-?\d{1,6})?", crop)
    require(bool(well_formed), "--crop", crop, CROP_HELP + (f" ({wants})" if wants else ""))
    numbers = [int(number) for number in crop.split(",")]
    if len(numbers) == 1:
        numbers = [(width - numbers[0]) // 2, (height - numbers[0]) // 2, numbers[0]]
    left, top, side = numbers
    return (left, top, side), ""
