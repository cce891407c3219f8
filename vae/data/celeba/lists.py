"""CelebA's list files, and CelebA as images plus list files.

The list files are .txt (the authors') or .csv (Kaggle's). Each line has a name, then numbers:

    list_eval_partition    000001.jpg 0                 0, 1, 2: train, val, test
    list_attr_celeba       000001.jpg -1  1 ...         40 attributes; 0/1 and True/False too
    identity_CelebA        000001.jpg 2880              the person's number
    list_landmarks_align_celeba    000001.jpg 69 109 ...    x and y of five points

The number of images and the column names may come before these lines.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vae.data.base import IDENTITY, SPLITS, Labels
from vae.data.celeba.download import download_again, first_names
from vae.data.celeba.stores import Store, check_image_names
from vae.utils.errors import UserError

SPLIT_NUMBERS = {0: "train", 1: "val", 2: "test"}
WIDTH = {"partition": 1, "identities": 1}  # numbers a line, for the lists that may have no header
RANGES = {  # of the numbers; in words, attributes may also be True and False
    "partition": (-128, 127),  # for `read_partition` to say what is no split
    "attributes": (-1, 1),
    "identities": (0, 2**31 - 1),
    "landmarks": (-(2**15), 2**15 - 1),
}
TYPES = {"partition": np.int8, "attributes": np.int8, "identities": np.int32, "landmarks": np.int16}
WORDS = ("true", "false")
MAX_LINE = 100_000  # characters of a line that are looked at: csv raises on a longer word

LANDMARKS = tuple(
    f"{point}_{axis}"
    for point in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
    for axis in "xy"
)


@dataclass(frozen=True)
class Table:
    """The content of a list file."""

    file: Path
    columns: tuple[str, ...]
    names: np.ndarray  # (images,) of str
    values: np.ndarray  # (images, columns) of int

    def of(self, names: np.ndarray, there: Callable[[], set[str]]) -> np.ndarray:
        """Return the values of some images, (len(names), columns); zeros for missing images.

        Args:
            names: of the images.
            there: which images there are; asked only if some have no line, since it takes time.

        Raises:
            UserError: an image that is there has no line.
        """
        if np.array_equal(self.names, names):
            return self.values  # as CelebA comes: every list in the same order
        row_of = {name: row for row, name in enumerate(self.names.tolist())}
        unlisted = [name for name in names.tolist() if name not in row_of]
        if unlisted:  # entries that are missing too are left out by data.on_corrupt=skip
            images = there()
            unlisted = [name for name in unlisted if name in images]
        if unlisted:
            raise UserError(
                f"{self.file}: {len(unlisted)} of the images have no line here "
                f"({first_names(unlisted)}). {download_again(self.file)}"
            )
        values = np.vstack([self.values, np.zeros_like(self.values[:1])])
        return values[[row_of.get(name, -1) for name in names.tolist()]]


class ListFormat(NamedTuple):
    """The format of a list file."""

    kind: str
    has_commas: bool
    header: int  # lines before the first image's
    columns: tuple[str, ...]  # their names, () where there are none
    width: int  # numbers a line
    in_words: bool  # True and False

    def words(self, line: str) -> list[str]:
        """Split a line into words; overlong lines are truncated."""
        line = line[:MAX_LINE]
        if not self.has_commas:
            return line.split()
        return [word.strip() for word in next(csv.reader([line.replace("\0", "")]), [])]

    def fits(self, line: str) -> bool:
        """Return whether a line is a name and numbers within their range."""
        if "\0" in line:
            return False
        _, *words = self.words(line) or [""]
        if self.in_words:
            return len(words) == self.width and all(word.lower() in WORDS for word in words)
        low, high = RANGES[self.kind]
        numbers = [int(word) for word in words if re.fullmatch(r"[-+]?[0-9]{1,99}", word)]
        right = [number for number in numbers if low <= number <= high]
        return len(words) == len(right) == self.width


def read_list(file: Path, kind: str) -> Table:
    """Read a list file: 202,599 lines of 40 numbers in half a second.

    Args:
        file: .csv, or words between blanks.
        kind: `partition`, `attributes`, `identities` or `landmarks`.

    Raises:
        UserError: the file cannot be read, or a line of it is not right; names the line.
    """
    try:
        form = _detect_format(file, kind)
        value = "U6" if form.in_words else TYPES[kind]  # NumPy takes no words for numbers
        dtype = np.dtype([("name", "U32"), ("values", value, (form.width,))])
        comma, quote = (",", '"') if form.has_commas else (None, None)
        table = np.loadtxt(
            file, dtype, None, comma, skiprows=form.header, ndmin=1, encoding="utf-8-sig",
            quotechar=quote,
        )  # fmt: skip
        values = table["values"]
        if form.in_words:
            values = np.char.lower(values)
            right = np.isin(values, WORDS)
            values = (values == "true").astype(np.int8)
        else:
            low, high = RANGES[kind]
            right = (low <= values) & (values <= high)
        listed = table["name"].tolist()
        if not right.all() or any("\0" in name for name in listed):  # no file has such a name
            raise ValueError
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(f"{file}: {_odd_line(file, form)} {download_again(file)}") from error
    if len(set(listed)) < len(listed):
        twice = Counter(listed).most_common(1)[0][0]
        raise UserError(f"{file}: lists {twice} more than once. {download_again(file)}")
    return Table(file, form.columns, table["name"], values)


def read_partition(file: Path) -> Table:
    """Read the partition: a table of one column, `SPLIT_NUMBERS`.

    Raises:
        UserError: as `read_list`; also when a number is no split, or a split is empty.
    """
    table = read_list(file, "partition")
    numbers = set(table.values[:, 0].tolist())
    if odd := numbers - SPLIT_NUMBERS.keys():
        raise UserError(
            f"{file}: holds split {odd.pop()}, but a split is 0, 1 or 2. {download_again(file)}"
        )
    if empty := [split for number, split in SPLIT_NUMBERS.items() if number not in numbers]:
        raise UserError(
            f"{file}: lists no images for {' and '.join(empty)}. {download_again(file)}"
        )
    return table


def _detect_format(file: Path, kind: str) -> ListFormat:
    """Detect a list file's format from its first lines."""
    form = ListFormat(kind, file.suffix.lower() == ".csv", 0, (), WIDTH.get(kind, 0), False)
    with open(file, encoding="utf-8-sig", errors="replace") as lines:
        for number, line in enumerate(itertools.islice(lines, 3)):
            words = form.words(line)
            if words and "." in words[0]:  # 000001.jpg
                width = form.width or len(form.columns)
                if not width:
                    raise UserError(
                        f"{file}: has no line with the names of the columns before "
                        f"{line[:40].strip()!r}. {download_again(file)}"
                    )
                in_words = any(word.lower() in WORDS for word in words)
                return form._replace(header=number, width=width, in_words=in_words)
            if not line.strip().isdigit():  # the number of images
                named = form.has_commas or words[:1] == ["image_id"]  # a name for the names
                form = form._replace(columns=tuple(words[1:] if named else words))
    raise UserError(f"{file}: names no image in its first three lines. {download_again(file)}")


def _odd_line(file: Path, form: ListFormat) -> str:
    """Describe the first malformed line: its number and its beginning."""
    with open(file, encoding="utf-8-sig", errors="replace") as lines:
        for place, line in enumerate(lines, start=1):
            if place > form.header and line.strip() and not form.fits(line):
                kind = "True or False" if form.in_words else f"number{'s' * (form.width > 1)}"
                if form.kind == "attributes" and not form.in_words:
                    kind += " from -1 to 1"
                what = f"a file name and {form.width} {kind}"
                return f"line {place} ({line[:40].strip()!r}) is not {what}."
    return "is not a list of names and numbers."


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
        """Return the number of images per split."""
        return {split: len(self.names[split]) for split in SPLITS}

    def check(self, sizes: dict[str, int]) -> None:
        """Raise an ImageError if used images are missing or images have no split."""
        listed = self._partition.names.tolist()
        check_image_names(self.store, self._used(sizes), listed, self.lists["partition"])

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
        """Columns and values of the lists, in the partition's order; parsed once."""
        kinds = [kind for kind in ("attributes", "identities", "landmarks") if kind in self.lists]
        tables = {kind: read_list(self.lists[kind], kind) for kind in kinds}
        names, there = self._partition.names, self.store.names
        return {kind: (table.columns, table.of(names, there)) for kind, table in tables.items()}

    def __getstate__(self) -> dict[str, Any]:
        """Pickle for workers without the tables, which they do not need."""
        tables = ("_partition", "_rows", "_tables")
        return {key: value for key, value in self.__dict__.items() if key not in tables}
