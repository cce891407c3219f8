"""CelebA as image files and lists of them.

Names are matched by their stems where there is no file of the very name: lists may say .jpg
where the files are .JPG or .png.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vae.data.base import IDENTITY, SPLITS, ImageError, Labels
from vae.data.celeba.download import download_again, first_names
from vae.data.celeba.lists import Table, list_bytes, read_list
from vae.data.celeba.stores import Store, stem_of
from vae.data.folder import split_of
from vae.utils.errors import UserError

BY_HASH = "Without official splits: data.split=hash divides the images 80/10/10 by name."

log = logging.getLogger(__name__)


def rows_by_hash(names: list[str]) -> dict[str, np.ndarray]:
    """Divide images by their names as `data=folder` does; return the rows of each split.

    Raises:
        UserError: they are too few, so that a split would be empty.
    """
    splits = np.array([SPLITS.index(split_of(stem_of(name))) for name in names])
    rows = {split: np.flatnonzero(splits == number) for number, split in enumerate(SPLITS)}
    if empty := [split for split in SPLITS if not len(rows[split])]:
        raise UserError(
            f"data.split: hash divides the {len(names)} images 80/10/10 by name, which leaves "
            f"{' and '.join(empty)} empty. Add images."
        )
    return rows


class ListedCelebA:
    """Images in a folder or an archive, and the files that list them.

    Args:
        lists: files by kind; without the partition, images are divided by their names.
        store: the images.

    Raises:
        UserError: the partition is not right, or a split is empty.
    """

    def __init__(self, lists: dict[str, Path], store: Store) -> None:
        self.lists = lists
        self.store = store
        if file := lists.get("partition"):
            _, self._names, values = read_list(file, "partition")
            self._rows = {s: np.flatnonzero(values[:, 0] == n) for n, s in enumerate(SPLITS)}
            if empty := [split for split, rows in self._rows.items() if not len(rows)]:
                what = f"lists no images for {' and '.join(empty)}"
                raise UserError(f"{file}: {what}. {download_again(file)} {BY_HASH}")
        else:
            self._names = sorted(store.names())
            self._rows = rows_by_hash(self._names)
        self.names = {split: [self._names[row] for row in self._rows[split]] for split in SPLITS}

    def sizes(self) -> dict[str, int]:
        """Return the number of images per split."""
        return {split: len(self.names[split]) for split in SPLITS}

    def check(self, sizes: dict[str, int]) -> None:
        """Raise an ImageError if used images are missing or images have no split."""
        if not (file := self.lists.get("partition")):
            return
        there, used = self.store.names(), self._used(sizes)
        found = {name: self._find(name, there) for name in self._names}
        if missing := [name for name in used if not found[name]]:
            raise ImageError(
                f"data.path: {self.store.path} lacks {len(missing):,} of the {len(used):,} images "
                f"that {file.name} lists ({first_names(missing)}). Unpack or fetch all of it."
            )
        if unlisted := sorted(there.difference(found.values())):
            raise ImageError(
                f"{file}: {len(unlisted):,} of the {len(there):,} images in {self.store.path} have "
                f"no line here, and so no split ({first_names(unlisted)}). {download_again(file)}"
            )
        if renamed := [name for name in used if found[name] != name]:
            log.info(
                "%s: %s of its names are matched to files by stem: %s to %s",
                *(file, f"{len(renamed):,}", renamed[0], found[renamed[0]]),
            )

    def fingerprint(self, sizes: dict[str, int]) -> dict[str, Any]:
        """Return digests of the lists and the store's fingerprint of the used images."""
        lists = {
            kind: hashlib.sha256(list_bytes(file)).hexdigest() for kind, file in self.lists.items()
        }
        used = self._used(sizes)
        images = {"lists": lists, "images": self.store.fingerprint(used)}
        if "partition" not in lists:  # which says by itself which images there are
            images["names"] = hashlib.sha256(os.fsencode("\0".join(used))).hexdigest()
        return images

    def read(self, split: str, start: int, stop: int) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of images [start, stop) of a split. ImageError: one is damaged."""
        for name in self.names[split][start:stop]:
            yield f"{self.store.path}/{name}", self.store.read(name)

    def labels(self, split: str, count: int) -> dict[str, Labels]:
        """Return attributes, identities and landmarks of the first images of a split, where listed.

        Raises:
            UserError: a line of a list is not right, or an image that is there is not in it.
        """
        rows = self._rows[split][:count]
        labels = {}
        for kind, (columns, _, values) in self._tables.items():
            if kind == "attributes":
                labels[kind] = Labels(columns, (values[rows] > 0).astype(np.int8))
            else:
                names = IDENTITY if kind == "identities" else columns
                labels[kind] = Labels(names, values[rows])
        return labels

    def _used(self, sizes: dict[str, int]) -> list[str]:
        return [name for split in SPLITS for name in self.names[split][: sizes[split]]]

    @cached_property
    def _tables(self) -> dict[str, Table]:
        """The other lists, in the partition's order, zeros for missing images; parsed once."""
        tables, names = {}, self._names
        for kind, file in self.lists.items():
            if kind == "partition":
                continue
            table = read_list(file, kind)
            if table.names != names:  # CelebA's lists have the same order
                by_stem = {stem_of(name): row for row, name in enumerate(table.names)}
                by_name = {name: row for row, name in enumerate(table.names)}
                rows = [by_name.get(name, by_stem.get(stem_of(name), -1)) for name in names]
                unlisted = [name for name, row in zip(names, rows, strict=True) if row < 0]
                if unlisted:  # entries that are missing too are left out by data.on_corrupt=skip
                    there = self.store.names()
                    unlisted = sorted(name for name in unlisted if self._find(name, there))
                if unlisted:
                    raise UserError(
                        f"{file}: {len(unlisted)} of the images have no line here "
                        f"({first_names(unlisted)}). {download_again(file)}"
                    )
                values = np.vstack([table.values, np.zeros_like(table.values[:1])])
                table = Table(table.columns, names, values[rows])
            tables[kind] = table
        return tables

    def _find(self, name: str, there: set[str]) -> str | None:
        """Return the name in the store of an image of a list."""
        return name if name in there else self.store.by_stem.get(stem_of(name))

    def __getstate__(self) -> dict[str, Any]:
        """Pickle for workers without the tables, which they do not need."""
        tables = ("_names", "_rows", "_tables")
        return {key: value for key, value in self.__dict__.items() if key not in tables}
