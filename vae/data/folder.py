"""Source: any folder tree of images (`python train.py data=folder data.path=FOLDER`)."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import MISSING

from vae.data.base import SPLITS, FilesConfig, Labels
from vae.data.images import (
    BEGINNING,
    CONVERT_HEIC,
    FORMATS_TEXT,
    HEIC_SUFFIXES,
    count_suffixes,
    image_format,
    is_image_name,
    limit_splits,
    load_square,
)
from vae.utils.errors import UserError
from vae.utils.files import open_regular
from vae.utils.registry import register
from vae.utils.text import plural

log = logging.getLogger(__name__)

READER_VERSION = 2  # part of the fingerprint: raise it when the same files give other pixels


@register("data", "folder")
@dataclass
class FolderConfig(FilesConfig):
    """`data=folder`: every image below a folder."""

    path: str = MISSING  # the folder; its subfolders are read too

    images = "images of a folder"
    lacks = ("factors", "attributes")

    def source(self) -> FolderSource:
        return FolderSource(self)


class FolderSource:
    """An `ImageSource` of every image below `data.path`, at its largest centre square.

    Files are ordered by their path relative to the folder. An image is a file with a suffix
    of one, or without any suffix and with the first bytes of one: to open every file would
    cost as much as to read it. A link to nothing with such a suffix is an image that cannot
    be read. Names that begin with a dot, and __MACOSX, are left out. A file's split follows
    from its relative path alone, 80 / 10 / 10 %, so adding files moves none of the others;
    `num_images` likewise picks by a hash of the path.

    Raises:
        UserError: data.path is no folder, holds no images, or too few for three splits.
    """

    name = "folder"

    def __init__(self, config: FolderConfig) -> None:
        self.root = _existing_folder(config.path)
        self.image_size = config.image_size
        images: list[str] = []
        others: list[str] = []
        for path in _walk(self.root):
            (images if _is_image(self.root, path) else others).append(path)
        heic = any(Path(path).suffix.lower() in HEIC_SUFFIXES for path in others)
        hint = f" {CONVERT_HEIC}" * heic
        self._left_out = f"{count_suffixes(others)}.{hint}" if others else ""
        if not images:
            raise UserError(
                f"data.path: {self.root} holds no images ({count_suffixes(others)}). Give the "
                f"folder that holds your pictures: {FORMATS_TEXT}.{hint}"
            )
        self.files = _select(images, config.num_images, self.root)

    def fingerprint(self) -> dict[str, Any]:
        """Return the image size and a digest of every file's path, size and modification time.

        The folder's own place is no part of it: moving the folder keeps the cache.
        """
        digest = hashlib.sha256()
        for split in SPLITS:
            for path in self.files[split]:
                digest.update(os.fsencode(path))
                try:
                    stat = os.stat(os.path.join(self.root, path))
                    digest.update(f"\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
                except OSError:  # a link to nothing
                    digest.update(b"\0missing\n")
        return {
            "reader": READER_VERSION,
            "image_size": self.image_size,
            "files": digest.hexdigest(),
        }

    def sizes(self) -> dict[str, int]:
        """Return the number of images per split, keys `SPLITS`."""
        return {split: len(self.files[split]) for split in SPLITS}

    def read(self, split: str, start: int, stop: int) -> np.ndarray:
        """Return images [start, stop) of a split: (n, size, size, 3) uint8.

        Raises:
            ImageError: one of them cannot be read.
        """
        files = self.files[split][start:stop]
        return np.stack([load_square(self.root / path, self.image_size) for path in files])

    def check(self) -> None:
        """Log which files are left out: once, when the images are packed."""
        if self._left_out:
            log.info("data.path: left out: %s", self._left_out)

    def labels(self, split: str) -> dict[str, Labels]:
        """Return no labels."""
        return {}


def split_of(path: str) -> str:
    """Return the split of a file by its path relative to the folder: 80 / 10 / 10 %."""
    place = _hashes(path)[0] / 2**64
    return "train" if place < 0.8 else "val" if place < 0.9 else "test"


def _hashes(path: str) -> tuple[int, int]:
    """Return two independent 64-bit hashes of a path: for its split, and for `num_images`."""
    digest = hashlib.sha256(os.fsencode(path)).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big")


def _existing_folder(path: str | None) -> Path:
    if not path or path == MISSING:
        raise UserError("data.path: not given. Give the folder of images: data.path=FOLDER.")
    root = Path(path).expanduser()
    if not os.path.exists(root):  # a Path's own raises where a folder above may not be entered
        raise UserError(
            f"data.path: there is no {root} (looked in {Path.cwd()}). "
            "Give the folder of images: data.path=FOLDER."
        )
    if not root.is_dir():
        raise UserError(f"data.path: {root} is a file. Give the folder that holds the images.")
    return root


def _walk(root: Path) -> Iterator[str]:
    """Yield posix paths, relative to `root`, of all visible files below it, links to nothing too.

    Linked folders are followed, each folder once, so that a loop of links ends.
    """
    seen = set()
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            real = os.path.realpath(root / folder)
            if real in seen:
                continue
            seen.add(real)
            entries = [
                (entry.name, _is_folder(entry))
                for entry in os.scandir(real)
                if not entry.name.startswith(".") and entry.name != "__MACOSX"
            ]
        except OSError as error:
            raise UserError(
                f"data.path: {root / folder} cannot be read: {error.strerror}. Make it readable, "
                "or give a folder beside it."
            ) from error
        for name, is_folder in sorted(entries):
            if is_folder:
                waiting.append(f"{folder}{name}/")
            else:
                yield f"{folder}{name}"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_image(root: Path, path: str) -> bool:
    if is_image_name(path):
        return True
    if os.path.splitext(path)[1]:
        return False
    try:
        with open_regular(root / path) as file:
            return image_format(file.read(BEGINNING)) not in (None, "HEIC")
    except OSError:
        return False


def _select(images: list[str], limit: int | None, root: Path) -> dict[str, list[str]]:
    """Divide images among the splits, in order, and select `limit` in total, by hash."""
    files: dict[str, list[str]] = {split: [] for split in SPLITS}
    for path in sorted(images):
        files[split_of(path)].append(path)
    empty = [split for split in SPLITS if not files[split]]
    if empty:
        raise UserError(
            f"data.path: {root} holds {plural(len(images), 'image')}, too few for "
            f"train, val and test (80, 10 and 10 % by file name): {' and '.join(empty)} would be "
            "empty. Add images."
        )
    if limit is not None:
        counts = limit_splits({split: len(paths) for split, paths in files.items()}, limit)
        for split, paths in files.items():
            paths.sort(key=lambda path: _hashes(path)[1])
            files[split] = sorted(paths[: counts[split]])
    return files
