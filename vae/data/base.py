"""Settings and interface of every source of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from omegaconf import MISSING

from vae.utils.errors import UserError, require

SPLITS = ("train", "val", "test")
IDENTITY = ("identity",)  # the one column of the labels `identities`


@dataclass
class DataConfig:
    """Settings that every source has (`conf/data/*.yaml` holds the values)."""

    name: str = MISSING  # which source; set by the YAML, not by hand
    root: str = MISSING  # where packed caches and downloads live
    image_size: int = MISSING  # pixels, square; int >= 8
    batch_size: int = MISSING  # images a training step; int >= 2 (BatchNorm)
    num_images: int | None = MISSING  # at most this many, over all splits; null = all
    flip: bool = MISSING  # random horizontal flip in training
    num_workers: int | None = MISSING  # processes for packing; null = one a core

    @property
    def skips_corrupt(self) -> bool:
        """Whether images that cannot be read are left out instead of ending the packing."""
        return False

    def __post_init__(self) -> None:
        require("\0" not in self.root, "data.root", self.root, "the name of a folder")
        require(self.image_size >= 8, "data.image_size", self.image_size, "an int >= 8")
        require(self.batch_size >= 2, "data.batch_size", self.batch_size, "an int >= 2")
        count, workers = self.num_images, self.num_workers
        if count is not None:
            require(count >= 10, "data.num_images", count, "null or an int >= 10")
        if workers is not None:
            require(workers >= 1, "data.num_workers", workers, "null or an int >= 1")


@dataclass
class FilesConfig(DataConfig):
    """Settings of the sources that read image files."""

    # Values here, since runs of before this key have none; the YAML files hold it as the others.
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
        five points of the face in the uncropped image, pixels, int16.
        """
