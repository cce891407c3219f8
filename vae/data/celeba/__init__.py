"""CelebA (Liu et al. 2015, Deep Learning Face Attributes in the Wild) as a source of images."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import MISSING

from vae.data.base import MAX_SIDE, Box, FilesConfig, ImageError, Labels
from vae.data.celeba.download import download
from vae.data.celeba.layouts import find_layout
from vae.data.images import decode_square, limit_splits
from vae.utils.errors import UserError, require
from vae.utils.registry import register

log = logging.getLogger(__name__)

SIZE = (178, 218)  # width and height of the aligned images, pixels
# A square about the means of the five landmarks, with the room that dlib leaves around them.
FACE_LEFT, FACE_TOP, FACE_SIDE = 37, 78, 105

READER_VERSION = 2  # part of the fingerprint: raise it when the same files give other pixels


@register("data", "celeba")
@dataclass
class CelebAConfig(FilesConfig):
    """`data=celeba`."""

    path: str | None = MISSING  # CelebA's folder; null = celeba/ under data.root
    crop: Any = MISSING  # centre square cut before resizing, pixels; null or none = largest
    # values here as for on_corrupt
    download: bool = False  # fetch what path lacks
    split: str = "official"  # official, or hash: by image name, 80/10/10

    images = "images of CelebA"
    lacks = ("factors",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop == "none":
            self.crop = None
        pixels = type(self.crop) is int and 8 <= self.crop <= MAX_SIDE
        takes = f"none or an int from 8 to {MAX_SIDE}"
        require(self.crop is None or pixels, "data.crop", self.crop, takes)
        known = self.split in ("official", "hash")
        require(known, "data.split", self.split, "official or hash")

    @property
    def folder(self) -> Path:
        """CelebA's folder."""
        return Path(self.path or Path(self.root) / "celeba").expanduser()

    @property
    def celeba_crop(self) -> int:
        return min(self.crop or SIZE[0], SIZE[0])

    @property
    def face_box(self) -> Box:
        crop = self.celeba_crop
        side = min(FACE_SIDE, crop)
        corner = (FACE_LEFT - (SIZE[0] - crop) / 2, FACE_TOP - (SIZE[1] - crop) / 2)
        # In a crop below 148 the square would end below the image: it is moved up, and the
        # face is lower in it.
        left, top = (min(max(0.0, place), crop - side) / crop for place in corner)
        return left, top, side / crop

    def source(self) -> CelebASource:
        return CelebASource(self)


class CelebASource:
    """An `ImageSource` of CelebA in its official split, in the order of its partition.

    With `data.split=hash` the split follows from each image's name alone, as of `data=folder`.

    `data.num_images` takes the first images of each split, in proportion.

    Raises:
        UserError: a file is missing or invalid; names it.
    """

    name = "celeba"

    def __init__(self, config: CelebAConfig) -> None:
        self.image_size = config.image_size
        self.crop: int | None = config.crop
        self.skips_corrupt = config.skips_corrupt
        self.split = config.split
        try:
            layout = find_layout(config.folder, self.split)
        except UserError:
            if not config.download:
                raise
            download(config.folder)
            layout = find_layout(config.folder, self.split)
        self.layout = layout()
        self._sizes = limit_splits(self.layout.sizes(), config.num_images)
        if self.split == "hash":
            log.info("data.split: hash: by image name, 80/10/10; people are in several splits")

    def fingerprint(self) -> dict[str, Any]:
        """Return size, crop, images per split, and the layout's fingerprint of its files.

        The folder's own place is no part of it: moving it keeps the cache.
        """
        return {
            "reader": READER_VERSION,
            "image_size": self.image_size,
            "crop": self.crop,
            "sizes": self.sizes(),
            "files": self.layout.fingerprint(self.sizes()),
            **({} if self.split == "official" else {"split": self.split}),  # keeps older caches
        }

    def sizes(self) -> dict[str, int]:
        """Return the number of images per split, keys `SPLITS`."""
        return dict(self._sizes)

    def check(self) -> None:
        """Check that every used image exists and has a split; with `skip`, only warn."""
        try:
            self.layout.check(self.sizes())
        except ImageError as error:
            if not self.skips_corrupt:
                raise UserError(f"{error} data.on_corrupt=skip does without them.") from error
            log.warning("%s They are left out.", error)

    def read(self, split: str, start: int, stop: int) -> np.ndarray:
        """Return images [start, stop) of a split: (n, size, size, 3) uint8.

        Raises:
            ImageError: one of them cannot be read.
        """
        squares = [
            decode_square(content, name, self.image_size, self.crop)
            for name, content in self.layout.read(split, start, stop)
        ]
        return np.stack(squares)

    def labels(self, split: str) -> dict[str, Labels]:
        """Return 40 attributes, and identities and landmarks if the layout has them."""
        return self.layout.labels(split, self._sizes[split])
