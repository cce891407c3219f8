"""Checksums of files by blocks, so that damage is found, and by a glance at a few blocks."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

BLOCK = 1 << 20  # bytes
GLANCES = 4  # blocks or so that a quick look reads: the first, the last, and some between


def checksums(file: Path) -> list[int]:
    """CRC-32 of each block of a file. OSError: it cannot be read."""
    return list(_checksums(file, range(_blocks(file))))


def damaged_blocks(file: Path, expected: list[int], *, all_of_it: bool = False) -> list[int]:
    """The blocks of a file that are not what they were.

    Args:
        file: it has the size that it had.
        expected: its `checksums` then.
        all_of_it: read every block; else `GLANCES` of them, which costs milliseconds.

    Raises:
        OSError: the file cannot be read.
    """
    count = len(expected)
    if not count:  # an empty file
        return []
    step = 1 if all_of_it else max(1, (count - 1) // (GLANCES - 1))
    blocks = sorted({*range(0, count, step), count - 1})
    found = zip(blocks, _checksums(file, blocks), strict=True)
    return [block for block, checksum in found if checksum != expected[block]]


def seal(values: dict[str, Any]) -> str:
    """JSON text of some values and their checksum: `unseal` gives them back."""
    return json.dumps(values | {"crc32": zlib.crc32(json.dumps(values).encode())})


def unseal(text: str) -> dict[str, Any]:
    """What was sealed.

    Raises:
        ValueError: the text is no JSON, or not what it was.
    """
    values: dict[str, Any] = json.loads(text)
    checksum = values.pop("crc32", None)
    if checksum != zlib.crc32(json.dumps(values).encode()):
        raise ValueError("other checksum")
    return values


def _blocks(file: Path) -> int:
    return -(-file.stat().st_size // BLOCK)


def _checksums(file: Path, blocks: Iterable[int]) -> Iterable[int]:
    with open(file, "rb") as opened:
        for block in blocks:
            opened.seek(block * BLOCK)
            yield zlib.crc32(opened.read(BLOCK))
