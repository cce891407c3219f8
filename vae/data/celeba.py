"""CelebA in its official layout (Liu et al. 2015, Deep Learning Face Attributes in the Wild).

    celeba/
      img_align_celeba/000001.jpg ...   the aligned faces, 178x218
      list_eval_partition.txt           the official split
      list_attr_celeba.txt              40 attributes; optional

The lists are read here and not by torchvision, which wants five of them, hashes them at
each start, takes 23 seconds and says the same sentence whatever is wrong.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import MISSING

from vae.data.images import limit_splits, load_square
from vae.data.source import SPLITS, DataConfig, Labels
from vae.errors import UserError, require

READER_VERSION = 1  # part of the fingerprint: raise it when the same files give other pixels

IMAGES = "img_align_celeba"
PARTITION = "list_eval_partition.txt"
ATTRIBUTES = "list_attr_celeba.txt"

LAYOUT = f"""It should hold
  {IMAGES}/000001.jpg ...   (the aligned images, unzipped)
  {PARTITION}
  {ATTRIBUTES}              (optional: the attributes)
CelebA comes from its authors, https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, or from Kaggle.
If yours lies elsewhere: data.path=FOLDER. To try things without it: data=synthetic."""


@dataclass
class CelebAConfig(DataConfig):
    """`data=celeba`."""

    path: str | None = MISSING  # CelebA's folder; null = celeba/ under data.root
    crop: int | None = MISSING  # centre square cut before resizing, pixels; null = the largest

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop is not None:
            require(self.crop >= 8, "data.crop", self.crop, "null or an int >= 8")


class CelebASource:
    """An `ImageSource` of CelebA in its official split, in the order of its partition file.

    `data.num_images` takes the first images of each split, in proportion.

    Raises:
        UserError: a file is missing (names it) or is not what it should be.
    """

    name = "celeba"

    def __init__(self, config: CelebAConfig) -> None:
        self.root = Path(config.path or Path(config.root) / "celeba").expanduser()
        self.image_size = config.image_size
        self.crop = config.crop
        _check_layout(self.root)
        # Checked now, parsed when packing: half a second, which a warm cache does not need.
        self.attribute_names = _attribute_names(self.root / ATTRIBUTES)
        files = _read_partition(self.root / PARTITION)
        _check_images(self.root / IMAGES, [name for names in files.values() for name in names])
        counts = limit_splits({split: len(files[split]) for split in SPLITS}, config.num_images)
        self.files = {split: files[split][: counts[split]] for split in SPLITS}

    def fingerprint(self) -> dict[str, Any]:
        """Size, crop, images per split, the lists' content, and size and time of 1,000 images.

        A sample, since asking a cluster's file system about 202,599 files takes a minute
        at every start, and CelebA is not a set whose pictures change one by one.
        """
        names = [name for split in SPLITS for name in self.files[split]]
        digest = hashlib.sha256()
        for name in names[:: -(-len(names) // 1000)]:
            stat = (self.root / IMAGES / name).stat()
            digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        lists = {
            file: hashlib.sha256((self.root / file).read_bytes()).hexdigest()
            for file in (PARTITION, ATTRIBUTES)
            if (self.root / file).exists()
        }
        return {
            "reader": READER_VERSION,
            "image_size": self.image_size,
            "crop": self.crop,
            "sizes": self.sizes(),
            "lists": lists,
            "images": digest.hexdigest(),
        }

    def sizes(self) -> dict[str, int]:
        """Images per split, keys `SPLITS`."""
        return {split: len(self.files[split]) for split in SPLITS}

    def read(self, split: str, start: int, stop: int) -> np.ndarray:
        """Images [start, stop) of a split: (n, size, size, 3) uint8. UserError names a bad file."""
        files = [self.root / IMAGES / name for name in self.files[split][start:stop]]
        return np.stack([load_square(file, self.image_size, self.crop) for file in files])

    def attributes(self, split: str) -> Labels | None:
        """CelebA's 40 attributes as 0/1, (n, 40) int8; None without list_attr_celeba.txt.

        Reads the whole list: half a second.

        Raises:
            UserError: a line of the list is not right, or an image is not in it.
        """
        if not self.attribute_names:
            return None
        file = self.root / ATTRIBUTES
        table = _read_table(file, width=len(self.attribute_names), header_lines=2)
        row_of = {name: row for row, name in enumerate(table["name"].tolist())}
        unlisted = [name for name in self.files[split] if name not in row_of]
        if unlisted:
            raise UserError(
                f"{file}: {len(unlisted)} images of {PARTITION} have no line here "
                f"({_first(unlisted)}). {_again(file)}"
            )
        values = table["values"][[row_of[name] for name in self.files[split]]]
        return Labels(self.attribute_names, (values > 0).astype(np.int8))

    def factors(self, split: str) -> Labels | None:
        """None: nobody knows what made these faces."""
        return None


def _check_layout(root: Path) -> None:
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "there is no such folder"
        raise UserError(f"data.path: {root}: {what}. {LAYOUT}")
    missing = [name for name in (f"{IMAGES}/", PARTITION) if not (root / name).exists()]
    if missing:
        found = sorted(entry.name for entry in root.iterdir())
        raise UserError(
            f"data.path: {root} lacks {' and '.join(missing)} "
            f"(it holds {_first(found) if found else 'nothing'}). {LAYOUT}"
        )


def _check_images(folder: Path, names: list[str]) -> None:
    """Every listed image is there, by one listing of the folder."""
    there = set(os.listdir(folder))
    missing = [name for name in names if name not in there]
    if missing:
        raise UserError(
            f"data.path: {folder} lacks {len(missing)} of the {len(names)} images that {PARTITION} "
            f"lists ({_first(missing)}). Unzip all of {IMAGES}.zip into {folder.parent}."
        )


def _read_partition(file: Path) -> dict[str, list[str]]:
    """The images' names per split, in the file's order: 0, 1, 2 -> train, val, test."""
    _refuse_html(file)
    table = _read_table(file, width=1, header_lines=0)
    numbers = table["values"][:, 0]
    if not np.isin(numbers, (0, 1, 2)).all():
        odd = numbers[~np.isin(numbers, (0, 1, 2))][0]
        raise UserError(f"{file}: holds split {odd}, but a split is 0, 1 or 2. {_again(file)}")
    files = {
        split: table["name"][numbers == number].tolist() for number, split in enumerate(SPLITS)
    }
    empty = [split for split in SPLITS if not files[split]]
    if empty:
        raise UserError(f"{file}: lists no images for {' and '.join(empty)}. {_again(file)}")
    return files


def _attribute_names(file: Path) -> tuple[str, ...]:
    """From the list's second line (whose trailing space is no name); () without the list."""
    if not file.exists():
        return ()
    _refuse_html(file)
    with open(file, encoding="utf-8", errors="replace") as lines:
        count, names = next(lines, "").strip(), next(lines, "").split()
    if not count.isdigit() or not names:
        raise UserError(
            f"{file}: its first two lines should be the number of images and the attributes' "
            f"names, but it begins with {count[:40]!r}. {_again(file)}"
        )
    return tuple(names)


def _read_table(file: Path, width: int, header_lines: int) -> np.ndarray:
    """Lines of a name and `width` small ints: a record array, fields "name" and "values"."""
    if file.stat().st_size == 0:
        raise UserError(f"{file}: the file is empty (0 bytes). {_again(file)}")
    kinds = np.dtype([("name", "U32"), ("values", np.int8, (width,))])
    try:
        return np.loadtxt(
            file, kinds, comments=None, skiprows=header_lines, ndmin=1, encoding="utf-8"
        )
    except ValueError as error:
        raise UserError(
            f"{file}: {_odd_line(file, width, header_lines)} is not a file name and {width} "
            f"value{'s' * (width > 1)}. {_again(file)}"
        ) from error


def _odd_line(file: Path, width: int, header_lines: int) -> str:
    """The first line that `_read_table` cannot read: its number and how it begins."""
    with open(file, encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            words = line.split()
            right = len(words) == 1 + width and {"-1", "0", "1", "2"}.issuperset(words[1:])
            if number > header_lines and words and not right:
                return f"line {number} ({line[:40].strip()!r})"
    return "a line"


def _refuse_html(file: Path) -> None:
    """Google Drive answers with a page where it refuses a download, and it gets saved."""
    with open(file, "rb") as opened:
        if opened.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
            raise UserError(
                f"{file}: is an HTML page and not the list: the download was refused, often "
                f"because Google Drive's daily quota was used up. {_again(file)}"
            )


def _again(file: Path) -> str:
    return f"Get {file.name} again from where you got CelebA."


def _first(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
