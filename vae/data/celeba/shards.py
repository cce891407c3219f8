"""Parquet files: which of them make up CelebA, whether they are whole, what is in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vae.data.celeba.failures import again, first_of, refuse_stand_ins
from vae.data.source import SPLITS
from vae.errors import UserError

SPLIT_NAMES = {"train": "train", "valid": "val", "validation": "val", "val": "val", "test": "test"}
WANTED = (
    "CelebA's official splits are wanted, in files named train-*.parquet, valid-*.parquet and "
    "test-*.parquet, as flwrlabs/celeba on Hugging Face has them."
)


def shards_by_split(files: Sequence[Path]) -> dict[str, list[Path]]:
    """The files of each split, in the order of their names.

    Where several whole sets are found, as in a download cache with two revisions, the first.

    Raises:
        UserError: a split or a shard of it is missing, or what stands there is no such file.
    """
    sets: dict[Path, list[Path]] = {}
    for file in sorted(files):
        above = file.parent if _split_named(file.name) else file.parent.parent
        sets.setdefault(above, []).append(file)
    whole = [each for each in sets.values() if {split_of(file) for file in each} >= set(SPLITS)]
    used = whole[0] if whole else max(sets.values(), key=len)
    shards = {split: [file for file in used if split_of(file) == split] for split in SPLITS}
    if empty := [split for split in SPLITS if not shards[split]]:
        raise UserError(
            f"data.path: {files[0].parent} has no parquet files of {' and '.join(empty)} (it "
            f"has {first_of([file.name for file in files])}). {WANTED}"
        )
    for split in SPLITS:
        _require_all(shards[split])
        for file in shards[split]:
            refuse_stand_ins(file)
    return shards


def open_shard(file: Path) -> Any:
    """A pyarrow.parquet.ParquetFile that reads a little at a time.

    Raises:
        UserError: the file is damaged, or pyarrow is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            f"{file}: reading parquet files needs pyarrow: pip install pyarrow."
        ) from error
    with damage_named(file):
        return pyarrow.parquet.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)


@contextmanager
def damage_named(file: Path, where: str = "", kind: type[UserError] = UserError) -> Iterator[None]:
    """What pyarrow raises on a file that is cut or damaged, as an error for the user."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, IndexError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise kind(
            f"{file}: {where}is damaged, or the file truncated ({reason}). {again(file)}"
        ) from error


def row_groups(file: Path, labels: Sequence[str] = ()) -> np.ndarray:
    """Where each row group of a shard begins, and its number of rows: [0, 100, ..., 10664].

    Raises:
        UserError: the file is damaged, or lacks the images or one of the labels.
    """
    opened = open_shard(file)
    schema = opened.schema_arrow
    for column in ("image", *labels):
        if column not in schema.names:
            found = first_of(schema.names)
            raise UserError(f"{file}: has no column `{column}`, but {found}. {WANTED}")
        kind = schema.field(column).type
        if not (_holds_files(kind) if column == "image" else _holds_numbers(kind)):
            raise UserError(f"{file}: column `{column}` holds {kind}. {WANTED}")
    metadata = opened.metadata
    groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return np.cumsum([0, *groups])


def _holds_files(kind: Any) -> bool:
    """Bytes, or a struct with a field of bytes, as Hugging Face's Image is."""
    from pyarrow import types

    if types.is_struct(kind):
        return any(field.name == "bytes" and _holds_files(field.type) for field in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _holds_numbers(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind) or types.is_boolean(kind) or types.is_floating(kind))


def split_of(file: Path) -> str | None:
    """From a shard's name, train-00000-of-00019.parquet, or its folder's: train/0000.parquet."""
    return _split_named(file.name) or _split_named(file.parent.name)


def _split_named(name: str) -> str | None:
    word = re.match(r"[a-z]+", name.lower())
    return SPLIT_NAMES.get(word[0]) if word else None


def _require_all(files: list[Path]) -> None:
    """Shards say how many they are: 00000-of-00019."""
    numbers = [re.search(r"(\d+)-of-(\d+)", file.name) for file in files]
    counts = {int(number[2]) for number in numbers if number}
    if len(counts) > 1:
        raise UserError(
            f"data.path: {files[0].parent} has parquet files of two sets beside each other "
            f"({first_of([file.name for file in files])}). Keep those of one."
        )
    there = {int(number[1]) for number in numbers if number}
    if len(there) < sum(number is not None for number in numbers):
        raise UserError(
            f"data.path: {files[0].parent} has a parquet file twice, under two names "
            f"({first_of([file.name for file in files])}). Remove the copy."
        )
    count = max(counts, default=0)
    missing = [f"{number:05d}-of-{count:05d}" for number in range(count) if number not in there]
    if missing:
        raise UserError(
            f"data.path: {files[0].parent} has {len(files)} of the {count} parquet files like "
            f"{files[0].name}; missing: {first_of(missing)}. Fetch the others."
        )
