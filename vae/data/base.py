"""Settings and interface of every source of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from omegaconf import MISSING

from vae.utils.errors import UserError, require, require_ranges

MAX_SIDE = 8192  # pixels
SPLITS = ("train", "val", "test")
Box = tuple[float, float, float]  # left, top and side of a square, parts of the image's side
IDENTITY = ("identity",)  # the one column of the labels `identities`
LABEL_DTYPES = {  # of labels, by kind; of other kinds any numbers
    "attributes": np.int8,
    "factors": np.float32,
    "identities": np.int32,
    "landmarks": np.int16,
}


@dataclass
class DataConfig:
    """Settings that every source has (`conf/data/*.yaml` holds the values)."""

    name: str = MISSING  # the name it is registered by; data=NAME fills it in
    root: str = MISSING  # where packed caches and downloads live
    image_size: int = MISSING  # pixels, square; int from 8 to 8192
    batch_size: int = MISSING  # images a training step; int from 2 (BatchNorm) to 1e6
    num_images: int | None = MISSING  # at most this many; null = all, or int from 10 to 1e9
    flip: bool = MISSING  # random horizontal flip in training
    num_workers: int | None = MISSING  # for packing; null = one a core, or int from 1 to 256

    images: ClassVar[str] = "images"  # what they are, for the text of a report
    lacks: ClassVar[tuple[str, ...]] = ()  # labels that the source never has: factors, attributes

    @property
    def skips_corrupt(self) -> bool:
        """Whether images that cannot be read are left out instead of ending the packing."""
        return False

    @property
    def celeba_crop(self) -> int | None:
        """The centre square of CelebA's aligned images that these show, pixels; None for others."""
        return None

    @property
    def face_box(self) -> Box:
        """The square about the face; the whole image where that is not known."""
        return 0.0, 0.0, 1.0

    def source(self) -> ImageSource:
        """Return the source, opened; its images are located but not read.

        A source of images is a subclass with this method, registered by its name.

        Raises:
            UserError: the source is not where the configuration says.
        """
        raise TypeError(f"{type(self).__name__} has no method `source`")

    def __post_init__(self) -> None:
        require_ranges("data", self, image_size=(8, MAX_SIDE), batch_size=(2, 10**6))
        require_ranges("data", self, num_images=(10, 10**9), num_workers=(1, 256))


@dataclass
class FilesConfig(DataConfig):
    """Settings of the sources that read image files."""

    # Values here, since older runs have none; the YAML files hold it as the others.
    on_corrupt: str = "error"  # error, or skip: leave out what cannot be read, and say so

    @property
    def skips_corrupt(self) -> bool:
        """Whether images that cannot be read are left out instead of ending the packing."""
        return self.on_corrupt == "skip"

    def __post_init__(self) -> None:
        super().__post_init__()
        known = self.on_corrupt in ("error", "skip")
        require(known, "data.on_corrupt", self.on_corrupt, "error or skip")


class ImageError(UserError):
    """One image cannot be used; the others may be, with `data.on_corrupt=skip`."""


@dataclass(frozen=True)
class Labels:
    """Labels of each image of a split, one row per image."""

    names: tuple[str, ...]
    values: np.ndarray  # (images, names)


class ImageSource(Protocol):
    """Provides the images of each split, in a fixed order. Picklable: workers read it.

    Constructing a source checks what can be checked cheaply (the folder is there, the
    lists parse) and raises UserError; it decodes and draws nothing.
    """

    name: str  # "synthetic", "folder", "celeba": begins the cache folder's name

    def fingerprint(self) -> dict[str, Any]:
        """Return JSON-able values that determine pixels and labels: the key of the cache."""

    def sizes(self) -> dict[str, int]:
        """Return the number of images per split, keys `SPLITS`."""

    def check(self) -> None:
        """Run slow checks once, before packing. UserError if images are missing."""

    def read(self, split: str, start: int, stop: int) -> np.ndarray:
        """Return images [start, stop) of a split: (n, size, size, 3) uint8.

        Raises:
            ImageError: one of them cannot be read; names it.
        """

    def labels(self, split: str) -> dict[str, Labels]:
        """Return the labels of a split's images, by kind; unknown kinds are absent.

        `attributes`: 0/1 under CelebA's names, int8. `factors`: the true generating
        factors, float32. `identities`: who it is, (n, 1) int32. `landmarks`: x and y of
        five points of the face in the uncropped image, pixels, int16. Other kinds: any numbers.
        Other dtypes are converted where no value changes.
        """
