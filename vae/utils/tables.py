"""Tables for terminals, Markdown and CSV. Cells are escaped for each of them here."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from vae.utils.files import read_text, write_atomically
from vae.utils.text import Markdown, markdown_text, printable

FORMULA = re.compile(r"'*[=+\-@\t\n＝＋－＠]")  # a spreadsheet would compute such a cell
NUMBER = re.compile(r"[+-]?[\d.]+(e[+-]?\d+)?", re.IGNORECASE)


def format_table(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Format a table for a terminal: the first `left` columns left-aligned, the others right."""
    rows = [[*map(printable, row)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            text.ljust(width) if place < left else text.rjust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Markdown:
    """Return a Markdown table. Cells are shown literally, but for those of the type Markdown."""
    lines = [
        [cell if isinstance(cell, Markdown) else markdown_text(cell) for cell in line]
        for line in (heads, *rows)
    ]
    lines.insert(1, [Markdown("---")] * len(heads))
    return Markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows as CSV, atomically: UTF-8, a header, empty where there is no value.

    Text that a spreadsheet would take for a formula gets an apostrophe before it (OWASP's rule
    against CSV injection); `read_csv` takes it away.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row))

    def write(file: Path) -> None:
        # names of files may be no Unicode
        with open(file, "w", newline="", encoding="utf-8", errors="backslashreplace") as opened:
            writer = csv.writer(opened, lineterminator="\n")
            writer.writerow(map(_with_apostrophe, keys))
            writer.writerows([_with_apostrophe(row.get(key)) for key in keys] for row in rows)

    write_atomically(path, write)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a file of `write_csv`; cells that a row lacks are empty.

    Raises:
        OSError, UnicodeDecodeError, csv.Error: it cannot be read, or is no CSV.
    """
    reader = csv.DictReader(StringIO(read_text(path), newline=""), restval="", strict=True)
    return [
        {_without_apostrophe(key): _without_apostrophe(cell) for key, cell in row.items() if key}
        for row in reader
    ]


def _with_apostrophe(cell: Any) -> Any:
    if not isinstance(cell, str) or NUMBER.fullmatch(cell):
        return cell
    cell = re.sub("\r\n?", "\n", cell)  # csv does not quote a \r, which begins a row elsewhere
    return f"'{cell}" if FORMULA.match(cell) else cell


def _without_apostrophe(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell
