"""CelebA with list files: its authors' layouts, Kaggle's, and the archive left unpacked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vae.data.celeba.lists import SPLIT_NUMBERS, read_list, read_partition
from vae.data.celeba.stores import Store, check_names
from vae.data.source import IDENTITY, SPLITS, Labels

LANDMARKS = tuple(
    f"{point}_{axis}"
    for point in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
    for axis in "xy"
)


class ListedCelebA:
    """Images in a folder or an archive, and the files that list them.

    Raises:
        UserError: the partition is not right.
    """

    def __init__(self, lists: dict[str, Path], store: Store) -> None:
        self.lists = lists
        self.store = store
        self._partition = read_partition(lists["partition"])
        numbers = self._partition.values[:, 0]
        self._rows = {split: np.flatnonzero(numbers == n) for n, split in SPLIT_NUMBERS.items()}
        self.names = {split: self._partition.names[self._rows[split]].tolist() for split in SPLITS}

    def sizes(self) -> dict[str, int]:
        """Images per split."""
        return {split: len(self.names[split]) for split in SPLITS}

    def check(self, sizes: dict[str, int]) -> None:
        """By one listing: ImageError if images that are used are missing, or some have no split."""
        listed = self._partition.names.tolist()
        check_names(self.store, self._used(sizes), listed, self.lists["partition"])

    def mark(self, sizes: dict[str, int]) -> dict[str, Any]:
        """JSON-able: the lists' content, and the store's mark of the images that are used."""
        lists = {
            kind: hashlib.sha256(file.read_bytes()).hexdigest() for kind, file in self.lists.items()
        }
        return {"lists": lists, "images": self.store.mark(self._used(sizes))}

    def read(self, split: str, start: int, stop: int) -> Iterator[tuple[str, bytes]]:
        """Name and content of the images [start, stop) of a split. ImageError: one is damaged."""
        for name in self.names[split][start:stop]:
            yield f"{self.store.path}/{name}", self.store.read(name)

    def labels(self, split: str, count: int) -> dict[str, Labels]:
        """Attributes, identities and landmarks of the first images of a split, where listed.

        Raises:
            UserError: a line of a list is not right, or an image that is there is not in it.
        """
        rows = self._rows[split][:count]
        labels = {}
        for kind, (columns, values) in self._tables.items():
            if kind == "attributes":
                labels[kind] = Labels(columns, (values[rows] > 0).astype(np.int8))
            elif kind == "identities":
                labels[kind] = Labels(IDENTITY, values[rows])
            else:
                labels[kind] = Labels(columns or LANDMARKS, values[rows])
        return labels

    def _used(self, sizes: dict[str, int]) -> list[str]:
        return [name for split in SPLITS for name in self.names[split][: sizes[split]]]

    @cached_property
    def _tables(self) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        """The lists' columns and values, row by row as in the partition: parsed once."""
        kinds = [kind for kind in ("attributes", "identities", "landmarks") if kind in self.lists]
        tables = {kind: read_list(self.lists[kind], kind) for kind in kinds}
        names, there = self._partition.names, self.store.names
        return {kind: (table.columns, table.of(names, there)) for kind, table in tables.items()}

    def __getstate__(self) -> dict[str, Any]:
        """For workers: without the tables, which they do not need."""
        tables = ("_partition", "_rows", "_tables")
        return {key: value for key, value in self.__dict__.items() if key not in tables}
