"""CelebA as Hugging Face has it: parquet shards with images and labels in each row."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vae.data.base import IDENTITY, SPLITS, ImageError, Labels
from vae.data.celeba.download import download_again, first_names, reject_placeholders
from vae.data.celeba.stores import fingerprint_end
from vae.utils.errors import UserError

SHARDS_WANTED = (
    "CelebA's official splits are wanted, in files named train-*.parquet, valid-*.parquet and "
    "test-*.parquet, as flwrlabs/celeba on Hugging Face has them."
)
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


def shards_by_split(files: Sequence[Path]) -> dict[str, list[Path]]:
    """Return the files of each split, sorted by name.

    Where several folders have them, as in a download cache with two revisions, the first that
    has all splits. The names tell how many there are: train-00000-of-00019.parquet.

    Raises:
        UserError: a split or a shard of it is missing or there twice, or a placeholder.
    """
    folders: dict[Path, dict[str, list[Path]]] = {}
    for file in sorted(files):
        shards = folders.setdefault(file.parent, {split: [] for split in SPLITS})
        shards[str(split_of_shard(file))].append(file)
    folder, shards = max(folders.items(), key=lambda found: all(found[1].values()))
    for split, found in shards.items():
        names = [file.name for file in found]
        numbers = re.findall(r"\d+-of-\d+", " ".join(names))
        count = int(numbers[0].rpartition("-")[2]) if numbers else len(names)
        wanted = [f"{number:05d}-of-{count:05d}" for number in range(count)]
        missing = [number for number in wanted if numbers and number not in numbers]
        wrong = ""
        if not names:
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
        with ParquetFile(file) as opened:
            yield opened
    except (ArrowException, OSError, LookupError, ValueError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise kind(
            f"{file}: is damaged, or the file truncated ({reason}). {download_again(file)}"
        ) from error


class Shard(NamedTuple):
    """A shard, which is read by row groups: Hugging Face's `datasets` writes 100 images each."""

    file: Path
    edges: np.ndarray  # where its row groups begin in its split, and the last one ends


class ParquetCelebA:
    """The shards of each split, in the order of their names.

    Raises:
        UserError: a shard or a split is missing or damaged, or pyarrow is not installed.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.shards: dict[str, list[Shard]] = {}
        self._sizes: dict[str, int] = {}
        for split, found in shards_by_split(files).items():
            shards, size = [], 0
            for file in found:
                shards.append(Shard(file, size + np.cumsum([0, *_row_counts(file)])))
                size = int(shards[-1].edges[-1])
            if not size:
                raise UserError(f"{found[0]}: holds no images of {split}. {SHARDS_WANTED}")
            self.shards[split], self._sizes[split] = shards, size
        self._last: tuple[Path, int, list[bytes | None]] | None = None  # row group, its images

    def sizes(self) -> dict[str, int]:
        """Return the number of images per split."""
        return self._sizes

    def check(self, sizes: dict[str, int]) -> None:
        """Nothing to do: the footers of the shards were read by the constructor."""

    def fingerprint(self, sizes: dict[str, int]) -> list[Any]:
        """Return each shard's name, size, and a digest of its footer."""
        files = [shard.file for shards in self.shards.values() for shard in shards]
        return [[file.name, *fingerprint_end(file, FOOTER_BYTES)] for file in files]

    def read(self, split: str, start: int, stop: int) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of images [start, stop) of a split. ImageError: one is damaged."""
        for file, edges in self.shards[split]:
            for group in np.flatnonzero((edges[:-1] < stop) & (start < edges[1:])).tolist():
                images = self._images(file, group)
                for number in range(max(start, edges[group]), min(stop, edges[group + 1])):
                    name = f"{file}: row {number - edges[0]}"
                    content = images[number - edges[group]]
                    if content is None:
                        raise ImageError(f"{name} holds no image.")
                    yield name, content

    def labels(self, split: str, count: int) -> dict[str, Labels]:
        """Return attributes and identities of the first images of a split, where columns exist.

        Raises:
            UserError: a shard lacks a column that the first one has, or is damaged.
        """
        labels = {}
        with open_shard(self.shards["train"][0].file) as opened:
            there = opened.schema_arrow.names
        if attributes := [name for name in ATTRIBUTES if name in there]:
            values = self._columns(split, attributes)[:count]
            labels["attributes"] = Labels(tuple(attributes), (values > 0).astype(np.int8))
        if "celeb_id" in there:
            labels["identities"] = Labels(IDENTITY, self._columns(split, ["celeb_id"])[:count])
        return labels

    def __getstate__(self) -> dict[str, Any]:
        """Pickle for workers without the images of a row group."""
        return self.__dict__ | {"_last": None}

    def _images(self, file: Path, group: int) -> list[bytes | None]:
        """Return the image files of a row group; rows are nearly always asked for in order."""
        if self._last is None or self._last[:2] != (file, group):
            with open_shard(file, ImageError) as opened:
                table = opened.read_row_group(group, columns=["image"], use_threads=False)
                images = table.column("image").combine_chunks()
                if hasattr(images, "field"):  # a struct of bytes and path, as datasets.Image
                    images = images.field("bytes")
                self._last = file, group, images.to_pylist()
        return self._last[2]

    def _columns(self, split: str, names: list[str]) -> np.ndarray:
        """Read columns of numbers or bools as (rows, columns) int32, without the images."""
        parts = []
        for file, _ in self.shards[split]:
            with open_shard(file) as opened:
                table = opened.read(names)
                columns = [table.column(name) for name in names]
                if empty := [n for n, c in zip(names, columns, strict=True) if c.null_count]:
                    raise ValueError(f"column {empty[0]} is empty in some rows")
                parts.append(np.stack([c.to_numpy().astype(np.int32) for c in columns], axis=1))
        return np.concatenate(parts)


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
