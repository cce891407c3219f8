"""CelebA as Hugging Face has it: parquet shards with images and labels in each row."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vae.data.base import IDENTITY, SPLITS, ImageError, Labels
from vae.data.celeba.download import download_again, first_names, reject_placeholders
from vae.data.celeba.listed import BY_HASH, rows_by_hash
from vae.data.celeba.stores import MAX_IMAGES, MEMBER_BYTES, fingerprint_end
from vae.data.images import FIX
from vae.utils.errors import UserError
from vae.utils.files import open_regular

SHARDS_WANTED = (
    "CelebA's official splits are wanted, in files named train-*.parquet, valid-*.parquet and "
    f"test-*.parquet, as flwrlabs/celeba on Hugging Face has them. {BY_HASH}"
)
NAME_BYTES = 1 << 10  # bytes: limit of the names of a row group, per image
FOOTER_BYTES = 1 << 16  # bytes at a shard's end: where its parts lie and how large they are

ATTRIBUTES = """
    5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose
    Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee
    Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard
    Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair
    Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young
""".split()  # noqa: SIM905 - 40 lines, as a list


def split_of_shard(file: Path) -> str | None:
    """Return the split in a shard's name, train-00000-of-00019.parquet; None for other files."""
    name = r"(train|val|test)(id|idation)?(?![a-z]).*\.parquet"
    found = re.fullmatch(name, file.name.lower())
    return found and found[1]


def shards_by_split(files: Sequence[Path], wanted: Sequence[str]) -> dict[str, list[Path]]:
    """Return the files of each split, sorted by name.

    Where several folders have them, as in a download cache with two revisions, the first that
    has the most splits. The names tell how many there are: train-00000-of-00019.parquet.

    Raises:
        UserError: a wanted split or a shard of any is missing or there twice, or a placeholder.
    """
    folders: dict[Path, dict[str, list[Path]]] = {}
    for file in sorted(files):
        shards = folders.setdefault(file.parent, {split: [] for split in SPLITS})
        shards[str(split_of_shard(file))].append(file)
    folder, shards = max(folders.items(), key=lambda found: sum(map(bool, found[1].values())))
    for split, found in shards.items():
        names = [file.name for file in found]
        numbers = re.findall(r"\d+-of-\d+", " ".join(names))
        count = int(numbers[0].rpartition("-")[2]) if numbers else len(names)
        all_of_them = [f"{number:05d}-of-{count:05d}" for number in range(min(count, MAX_IMAGES))]
        missing = [number for number in all_of_them if numbers and number not in numbers]
        wrong = ""
        if not names and split in wanted:
            wrong = f"no parquet files of {split}"
        elif missing:
            having = f"{len(names)} of the {count} parquet files of {split}"
            wrong = f"{having}; missing: {first_names(missing)}"
        elif len(names) > count:
            wrong = f"one parquet file of {split} twice, or of another set ({first_names(names)})"
        if wrong:
            raise UserError(f"data.path: {folder} has {wrong}. {SHARDS_WANTED}")
        for file in found:
            reject_placeholders(file)
    return shards


@contextmanager
def open_shard(file: Path, kind: type[UserError] = UserError) -> Iterator[Any]:
    """Open a shard: yield its pyarrow.parquet.ParquetFile.

    Raises:
        UserError: pyarrow is not installed.
        kind: the file is damaged, which is seen when it is opened or while it is read.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UserError(f"{file}: reading it needs pyarrow: pip install pyarrow.") from error
    try:
        with open_regular(file) as content, ParquetFile(content) as opened:
            yield opened
    except (ArrowException, OSError, LookupError, ValueError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise kind(
            f"{file}: is damaged, or the file truncated ({reason}). {download_again(file)}"
        ) from error


class Group(NamedTuple):
    """A row group of a shard: Hugging Face's `datasets` writes groups of 100 images."""

    file: Path
    number: int  # in the shard
    before: int  # rows of the shard before it
    rows: int


class ParquetCelebA:
    """The rows of all shards, in the order of splits and names.

    Args:
        files: the shards.
        split: official: the rows of a split are those of its shards; hash: by image name.

    Raises:
        UserError: a shard or a split is missing or damaged, or pyarrow is not installed.
    """

    def __init__(self, files: Sequence[Path], split: str) -> None:
        official = split == "official"
        self.groups: list[Group] = []
        self.rows: dict[str, np.ndarray] = {}  # of all shards, per split
        self.files = shards_by_split(files, SPLITS if official else ())
        count = 0
        for name, shards in self.files.items():
            start = count
            for file in shards:
                before = count
                for number, rows in enumerate(_row_counts(file)):
                    self.groups.append(Group(file, number, count - before, rows))
                    count += rows
                if count > MAX_IMAGES:
                    what = f"has {count:,} rows with those before it, of at most {MAX_IMAGES:,}"
                    raise UserError(f"{file}: {what}. {SHARDS_WANTED}")
            if count == start and official:
                raise UserError(f"{shards[0]}: holds no images of {name}. {SHARDS_WANTED}")
            self.rows[name] = np.arange(start, count)
        self._edges = np.cumsum([0, *(group.rows for group in self.groups)])
        if not official:
            self.rows = rows_by_hash(self._names())
        # An opened group, the number of its next image, and the images from it on.
        self._next: tuple[Group, int, Iterator[bytes | None]] | None = None

    def sizes(self) -> dict[str, int]:
        """Return the number of images per split."""
        return {split: len(rows) for split, rows in self.rows.items()}

    def check(self, sizes: dict[str, int]) -> None:
        """Nothing to do: the footers of the shards were read by the constructor."""

    def fingerprint(self, sizes: dict[str, int]) -> list[Any]:
        """Return each shard's name, size, and a digest of its footer."""
        files = [file for shards in self.files.values() for file in shards]
        return [[file.name, *fingerprint_end(file, FOOTER_BYTES)] for file in files]

    def read(self, split: str, start: int, stop: int) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of images [start, stop) of a split. ImageError: one is damaged."""
        for row in self.rows[split][start:stop].tolist():
            place = int(np.searchsorted(self._edges, row, "right")) - 1
            group, number = self.groups[place], row - int(self._edges[place])
            name = f"{group.file}: row {group.before + number}"
            content = self._image(group, number)
            if content is None:
                raise ImageError(f"{name} holds no image.")
            if len(content) > MEMBER_BYTES:
                raise ImageError(f"{name}: is too large: {len(content) / 1e6:,.0f} MB. {FIX}")
            yield name, content

    def labels(self, split: str, count: int) -> dict[str, Labels]:
        """Return attributes and identities of the first images of a split, where columns exist.

        Raises:
            UserError: a shard lacks a column that the first one has, or is damaged.
        """
        labels = {}
        with open_shard(self.groups[0].file) as opened:
            there = opened.schema_arrow.names
        rows = self.rows[split][:count]
        if attributes := [name for name in ATTRIBUTES if name in there]:
            values = self._columns(attributes, rows)
            labels["attributes"] = Labels(tuple(attributes), (values > 0).astype(np.int8))
        if "celeb_id" in there:
            labels["identities"] = Labels(IDENTITY, self._columns(["celeb_id"], rows))
        return labels

    def __getstate__(self) -> dict[str, Any]:
        """Pickle for workers without an opened shard."""
        return self.__dict__ | {"_next": None}

    def _image(self, group: Group, number: int) -> bytes | None:
        """Return an image file of a row group; they are nearly always asked for in order.

        One by one: a file of a few bytes can stand for any number of large images.
        """
        if self._next is None or self._next[0] is not group or number < self._next[1]:
            self._next = group, 0, _column(group.file, [group], "bytes", 1)
        _, following, images = self._next
        self._next = None  # after an error the group is opened again
        for place, image in enumerate(images, start=following):
            if place == number:
                self._next = group, number + 1, images
                return image
        what = f"is damaged: row {group.before + number} is missing"
        raise ImageError(f"{group.file}: {what}. {download_again(group.file)}")

    def _names(self) -> list[str]:
        """Return the file name of each image; where a shard has none, its row's number."""
        names = []
        for file, groups in groupby(self.groups, attrgetter("file")):
            for number, name in enumerate(_column(file, list(groups), "path", 100)):
                names.append(name or f"{file.name}-{number}")
        return [name.replace("\\", "/").rpartition("/")[2] for name in names]

    def _columns(self, names: list[str], rows: np.ndarray) -> np.ndarray:
        """Read columns of numbers or bools as (rows, columns) int32, without the images."""
        values = np.zeros((int(self._edges[-1]), len(names)), np.int32)
        start = 0
        for file, groups in groupby(self.groups, attrgetter("file")):
            stop = start + sum(group.rows for group in groups)
            if ((start <= rows) & (rows < stop)).any():
                with open_shard(file) as opened:
                    table = opened.read(names)
                    for number, name in enumerate(names):
                        column = table.column(name)
                        if column.null_count:
                            raise ValueError(f"column {name} is empty in some rows")
                        values[start:stop, number] = column.to_numpy()
            start = stop
        found: np.ndarray = values[rows]
        return found


def _column(file: Path, groups: Sequence[Group], part: str, rows: int) -> Iterator[Any]:
    """Yield the `bytes` or the `path` of each image of row groups, reading `rows` at a time.

    A column of plain bytes has no paths: None for each.

    Raises:
        ImageError: it is damaged, or too large.
    """
    with open_shard(file, ImageError) as opened:
        paths = [opened.schema.column(number).path for number in range(len(opened.schema))]
        leaf = f"image.{part}" if f"image.{part}" in paths else "image"
        if leaf == "image" and part == "path":
            yield from [None] * sum(group.rows for group in groups)
            return
        for group in groups:
            limit = group.rows * (MEMBER_BYTES if part == "bytes" else NAME_BYTES)
            about = opened.metadata.row_group(group.number).column(paths.index(leaf))
            if about.total_uncompressed_size > limit:
                raise ValueError(f"row group {group.number} is larger than {limit / 1e6:,.0f} MB")
        numbers = [group.number for group in groups]
        batches = opened.iter_batches(rows, numbers, [leaf], use_threads=False)
        for batch in batches:
            column = batch.column(0)
            yield from (column if leaf == "image" else column.field(part)).to_pylist()


def _row_counts(file: Path) -> list[int]:
    """Return the number of rows of each row group of a shard.

    Raises:
        UserError: the file is damaged, or lacks the images.
    """
    with open_shard(file) as opened:
        kinds = {column.name: str(column.type) for column in opened.schema_arrow}
        metadata = opened.metadata
        rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    if "binary" not in kinds.get("image", ""):
        raise UserError(f"{file}: has no column `image` of image files. {SHARDS_WANTED}")
    return rows
