"""CelebA's list files.

They are .txt (the authors') or .csv (Kaggle's). Each row has a name, then numbers:

    list_eval_partition    000001.jpg 0                 0, 1, 2: train, val, test
    list_attr_celeba       000001.jpg -1  1 ...         40 attributes; 0/1 too
    identity_CelebA        000001.jpg 2880              the person's number
    list_landmarks_align_celeba    000001.jpg 69 109 ...    x and y of five points

The number of images and the column names may come before these rows.
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vae.data.celeba.download import download_again
from vae.data.celeba.stores import MAX_IMAGES
from vae.data.images import is_image_name
from vae.utils.errors import UserError
from vae.utils.files import MAX_TEXT, read_bytes
from vae.utils.text import plural

HEAD = 5  # lines among which the first image is listed
NAMES_OF_NAMES = ("", "image_id", "image", "filename", "file", "name")  # headers of that column
NUMBER = re.compile(r"[+-]?\d+(\.0*)?|true|false", re.IGNORECASE)
WORDS = {"true": 1, "false": 0}
MAX_LINE = 1 << 16  # characters; CelebA's have 130


class ListKind(NamedTuple):
    """A kind of list file."""

    stem: str  # of the file's name
    dtype: type[np.integer[Any]]
    numbers: range  # allowed values
    single: bool  # has one column


KINDS = {
    "partition": ListKind("list_eval_partition", np.int8, range(3), True),
    "attributes": ListKind("list_attr_celeba", np.int8, range(-1, 2), False),
    "identities": ListKind("identity_CelebA", np.int32, range(2**31), True),
    "landmarks": ListKind("list_landmarks_align_celeba", np.int16, range(-(2**15), 2**15), False),
}


class Table(NamedTuple):
    """The content of a list file."""

    columns: tuple[str, ...]  # () where the file has no names for them
    names: list[str]  # of the images
    values: np.ndarray  # (images, columns) of int


class Notation(NamedTuple):
    """How a list file writes its rows: cells before the image's name, the name, numbers, cells."""

    first: int  # the first row's place among the lines
    delimiter: str | None  # None: blanks
    before: int  # cells: an index, as pandas writes it
    width: int  # numbers per row
    after: int  # cells: empty, behind a comma at the end
    columns: tuple[str, ...]  # names of the numbers; () where the file has none


def read_list(file: Path, kind: str) -> Table:
    """Read a list file: 202,599 lines of 40 numbers in 0.5 to 0.7 seconds, in 120 MB.

    Args:
        file: cells between commas, semicolons, tabs or blanks, quoted or not; with or without
            a byte-order mark, comments (#), the number of images, and an index column.
        kind: one of `KINDS`.

    Raises:
        UserError: the file cannot be read, or a line of it is not right; names the line.
    """
    content = list_bytes(file)
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    text = content.decode(encoding, "replace").replace("\r\n", "\n").replace("\r", "\n")
    text = text.replace("\0", "\ufffd")  # no file's name has one
    del content
    try:
        if (count := text.count("\n")) > MAX_IMAGES:
            raise ValueError(f"has {count:,} lines, but CelebA has 202,599 images")
        lines = ["" if line.isspace() or line[:1] == "#" else line for line in text.split("\n")]
        del text
        longest = max(lines, key=len)
        if len(longest) > MAX_LINE:
            what = f"line {lines.index(longest) + 1} ({longest[:40].strip()!r})"
            raise ValueError(f"{what} has {len(longest):,} characters")
        notation = _find_notation(lines, kind)
        names, values = _read_rows(lines[notation.first :], notation, kind)
        if len(set(names)) < len(names):
            raise ValueError(f"lists {Counter(names).most_common(1)[0][0]} more than once")
    except ValueError as error:
        raise UserError(f"{file}: {error}. {download_again(file)}") from error
    return Table(notation.columns, names, values)


def list_bytes(file: Path) -> bytes:
    """Return the content of a list file. UserError: it cannot be read, or is too large."""
    try:
        return read_bytes(file, MAX_TEXT)
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        raise UserError(f"{file}: {what}. {download_again(file)}") from error


def _find_notation(lines: list[str], kind: str) -> Notation:
    """Find the first row and the names of the columns above it. ValueError: there is none."""
    header: list[str] = []
    for number, line in enumerate(lines[:HEAD]):
        delimiter = next((mark for mark in ",;\t" if mark in line), None)
        cells = [cell.strip().strip("\"'") for cell in line.split(delimiter)] or [""]
        after = int(delimiter is not None and not cells[-1])
        cells = cells[: len(cells) - after]
        before = _name_cell(cells)
        if before is None:
            if any(cells) and not "".join(cells).isdigit():  # not the number of images
                header = cells
            continue
        width, columns = len(cells) - before - 1, header
        if len(header) == len(cells) and (delimiter or header[0].lower() in NAMES_OF_NAMES):
            columns = header[before + 1 :]
        single = KINDS[kind].single
        if not width or width != (1 if single else len(columns)):
            wanted = "it takes one" if single else f"{len(columns)} columns are named above it"
            what = f"line {number + 1} ({line[:40]!r}) has {plural(width, 'number')}"
            raise ValueError(f"{what}, but {wanted}")
        return Notation(number, delimiter, before, width, after, tuple(columns))
    raise ValueError(f"names no image in its first {HEAD} lines")


def _name_cell(cells: list[str]) -> int | None:
    """Return which cell is an image's name; None: this is no row."""
    if named := [number for number, cell in enumerate(cells) if is_image_name(cell)]:
        return named[0]
    rest = cells[1:]  # 000001 in place of 000001.jpg
    return 0 if rest and all(NUMBER.fullmatch(cell) for cell in rest) else None


def _read_rows(rows: list[str], notation: Notation, kind: str) -> tuple[list[str], np.ndarray]:
    """Return the names and the numbers, (rows, width). ValueError: names the line that is wrong."""
    _, kept, wanted, _ = KINDS[kind]
    first, delimiter, before, width, after, _ = notation
    to_numbers = dict.fromkeys(range(before + 1, before + 1 + width), _to_number)

    def parse(rows: list[str], dtype: type, converters: Any = None) -> tuple[list[str], np.ndarray]:
        row = [("before", "U1", (before,)), ("name", "O"), ("values", dtype, (width,))]
        row += [("after", "U1", (after,))]
        read = np.loadtxt(
            rows, np.dtype(row), None, delimiter, converters, ndmin=1, encoding=None, quotechar='"'
        )
        numbers, names = read["values"], read["name"].tolist()
        if not ((wanted[0] <= numbers) & (numbers <= wanted[-1])).all():
            raise ValueError
        if ((values := numbers.astype(kept)) != numbers).any():
            raise ValueError
        if re.search(r"[\s\"'/\\]", "".join(names)):  # quotes, and folders before the name
            names = [re.split(r"[/\\]", name.strip().strip("\"'"))[-1] for name in names]
        return names, values

    with suppress(ValueError):
        return parse(rows, kept)
    with suppress(ValueError):  # 1.0, True
        return parse(rows, float, to_numbers)
    odd = 0
    for number, line in enumerate(rows):
        try:
            parse([line or rows[0]], float, to_numbers)
        except ValueError:
            odd = number
            break
    numbers = f"{plural(width, 'number')} from {wanted[0]} to {wanted[-1]}"
    what = f"line {first + odd + 1} ({rows[odd][:40].strip()!r})"
    raise ValueError(f"{what} is not a file name and {numbers}")


def _to_number(cell: str) -> float:
    return float(WORDS.get(cell.strip().lower(), cell))
