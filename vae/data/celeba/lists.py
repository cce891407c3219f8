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
WORDS = {"True": "1", "False": "0", "TRUE": "1", "FALSE": "0", "true": "1", "false": "0"}
SHORT = 32  # characters of a name that NumPy reads; names that fill them are read again
MAX_LINE = 1 << 16  # characters; CelebA's have 130


class ListKind(NamedTuple):
    """A kind of list file."""

    stem: str  # of the file's name
    dtype: type[np.integer[Any]]
    numbers: range  # allowed values
    single: bool  # one column is read


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
    """How a list file writes its rows."""

    first: int  # the first row's place among the lines
    delimiter: str | None  # None: blanks
    cells: int  # per row
    name: int  # the cell with the image's name: after an index, as pandas writes it
    start: int  # the first cell that is read as a number
    columns: tuple[str, ...]  # names of the cells that are read; () where there are none
    width: int  # how many are read


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
    del content
    try:
        if (count := text.count("\n")) > MAX_IMAGES:
            raise ValueError(f"has {count:,} lines, but CelebA has 202,599 images")
        if "\0" in text:
            number = text.partition("\0")[0].count("\n") + 1
            raise ValueError(f"line {number} has a null byte")
        lines = text.split("\n")
        if re.search(r"\A[#\s]", text) or re.search(r"\n[#\s]", text):
            lines = ["" if line.isspace() or line.startswith("#") else line for line in lines]
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
        full = len(cells) - (delimiter is not None and not cells[-1])  # a comma may end the line
        name = _name_cell(cells[:full])
        if name is None:
            if sum(map(bool, cells)) > 1 or not (cells[0].isdigit() or not cells[0]):
                header = cells[:full]  # no empty line, and not the number of images
            continue
        start, width, columns = name + 1, full - name - 1, header
        if len(header) == full and (delimiter or header[0].lower() in NAMES_OF_NAMES):
            columns = header[start:]
        if KINDS[kind].single and width:
            at = columns.index(kind) if kind in columns[:width] else 0
            start, width, columns = start + at, 1, columns[at : at + 1]
        if not width or (header and len(columns) != width):
            above = f"{len(columns)} columns are named above it" if header else "no number"
            raise ValueError(f"line {number + 1} ({line[:40]!r}) has {width} numbers, but {above}")
        if not (header or KINDS[kind].single):
            raise ValueError(f"no columns are named above line {number + 1} ({line[:40]!r})")
        columns = [column.replace(" ", "_") for column in columns]
        if len(set(columns)) < len(columns):
            raise ValueError(f"names column {Counter(columns).most_common(1)[0][0]} twice")
        return Notation(number, delimiter, len(cells), name, start, tuple(columns), width)
    raise ValueError(f"names no image in its first {HEAD} lines")


def _name_cell(cells: list[str]) -> int | None:
    """Return which cell is an image's name; None: this is no row."""
    if named := [number for number, cell in enumerate(cells) if is_image_name(cell)]:
        return named[0]
    rest = cells[1:]  # 000001 in place of 000001.jpg
    return 0 if rest and all(NUMBER.fullmatch(cell) for cell in rest) else None


def _split_names(rows: list[str], notation: Notation) -> list[str]:
    """Return the cell of each row with the image's name, of any length."""
    place = notation.name
    return [row.split(notation.delimiter, place + 1)[place] for row in filter(None, rows)]


def _clean_names(names: list[str]) -> list[str]:
    """Return names without quotes and the folders before them."""
    if re.search(r"[\s\"'/\\]", "".join(names)):
        names = [re.split(r"[/\\]", name.strip().strip("\"'"))[-1] for name in names]
    return names


def _read_rows(rows: list[str], notation: Notation, kind: str) -> tuple[list[str], np.ndarray]:
    """Return the names and the numbers, (rows, width). ValueError: names the line that is wrong."""
    _, kept, wanted, _ = KINDS[kind]
    first, delimiter, cells, name, start, _, width = notation

    def parse(rows: list[str], dtype: type) -> tuple[list[str], np.ndarray]:
        skipped = {"before": name, "between": start - name - 1, "after": cells - start - width}
        before, between, after = ((part, "U1", (count,)) for part, count in skipped.items())
        fields = [before, ("name", f"U{SHORT}"), between, ("values", dtype, (width,)), after]
        read = np.loadtxt(rows, np.dtype(fields), None, delimiter, ndmin=1, quotechar='"')
        numbers, names = read["values"], read["name"].tolist()
        values: np.ndarray = numbers.astype(kept)
        if not ((wanted[0] <= numbers) & (numbers <= wanted[-1]) & (values == numbers)).all():
            raise ValueError
        is_cut = max(map(len, names)) == SHORT
        return _clean_names(_split_names(rows, notation) if is_cut else names), values

    def parse_words(rows: list[str]) -> tuple[list[str], np.ndarray]:  # 1.0, True
        text = "\n".join(rows)
        for word, digit in WORDS.items():
            text = text.replace(word, digit)
        rows = text.split("\n")
        with suppress(ValueError):
            return parse(rows, kept)
        with np.errstate(invalid="ignore"):
            return parse(rows, np.float64)

    with suppress(ValueError):
        return parse(rows, kept)
    with suppress(ValueError):  # of a name too, the words were replaced
        return _clean_names(_split_names(rows, notation)), parse_words(rows)[1]
    odd = 0
    for number, line in enumerate(rows):
        try:
            parse_words([line or rows[0]])
        except ValueError:
            odd = number
            break
    numbers = f"{plural(width, 'number')} from {wanted[0]} to {wanted[-1]}"
    what = f"line {first + odd + 1} ({rows[odd][:40].strip()!r})"
    raise ValueError(f"{what} is not a file name and {numbers}")
