"""CelebA's list files, and CelebA as images plus list files.

The list files are .txt (the authors') or .csv (Kaggle's). Each line has a name, then numbers:

    list_eval_partition    000001.jpg 0                 0, 1, 2: train, val, test
    list_attr_celeba       000001.jpg -1  1 ...         40 attributes; 0/1 too
    identity_CelebA        000001.jpg 2880              the person's number
    list_landmarks_align_celeba    000001.jpg 69 109 ...    x and y of five points

The number of images and the column names may come before these lines.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vae.data.base import IDENTITY, SPLITS, ImageError, Labels
from vae.data.celeba.download import download_again, first_names
from vae.data.celeba.stores import Store
from vae.utils.errors import UserError


class ListKind(NamedTuple):
    """A kind of list file."""

    stem: str  # of the file's name
    dtype: type[np.integer[Any]]
    numbers: range  # allowed values


KINDS = {
    "partition": ListKind("list_eval_partition", np.int8, range(3)),
    "attributes": ListKind("list_attr_celeba", np.int8, range(-1, 2)),
    "identities": ListKind("identity_CelebA", np.int32, range(2**31)),
    "landmarks": ListKind("list_landmarks_align_celeba", np.int16, range(-(2**15), 2**15)),
}


class Table(NamedTuple):
    """The content of a list file."""

    columns: tuple[str, ...]  # () where the file has no names for them
    names: np.ndarray  # (images,) of str
    values: np.ndarray  # (images, columns) of int


def read_list(file: Path, kind: str) -> Table:
    """Read a list file: 202,599 lines of 40 numbers in half a second.

    Args:
        file: .csv, or words between blanks.
        kind: one of `KINDS`.

    Raises:
        UserError: the file cannot be read, or a line of it is not right; names the line.
    """
    _, dtype, wanted = KINDS[kind]
    low, high = wanted[0], wanted[-1]
    comma = "," if file.suffix.lower() == ".csv" else None
    try:
        header, columns = _read_header(file, comma)
        width = len(columns) or 1
        row = np.dtype([("name", "U32"), ("values", dtype, (width,))])
        table = np.loadtxt(file, row, None, comma, skiprows=header, ndmin=1, encoding="utf-8-sig")
        names, values = table["name"].tolist(), table["values"]
        if not ((low <= values) & (values <= high)).all() or any("\0" in name for name in names):
            raise ValueError
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}.") from error
    except ValueError as error:
        line = _odd_line(file, comma, header, width, wanted)
        what = f"is not a file name and {width} number{'s' * (width > 1)} from {low} to {high}"
        raise UserError(f"{file}: {line} {what}. {download_again(file)}") from error
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise UserError(f"{file}: lists {twice} more than once. {download_again(file)}")
    return Table(columns, table["name"], values)


def _read_header(file: Path, comma: str | None) -> tuple[int, tuple[str, ...]]:
    """Return how many lines are before the first image's, and the column names among them."""
    columns: tuple[str, ...] = ()
    with open(file, encoding="utf-8-sig", errors="replace") as lines:
        for number, line in enumerate(itertools.islice(lines, 3)):
            words = [word.strip() for word in line.split(comma)]
            if words and "." in words[0]:  # 000001.jpg
                return number, columns
            if line.strip() and not line.strip().isdigit():  # the number of images
                columns = tuple(words[1:] if words[0] == "image_id" else words)
    raise UserError(f"{file}: names no image in its first three lines. {download_again(file)}")


def _odd_line(file: Path, comma: str | None, header: int, width: int, wanted: range) -> str:
    """Return number and beginning of the first line that is not a name and wanted numbers."""
    with open(file, encoding="utf-8-sig", errors="replace") as lines:
        for place, line in enumerate(lines, start=1):
            if place <= header or not line.strip():
                continue
            try:
                numbers = [int(word) for word in line.split(comma)[1:]]
            except ValueError:
                numbers = []
            if len(numbers) != width or "\0" in line or not all(n in wanted for n in numbers):
                return f"line {place} ({line[:40].strip()!r})"
    return "one of its lines"


class ListedCelebA:
    """Images in a folder or an archive, and the files that list them.

    Raises:
        UserError: the partition is not right, or a split of it is empty.
    """

    def __init__(self, lists: dict[str, Path], store: Store) -> None:
        self.lists = lists
        self.store = store
        self._partition = read_list(lists["partition"], "partition")
        numbers = self._partition.values[:, 0]
        self._rows = {split: np.flatnonzero(numbers == n) for n, split in enumerate(SPLITS)}
        if empty := [split for split, rows in self._rows.items() if not len(rows)]:
            file = lists["partition"]
            what = f"lists no images for {' and '.join(empty)}"
            raise UserError(f"{file}: {what}. {download_again(file)}")
        self.names = {split: self._partition.names[self._rows[split]].tolist() for split in SPLITS}

    def sizes(self) -> dict[str, int]:
        """Return the number of images per split."""
        return {split: len(self.names[split]) for split in SPLITS}

    def check(self, sizes: dict[str, int]) -> None:
        """Raise an ImageError if used images are missing or images have no split."""
        there, used, file = self.store.names(), self._used(sizes), self.lists["partition"]
        if missing := [name for name in used if name not in there]:
            raise ImageError(
                f"data.path: {self.store.path} lacks {len(missing):,} of the {len(used):,} images "
                f"that {file.name} lists ({first_names(missing)}). Unpack or fetch all of it."
            )
        if unlisted := sorted(there.difference(self._partition.names.tolist())):
            raise ImageError(
                f"{file}: {len(unlisted):,} of the {len(there):,} images in {self.store.path} have "
                f"no line here, and so no split ({first_names(unlisted)}). {download_again(file)}"
            )

    def fingerprint(self, sizes: dict[str, int]) -> dict[str, Any]:
        """Return digests of the lists and the store's fingerprint of the used images."""
        lists = {
            kind: hashlib.sha256(file.read_bytes()).hexdigest() for kind, file in self.lists.items()
        }
        return {"lists": lists, "images": self.store.fingerprint(self._used(sizes))}

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
            elif kind == "identities":
                labels[kind] = Labels(IDENTITY, values[rows, :1])
            else:
                labels[kind] = Labels(columns, values[rows])
        return labels

    def _used(self, sizes: dict[str, int]) -> list[str]:
        return [name for split in SPLITS for name in self.names[split][: sizes[split]]]

    @cached_property
    def _tables(self) -> dict[str, Table]:
        """The other lists, in the partition's order, zeros for missing images; parsed once."""
        tables, names = {}, self._partition.names
        for kind, file in self.lists.items():
            if kind == "partition":
                continue
            table = read_list(file, kind)
            if not np.array_equal(table.names, names):  # CelebA's lists have the same order
                row_of = {name: row for row, name in enumerate(table.names.tolist())}
                unlisted = [name for name in names.tolist() if name not in row_of]
                if unlisted:  # entries that are missing too are left out by data.on_corrupt=skip
                    unlisted = sorted(self.store.names().intersection(unlisted))
                if unlisted:
                    raise UserError(
                        f"{file}: {len(unlisted)} of the images have no line here "
                        f"({first_names(unlisted)}). {download_again(file)}"
                    )
                values = np.vstack([table.values, np.zeros_like(table.values[:1])])
                rows = [row_of.get(name, -1) for name in names.tolist()]
                table = Table(table.columns, names, values[rows])
            tables[kind] = table
        return tables

    def __getstate__(self) -> dict[str, Any]:
        """Pickle for workers without the tables, which they do not need."""
        tables = ("_partition", "_rows", "_tables")
        return {key: value for key, value in self.__dict__.items() if key not in tables}
