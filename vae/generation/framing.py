"""Framing: find the eyes in a photograph, and the square that holds a face as training images do.

CelebA's images are aligned: in 178x218 pixels the eyes are at (69, 111) and (108, 111) on
average. Drawn faces are framed as CelebA in the crop of 148. For other training images the places
of the eyes are measured.

Faces and eyes are found by the cascades (Viola & Jones 2001) that come with OpenCV.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from vae.data.celeba import SIZE as CELEBA_SIZE
from vae.data.images import Square, centre_square
from vae.evaluation import TrainedModel
from vae.evaluation.latents import evenly_spaced_batches
from vae.utils.errors import UserError

CELEBA_EYES_X, CELEBA_EYES_Y = (69, 108), 111  # pixels, on average

BOX_EYES = ((0.29, 0.39), (0.7, 0.39))  # (x, y) of the eyes in the box of a face, in its sides
# Half the distance of the eyes, at least: those of a turned head are nearer to each other, and
# the square would cut it.
LEAST_HALF_DISTANCE = 0.19
MAX_EYE_ERROR = 0.5  # sum of the differences from BOX_EYES, of a pair taken for the eyes
CASCADES = (("frontalface_default", 5), ("frontalface_alt2", 3))  # and neighbours that agree
EYE_CASCADES = ("eye", "eye_tree_eyeglasses")
SEARCH_SIDE = 320, 800  # pixels of the longer side: smaller and larger pictures are resized
# Pixels of a face, at least: in such a picture, and in the picture itself (the cascades' window).
SMALLEST_FACE, SMALLEST_ORIGINAL = 40, 24
EYE_STEP = 1.05  # ratio of the sizes that eyes are searched in
EYES_SIDE = 200  # pixels that the box of a face is enlarged to, in the search for eyes

MEASURED_IMAGES = 24  # training images whose framing is measured
MIN_MEASURED = 8  # of them with eyes
MAX_SPREAD = 0.06  # median absolute deviation of the places of eyes; beyond it there is no framing
FRAMED = 0.08  # difference of the places of eyes at which a square is kept as it is

_cascades_in_use = Lock()  # they are not thread-safe


@dataclass(frozen=True)
class Eyes:
    """Places of two eyes: x of the left one and of the right one in the picture, and their y.

    In pixels, or in parts of a square's side.
    """

    left: float
    right: float
    y: float

    def square(self, wanted: Eyes) -> Square:
        """Return the square (left, top, side) in which these eyes are at the `wanted` parts."""
        side = max(1.0, (self.right - self.left) / (wanted.right - wanted.left))
        middle, wanted_middle = (each.left + each.right for each in (self, wanted))
        left, top = (middle - wanted_middle * side) / 2, self.y - wanted.y * side
        return round(left), round(top), round(side)

    def rescaled(self, scale: float, left: float, top: float) -> Eyes:
        """Return the places in a picture of which this one is a part, `scale` times as large.

        Args:
            left, top: of the part in the whole picture.
        """
        return Eyes(self.left * scale + left, self.right * scale + left, self.y * scale + top)

    def within(self, square: Square) -> Eyes:
        """Return the places in parts of a square's side."""
        left, top, side = square
        return Eyes((self.left - left) / side, (self.right - left) / side, (self.y - top) / side)

    def describe(self) -> str:
        """Describe the places, in parts of a square's side, to a person who crops by hand."""
        return (
            f"the eyes at {100 * self.left:.0f} and {100 * self.right:.0f} % of the width and "
            f"{100 * self.y:.0f} % of the height: a side of {1 / (self.right - self.left):.1f} "
            "times their distance"
        )

    def max_difference(self, other: Eyes) -> float:
        """Return the largest difference of the three numbers."""
        pairs = ((self.left, other.left), (self.right, other.right), (self.y, other.y))
        return max(abs(one - another) for one, another in pairs)


@dataclass(frozen=True)
class DetectedFace:
    """A face in a picture: its eyes in pixels."""

    eyes: Eyes
    eyes_found: bool  # False: the face was found, and the eyes are where they are in most faces


def celeba_eyes(crop: int) -> Eyes:
    """Return the places of the eyes in CelebA's centre squares of `crop` pixels."""
    return Eyes(*CELEBA_EYES_X, CELEBA_EYES_Y).within(centre_square(*CELEBA_SIZE, crop))


def wanted_eyes(trained: TrainedModel) -> Eyes | None:
    """Return the places of the eyes in the training images, in parts of their side.

    CelebA's and those of drawn faces are known. Others are measured on MEASURED_IMAGES.

    Returns:
        None if there is no common framing: too few eyes are found, or they are all over the
        images. Also if OpenCV or the images are missing.
    """
    if (crop := trained.data_config.celeba_crop) is not None:
        return celeba_eyes(crop)
    try:
        batches = evenly_spaced_batches(trained.data.images["train"], MEASURED_IMAGES)
    except UserError:  # the images are missing
        return None
    faces = [find_face(np.ascontiguousarray(image)) for batch in batches for image in batch]
    side = trained.data_config.image_size
    found = [face.eyes.within((0, 0, side)) for face in faces if face and face.eyes_found]
    if len(found) < MIN_MEASURED:
        return None
    places = np.array([(eyes.left, eyes.right, eyes.y) for eyes in found])
    middle = np.median(places, axis=0)
    spread = np.median(np.abs(places - middle), axis=0)
    return Eyes(*middle.tolist()) if spread.max() <= MAX_SPREAD else None


def can_find_faces() -> bool:
    """Return whether OpenCV is installed, with its cascades (5.0 has none)."""
    try:
        import cv2
    except ImportError:
        return False
    return hasattr(cv2, "CascadeClassifier") and hasattr(cv2, "data")


def find_face(picture: np.ndarray) -> DetectedFace | None:
    """Return the largest face in a picture (height, width, 3) RGB uint8.

    Returns:
        None if no face is found, or OpenCV is missing.
    """
    if not can_find_faces():
        return None
    import cv2

    longer = max(picture.shape[:2])
    scale = min(max(longer, SEARCH_SIDE[0]), SEARCH_SIDE[1]) / longer
    way = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    grey = cv2.equalizeHist(cv2.resize(grey, None, fx=scale, fy=scale, interpolation=way))
    with _cascades_in_use:
        box = _largest_box(grey, max(SMALLEST_FACE, round(SMALLEST_ORIGINAL * scale)))
        if box is None:
            return None
        left, top, side = box
        pair = _find_eyes(grey[top : top + side, left : left + side])
    (x, y), (other_x, other_y) = pair or BOX_EYES
    middle, half = (x + other_x) / 2, max((other_x - x) / 2, LEAST_HALF_DISTANCE)
    eyes = Eyes(middle - half, middle + half, (y + other_y) / 2).rescaled(side, left, top)
    return DetectedFace(eyes.rescaled(1 / scale, 0, 0), pair is not None)


@cache
def _cascade(name: str) -> Any:
    import cv2

    return cv2.CascadeClassifier(
        str(Path(cv2.__file__).with_name("data") / f"haarcascade_{name}.xml")
    )


def _largest_box(grey: np.ndarray, smallest: int) -> Square | None:
    """Return the largest box (left, top, side >= smallest) that a cascade takes for a face."""
    for name, neighbours in CASCADES:
        size = (smallest, smallest)
        boxes = _cascade(name).detectMultiScale(grey, 1.1, neighbours, minSize=size)
        if len(boxes):
            left, top, side, _ = max(boxes, key=lambda box: box[2]).tolist()
            return left, top, side
    return None


def _find_eyes(face: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Return the places (x, y) of two eyes in the grey box of a face, in parts of its side."""
    import cv2

    scale = max(1.0, EYES_SIDE / len(face))
    upper = cv2.resize(face[: round(0.65 * len(face))], None, fx=scale, fy=scale)
    side = scale * len(face)
    sizes = {"minSize": (round(0.12 * side),) * 2, "maxSize": (round(0.45 * side),) * 2}
    # the second picture shows eyes in the shade, and is searched only if the first shows none
    for grey in (upper, cv2.equalizeHist(upper)):
        found = [
            (float(x + width / 2) / side, float(y + height / 2) / side)
            for name in EYE_CASCADES
            for x, y, width, height in _cascade(name).detectMultiScale(grey, EYE_STEP, 3, **sizes)
        ]
        pairs = [
            (left, right)
            for left, right in product(found, repeat=2)
            if 0.25 < right[0] - left[0] < 0.6 and abs(left[1] - right[1]) < 0.12
        ]
        best = min(pairs, key=_error, default=None)
        if best and _error(best) <= MAX_EYE_ERROR:
            return best
    return None


def _error(pair: tuple[tuple[float, float], tuple[float, float]]) -> float:
    """Return the sum of the differences of a pair of eyes from BOX_EYES."""
    return float(np.abs(np.subtract(pair, BOX_EYES)).sum())
