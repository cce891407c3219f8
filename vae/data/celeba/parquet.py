"""CelebA as Hugging Face has it: parquet shards with a split, images and labels in each row."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vae.data.celeba.shards import (
    WANTED,
    damage_named,
    open_shard,
    row_groups,
    shards_by_split,
)
from vae.data.source import IDENTITY, SPLITS, ImageError, Labels
from vae.errors import UserError

TAIL = 1 << 16  # bytes at a shard's end: where its parts lie and how large they are
BATCH = 32  # rows in memory at a time

ATTRIBUTES = """
    5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose
    Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee
    Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard
    Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair
    Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young
""".split()  # noqa: SIM905 - 40 lines, as a list


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
            raise UserError(f"{self.shards[empty[0]][0]}: holds no images of {empty[0]}. {WANTED}")
        # The file and row group being read, the next row in it, and the stream of its images.
        self._reading: tuple[tuple[Path, int], int, Iterator[bytes | None]] | None = None

    def sizes(self) -> dict[str, int]:
        """Images per split."""
        return {split: int(starts[-1]) for split, starts in self.starts.items()}

    def check(self, sizes: dict[str, int]) -> None:
        """All is known from the shards' own ends, which were read."""

    def mark(self, sizes: dict[str, int]) -> list[Any]:
        """JSON-able: each shard's name, size, and a digest of its end."""
        marks = []
        for file in (file for split in SPLITS for file in self.shards[split]):
            with open(file, "rb") as opened:
                size = opened.seek(0, os.SEEK_END)
                opened.seek(max(0, size - TAIL))
                marks.append([file.name, size, hashlib.sha256(opened.read()).hexdigest()])
        return marks

    def read(self, split: str, start: int, stop: int) -> Iterator[tuple[str, bytes]]:
        """Name and content of the images [start, stop) of a split. ImageError: one is damaged."""
        while start < stop:
            shard = int(np.searchsorted(self.starts[split], start, side="right")) - 1
            file, first = self.shards[split][shard], int(self.starts[split][shard])
            end = min(stop, int(self.starts[split][shard + 1]))
            for row in range(start - first, end - first):
                yield f"{file}: row {row}", self._image(file, row)
            start = end

    def labels(self, split: str, count: int) -> dict[str, Labels]:
        """Attributes and identities of the first images of a split, where there are columns."""
        labels = {}
        for kind, names in self.kinds.items():
            if names:
                values = np.concatenate([_columns(file, names) for file in self.shards[split]])
                if kind == "attributes":
                    values = (values > 0).astype(np.int8)
                labels[kind] = Labels(IDENTITY if kind == "identities" else names, values[:count])
        return labels

    def __getstate__(self) -> dict[str, Any]:
        """For workers: without the file that is being read."""
        return self.__dict__ | {"_reading": None}

    def _image(self, file: Path, row: int) -> bytes:
        """A row's image, from a stream that goes on where the last row was.

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
    """Columns of numbers or bools as (rows, columns) int32; images are not touched."""
    with damage_named(file):
        table = open_shard(file).read(list(names))
    for name in names:
        if table.column(name).null_count:
            raise UserError(f"{file}: column {name} is empty (null) in some rows. {WANTED}")
    columns = [table.column(name).to_numpy().astype(np.int32) for name in names]
    return np.stack(columns, axis=1)


def _images(file: Path, group: int) -> Iterator[bytes | None]:
    """The images of a row group, in order."""
    import pyarrow

    opened = open_shard(file)
    with damage_named(file, f"row group {group} ", ImageError):
        for batch in opened.iter_batches(
            BATCH, row_groups=[group], columns=["image"], use_threads=False
        ):
            column = batch.column(0)
            if pyarrow.types.is_struct(column.type):
                column = column.field("bytes")
            yield from column.to_pylist()
