"""What every source of images has in common: its settings and its interface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from omegaconf import MISSING

from vae.errors import require

SPLITS = ("train", "val", "test")


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

    def __post_init__(self) -> None:
        require(self.image_size >= 8, "data.image_size", self.image_size, "an int >= 8")
        require(self.batch_size >= 2, "data.batch_size", self.batch_size, "an int >= 2")
        count, workers = self.num_images, self.num_workers
        if count is not None:
            require(count >= 10, "data.num_images", count, "null or an int >= 10")
        if workers is not None:
            require(workers >= 1, "data.num_workers", workers, "null or an int >= 1")


@dataclass(frozen=True)
class Labels:
    """What is known about each image of a split, row by row in the images' order."""

    names: tuple[str, ...]
    values: np.ndarray  # (images, names)


class ImageSource(Protocol):
    """Makes the images of each split, in a fixed order. Picklable: workers read it.

    Constructing a source checks what can be checked cheaply (the folder is
    there, it holds images, the list files parse) and raises UserError; it
    decodes and draws nothing.
    """

    name: str  # "synthetic", "folder", "celeba": begins the cache folder's name

    def fingerprint(self) -> dict[str, Any]:
        """JSON-able, all that decides the pixels and labels: the cache's address."""

    def sizes(self) -> dict[str, int]:
        """Images per split, keys `SPLITS`."""

    def read(self, split: str, start: int, stop: int) -> np.ndarray:
        """Images [start, stop) of a split: (n, size, size, 3) uint8. UserError names a bad file."""

    def attributes(self, split: str) -> Labels | None:
        """0/1 attributes under CelebA's names, (n, A) int8, or None where there are none."""

    def factors(self, split: str) -> Labels | None:
        """True generating factors, (n, F) float32, or None where they are not known."""
