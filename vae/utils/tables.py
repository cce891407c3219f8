"""Tables for terminals, Markdown and CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vae.utils.files import write_atomically


def format_table(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Format a table for a terminal: the first `left` columns left-aligned, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            text.ljust(width) if place < left else text.rjust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table. The caller escapes the cells."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows as CSV, atomically: UTF-8, a header, empty where there is no value."""
    keys = list(dict.fromkeys(key for row in rows for key in row))

    def write(file: Path) -> None:
        with open(file, "w", newline="", encoding="utf-8") as opened:
            writer = csv.DictWriter(opened, keys, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(path, write)
