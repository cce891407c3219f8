"""Input faces: photographs, framed as the training images are, or numbers of a split."""

from __future__ import annotations

import logging
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vae.data import DataConfig
from vae.data.celeba import SIZE as CELEBA_SIZE
from vae.data.images import MAX_PIXELS, Square, centre_square, decode_square, read_image_file
from vae.data.loader import to_float
from vae.evaluation import TrainedModel
from vae.generation.framing import (
    FRAMED,
    SEARCH_SIDE,
    Eyes,
    can_find_faces,
    celeba_eyes,
    find_face,
    wanted_eyes,
)
from vae.utils.errors import UserError, require
from vae.utils.text import safe_names

log = logging.getLogger(__name__)

ASPECT_TOLERANCE = 0.01  # within which a picture has CelebA's proportions
CROP_HELP = "auto, none, PIXELS of the centre square, or LEFT,TOP,SIDE"
MAX_OVERSIZE = 4  # sides of a picture that its square may have: a face may fill the picture
MAX_STEM = 24  # bytes of a label in a file's name, which has up to two of them
DRAWN_ONLY = (
    "this model was trained on drawn faces and does not transfer to photographs: they lose their "
    "detail. Train on data=celeba or data=folder for these."
)
MAX_ASPECT = 4  # of the part of a picture that a face is searched in: it is padded to a square


@dataclass(frozen=True)
class Photograph:
    """The square of a photograph that a model gets."""

    face: np.ndarray  # (size, size, 3) uint8
    square: Square  # in pixels of the photograph
    size: tuple[int, int]  # width and height of the photograph
    how: str = ""  # how the square was found, for a person
    advice: str = ""  # how to take another, where no face was found


def load_faces(
    inputs: Sequence[str], trained: TrainedModel, split: str = "val", crop: str = "auto"
) -> tuple[Tensor, list[str]]:
    """Load the faces that `inputs` name, as the model takes them.

    Args:
        inputs: files of pictures, or numbers of faces of the split.
        trained: decides the size and the framing; its images are opened for numbers only.
        split: train, val or test.
        crop: of pictures, as `frame_photograph`.

    Returns:
        (n, 3, size, size) float32 in [0, 1] on the CPU, and a label for each face; different
        faces have different labels.

    Raises:
        UserError: a picture cannot be read, there is no face of that number, or the crop is
            invalid, outside of a picture or much larger.
    """
    if trained.data_config.name == "synthetic" and not all(map(_is_number, inputs)):
        log.warning("data=synthetic: %s", DRAWN_ONLY)
    images: np.ndarray | None = None
    wanted = cache(partial(wanted_eyes, trained))  # measured once, if at all
    faces = []
    for word in inputs:
        if _is_number(word):
            if images is None:
                images = trained.data.images[split]
            takes = f"a number below {len(images)}, or a file"
            require(int(word) < len(images), f"face of {split}", word, takes)
            faces.append(np.array(images[int(word)]))
        else:
            faces.append(_load(word, crop, trained.data_config, wanted))
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


def _load(word: str, crop: str, data: DataConfig, wanted: Callable[[], Eyes | None]) -> np.ndarray:
    """Load a picture's square, (size, size, 3) uint8, and log which square it is."""
    if os.path.isdir(word):
        raise UserError(f"{word}: is a folder. Name the pictures in it: {word}/*.jpg.")
    if not os.path.exists(word):
        raise UserError(f"{word}: there is no such file, and it is no number of a face either.")
    photograph = frame_photograph(read_image_file(Path(word)), word, crop, data, wanted)
    (left, top, side), (width, height) = photograph.square, photograph.size
    how = photograph.how and f", {photograph.how}"
    how += photograph.advice and f". {photograph.advice}"
    log.info("%s: crop %d,%d,%d of %dx%d pixels%s", word, left, top, side, width, height, how)
    return photograph.face


def frame_photograph(
    content: bytes,
    name: str,
    crop: str,
    data: DataConfig,
    wanted: Callable[[], Eyes | None],
    max_pixels: int = MAX_PIXELS,
) -> Photograph:
    """Decode a photograph and cut the square that a model of `data` expects.

    Args:
        content: of the file.
        name: for messages.
        crop: `auto`: of a picture of CelebA's proportions, the square that the training images
            of CelebA and of drawn faces are cropped to; of others, the square in which the eyes
            of the largest face are where the training images have them; the largest centre
            square, as `none`, if no face is found or the model has no such places. `PIXELS`: a
            centre square. `LEFT,TOP,SIDE`: that square. Beyond a picture's edges its last pixels
            are repeated.
        data: that the model was trained on: its image size, and CelebA's crop.
        wanted: returns the places of the eyes in the training images (`wanted_eyes`); called
            only where a face is searched.
        max_pixels: of the photograph.

    Raises:
        UserError: the picture cannot be read, or the crop is invalid, outside of the picture or
            much larger.
    """
    found: tuple[Square, tuple[int, int], str, str]

    @cache  # it may be asked for by two decoders
    def square(width: int, height: int) -> Square:
        nonlocal found
        size, find = (width, height), partial(_find_square, content, name, wanted)
        chosen, how, advice = _square(crop, size, data, find)
        left, top, side = chosen
        most = min(MAX_OVERSIZE * max(size), math.isqrt(max_pixels))
        overlaps = -side < left < width and -side < top < height
        takes = f"a square of 1 to {most} pixels that overlaps {name}, {width}x{height} pixels"
        require(1 <= side <= most and overlaps, "--crop", crop, takes)
        found = chosen, size, how, advice
        return chosen

    face = decode_square(content, name, data.image_size, square, max_pixels)
    return Photograph(face, *found)


def _square(
    crop: str,
    size: tuple[int, int],
    data: DataConfig,
    find_square: Callable[[tuple[int, int], Square, str], tuple[Square, str, str]],
) -> tuple[Square, str, str]:
    """Return the square of a picture (width, height) that a crop names, `how` and `advice`."""
    width, height = size
    trained = data.celeba_crop
    centre = centre_square(width, height)
    if crop == "none":
        return centre, "", ""
    if crop == "auto":
        aspect = width / height / (CELEBA_SIZE[0] / CELEBA_SIZE[1])
        if trained and abs(aspect - 1) <= ASPECT_TOLERANCE:
            cropped = centre_square(width, height, round(trained * width / CELEBA_SIZE[0]))
            return find_square(size, cropped, "the square of CelebA's images")
        return find_square(size, centre, "its largest centre square")
    wants = f" (this model wants {celeba_eyes(trained).describe()})" if trained else ""
    well_formed = re.fullmatch(r"-?\d{1,6}(, *-?\d{1,6}, *-?\d{1,6})?", crop)
    require(bool(well_formed), "--crop", crop, CROP_HELP + wants)
    numbers = [int(number) for number in crop.split(",")]
    if len(numbers) == 1:
        numbers = [(width - numbers[0]) // 2, (height - numbers[0]) // 2, numbers[0]]
    left, top, side = numbers
    return (left, top, side), "", ""


def _find_square(
    content: bytes,
    name: str,
    wanted: Callable[[], Eyes | None],
    size: tuple[int, int],
    fallback: Square,
    description: str,
) -> tuple[Square, str, str]:
    """Return the square in which the eyes of the largest face are where a model wants them.

    The `fallback` square of a picture (width, height), and its `description`, if the eyes are
    about there in it already, or none are found. And `how` and `advice` of Photograph.
    """
    by_hand = "--crop LEFT,TOP,SIDE takes another"
    if not can_find_faces():
        return fallback, f'{description}: pip install -e ".[app]" finds faces', by_hand
    places = wanted()
    if places is None:
        return fallback, f"{description}: the training images have no common framing", ""
    width, height = size
    longer = min(max(size), MAX_ASPECT * min(size))
    side = min(longer, SEARCH_SIDE[1])
    left, top = (width - longer) // 2, (height - longer) // 2
    found = find_face(decode_square(content, name, side, lambda *_: (left, top, longer)))
    if found is None:
        by_hand += f"; this model wants {places.describe()}"
        return fallback, f"{description}: no face was found", by_hand
    eyes = found.eyes.rescaled(longer / side, left, top)
    where = f"eyes at {eyes.left:.0f} and {eyes.right:.0f},{eyes.y:.0f}"
    how = where if found.eyes_found else f"a face with its {where}, by its outline"
    if eyes.within(fallback).max_difference(places) <= FRAMED:
        return fallback, f"{description}: {how}", ""
    return eyes.square(places), how, ""
