"""CelebA as Hugging Face has it: parquet shards with images and labels in each row."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vae.data.base import IDENTITY, SPLITS, ImageError, Labels
from vae.data.celeba.download import download_again, first_names, reject_placeholders
from vae.utils.errors import UserError

SPLIT_NAMES = {"train": "train", "valid": "val", "validation": "val", "val": "val", "test": "test"}
COLUMNS_HELP = (
    "CelebA's official splits are wanted, in files named train-*.parquet, valid-*.parquet and "
    "test-*.parquet, as flwrlabs/celeba on Hugging Face has them."
)

FOOTER_BYTES = 1 << 16  # bytes at a shard's end: where its parts lie and how large they are
ROWS_AT_ONCE = 32  # rows in memory at a time

ATTRIBUTES = """
    5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose
    Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee
    Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard
    Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair
    Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young
""".split()  # noqa: SIM905 - 40 lines, as a list


def shards_by_split(files: Sequence[Path]) -> dict[str, list[Path]]:
    """Return the files of each split, sorted by name.

    Where several whole sets are found, as in a download cache with two revisions, the first.

    Raises:
        UserError: a split or a shard of it is missing, or what stands there is no such file.
    """
    sets: dict[Path, list[Path]] = {}
    for file in sorted(files):
        above = file.parent if _split_named(file.name) else file.parent.parent
        sets.setdefault(above, []).append(file)
    whole = [
        each for each in sets.values() if {split_of_shard(file) for file in each} >= set(SPLITS)
    ]
    used = whole[0] if whole else max(sets.values(), key=len)
    shards = {split: [file for file in used if split_of_shard(file) == split] for split in SPLITS}
    if empty := [split for split in SPLITS if not shards[split]]:
        raise UserError(
            f"data.path: {files[0].parent} has no parquet files of {' and '.join(empty)} (it "
            f"has {first_names([file.name for file in files])}). {COLUMNS_HELP}"
        )
    for split in SPLITS:
        _require_all(shards[split])
        for file in shards[split]:
            reject_placeholders(file)
    return shards


def open_shard(file: Path) -> Any:
    """Open a pyarrow.parquet.ParquetFile that reads small pieces.

    Raises:
        UserError: the file is damaged, or pyarrow is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            f"{file}: reading parquet files needs pyarrow: pip install pyarrow."
        ) from error
    with translate_parquet_errors(file):
        return pyarrow.parquet.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)


@contextmanager
def translate_parquet_errors(
    file: Path, where: str = "", kind: type[UserError] = UserError
) -> Iterator[None]:
    """Translate pyarrow's errors on truncated or damaged files into a user error."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, IndexError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise kind(
            f"{file}: {where}is damaged, or the file truncated ({reason}). {download_again(file)}"
        ) from error


def row_groups(file: Path, labels: Sequence[str] = ()) -> np.ndarray:
    """Return where each row group of a shard begins, then the number of rows: [0, 100, ..., 10664].

    Raises:
        UserError: the file is damaged, or lacks the images or one of the labels.
    """
    opened = open_shard(file)
    schema = opened.schema_arrow
    for column in ("image", *labels):
        if column not in schema.names:
            found = first_names(schema.names)
            raise UserError(f"{file}: has no column `{column}`, but {found}. {COLUMNS_HELP}")
        kind = schema.field(column).type
        if not (_holds_files(kind) if column == "image" else _holds_numbers(kind)):
            raise UserError(f"{file}: column `{column}` holds {kind}. {COLUMNS_HELP}")
    metadata = opened.metadata
    groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return np.cumsum([0, *groups])


def _holds_files(kind: Any) -> bool:
    """Return whether a column holds bytes, or structs with bytes as Hugging Face's Image."""
    from pyarrow import types

    if types.is_struct(kind):
        return any(field.name == "bytes" and _holds_files(field.type) for field in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _holds_numbers(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind) or types.is_boolean(kind) or types.is_floating(kind))


def split_of_shard(file: Path) -> str | None:
    """Return the split in a shard's name, train-00000-of-00019.parquet, or in its folder's."""
    return _split_named(file.name) or _split_named(file.parent.name)


def _split_named(name: str) -> str | None:
    word = re.match(r"[a-z]+", name.lower())
    return SPLIT_NAMES.get(word[0]) if word else None


def _require_all(files: list[Path]) -> None:
    """Require all shards of a set; names tell their number: 00000-of-00019."""
    numbers = [re.search(r"(\d+)-of-(\d+)", file.name) for file in files]
    counts = {int(number[2]) for number in numbers if number}
    if len(counts) > 1:
        raise UserError(
            f"data.path: {files[0].parent} has parquet files of two sets beside each other "
            f"({first_names([file.name for file in files])}). Keep those of one."
        )
    there = {int(number[1]) for number in numbers if number}
    if len(there) < sum(number is not None for number in numbers):
        raise UserError(
            f"data.path: {files[0].parent} has a parquet file twice, under two names "
            f"({first_names([file.name for file in files])}). Remove the copy."
        )
    count = max(counts, default=0)
    missing = [f"{number:05d}-of-{count:05d}" for number in range(count) if number not in there]
    if missing:
        raise UserError(
            f"data.path: {files[0].parent} has {len(files)} of the {count} parquet files like "
            f"{files[0].name}; missing: {first_names(missing)}. Fetch the others."
        )


class ParquetCelebA:
    """The shards of each split, in the order of their names.

    Raises:
        UserError: a shard or a split is missing or damaged, or pyarrow is not installed.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.shards = shards_by_split(files)
        columns = open_shard(self.shards["train"][0]).schema_arrow.names
        self.kinds = {
            "attributes": tuple(name for name in ATTRIBUTES if name in columns),
            "identities": tuple(name for name in ("celeb_id", "identity") if name in columns)[:1],
        }
        labels = [*self.kinds["attributes"], *self.kinds["identities"]]
        self.groups = {
            file: row_groups(file, labels) for split in SPLITS for file in self.shards[split]
        }
        # Where each shard begins in its split: [0, 8567, ..., the split's size].
        self.starts = {
            split: np.cumsum([0] + [self.groups[file][-1] for file in self.shards[split]])
            for split in SPLITS
        }
        if empty := [split for split, size in self.sizes().items() if not size]:
            raise UserError(
                f"{self.shards[empty[0]][0]}: holds no images of {empty[0]}. {COLUMNS_HELP}"
            )
        # The file and row group being read, the next row in it, and the stream of its images.
        self._reading: tuple[tuple[Path, int], int, Iterator[bytes | None]] | None = None

    def sizes(self) -> dict[str, int]:
        """Return the number of images per split."""
        return {split: int(starts[-1]) for split, starts in self.starts.items()}

    def check(self, sizes: dict[str, int]) -> None:
        """Nothing to do: the footers of the shards were read by the constructor."""

    def fingerprint(self, sizes: dict[str, int]) -> list[Any]:
        """Return each shard's name, size, and a digest of its footer."""
        marks = []
        for file in (file for split in SPLITS for file in self.shards[split]):
            with open(file, "rb") as opened:
                size = opened.seek(0, os.SEEK_END)
                opened.seek(max(0, size - FOOTER_BYTES))
                marks.append([file.name, size, hashlib.sha256(opened.read()).hexdigest()])
        return marks

    def read(self, split: str, start: int, stop: int) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of images [start, stop) of a split. ImageError: one is damaged."""
        while start < stop:
            shard = int(np.searchsorted(self.starts[split], start, side="right")) - 1
            file, first = self.shards[split][shard], int(self.starts[split][shard])
            end = min(stop, int(self.starts[split][shard + 1]))
            for row in range(start - first, end - first):
                yield f"{file}: row {row}", self._image(file, row)
            start = end

    def labels(self, split: str, count: int) -> dict[str, Labels]:
        """Return attributes and identities of the first images of a split, where columns exist."""
        labels = {}
        for kind, names in self.kinds.items():
            if names:
                values = np.concatenate([_columns(file, names) for file in self.shards[split]])
                if kind == "attributes":
                    values = (values > 0).astype(np.int8)
                labels[kind] = Labels(IDENTITY if kind == "identities" else names, values[:count])
        return labels

    def __getstate__(self) -> dict[str, Any]:
        """Pickle for workers without the open file."""
        return self.__dict__ | {"_reading": None}

    def _image(self, file: Path, row: int) -> bytes:
        """Return a row's image from a stream that continues after the last row.

        A row group is read from its beginning, some rows at a time: it may be half a
        gigabyte, and rows are nearly always asked for in their order.
        """
        group = int(np.searchsorted(self.groups[file], row, side="right")) - 1
        place = row - int(self.groups[file][group])
        if self._reading is None or self._reading[0] != (file, group) or self._reading[1] > place:
            self._reading = ((file, group), 0, _images(file, group))
        where, at, images = self._reading
        self._reading = None  # where reading it raises, the stream is of no more use
        content = next(itertools.islice(images, place - at, None), None)
        self._reading = (where, place + 1, images)
        if content is None:
            raise ImageError(f"{file}: row {row} holds no image.")
        return content


def _columns(file: Path, names: tuple[str, ...]) -> np.ndarray:
    """Read columns of numbers or bools as (rows, columns) int32, without the images."""
    with translate_parquet_errors(file):
        table = open_shard(file).read(list(names))
    for name in names:
        if table.column(name).null_count:
            raise UserError(f"{file}: column {name} is empty (null) in some rows. {COLUMNS_HELP}")
    columns = [table.column(name).to_numpy().astype(np.int32) for name in names]
    return np.stack(columns, axis=1)


def _images(file: Path, group: int) -> Iterator[bytes | None]:
    """Yield the images of a row group, in order."""
    import pyarrow

    opened = open_shard(file)
    with translate_parquet_errors(file, f"row group {group} ", ImageError):
        for batch in opened.iter_batches(
            ROWS_AT_ONCE, row_groups=[group], columns=["image"], use_threads=False
        ):
            column = batch.column(0)
            if pyarrow.types.is_struct(column.type):
                column = column.field("bytes")
            yield from column.to_pylist()
