"""Detection of CelebA's layout below a folder."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path

from vae.data.celeba.download import WAYS_TO_GET, reject_placeholders
from vae.data.celeba.lists import KINDS, ListedCelebA
from vae.data.celeba.parquet import SHARDS_WANTED, ParquetCelebA, split_of_shard
from vae.data.celeba.stores import FolderStore, Store, ZipStore
from vae.data.images import count_suffixes, is_image_name
from vae.utils.errors import UserError

IMAGES = "img_align_celeba"
IGNORED = ("__MACOSX", "img_celeba")  # the second: the photographs before alignment
MAX_DEPTH = 5  # folders below data.path: Hugging Face's cache has its files there
MAX_ENTRIES = 1000  # entries looked at of each folder: one with 202,599 images is not searched

Layout = ListedCelebA | ParquetCelebA


@dataclass
class DiscoveredFiles:
    """CelebA's files below a folder, the least deep first.

    | layout                       | images         | partition and labels |
    | ---------------------------- | -------------- | -------------------- |
    | torchvision's, the authors'  | a folder       | list_*.txt           |
    | either, not unpacked         | a zip          | list_*.txt           |
    | Kaggle's                     | a folder       | list_*.csv           |
    | Hugging Face's               | parquet shards | in each row of these |
    """

    root: Path
    lists: dict[str, Path] = field(default_factory=dict)  # by kind
    image_folders: list[Path] = field(default_factory=list)
    archives: list[Path] = field(default_factory=list)  # *.zip
    shards: list[Path] = field(default_factory=list)  # train-*.parquet, ...
    names: list[str] = field(default_factory=list)  # of all files, for messages
    closed: list[str] = field(default_factory=list)  # folders that cannot be read, and why

    def layout(self) -> Layout:
        """Open CelebA's lists or shards.

        Raises:
            UserError: as `store`, or a list or a shard is damaged.
        """
        store = self.store()
        return ListedCelebA(self.lists, store) if store else ParquetCelebA(self.shards)

    def store(self) -> Store | None:
        """Return the store of the aligned images; None where they are in parquet shards.

        Raises:
            UserError: images or partition are missing, or a file is a placeholder; names them,
                the searched folder, and the files there.
        """
        named = [path for path in self.image_folders if path.name == IMAGES]
        zips = [path for path in self.archives if path.name.lower() == f"{IMAGES}.zip"]
        images = [*named, *zips, *self.image_folders]  # the first is taken
        if self.shards and not (images and "partition" in self.lists):
            return None
        for file in self.lists.values():
            reject_placeholders(file)
        lacking = [] if images else [f"the images ({IMAGES}/ or {IMAGES}.zip)"]
        if "partition" not in self.lists:
            lacking.append("the partition (list_eval_partition.txt or .csv)")
        if not lacking:
            return ZipStore(images[0]) if images[0] in zips else FolderStore(images[0])
        hints = [f" {closed}." for closed in self.closed[:3]]
        if self.archives and not images:
            hints += [f" Unpack {self.archives[0].name}; only {IMAGES}.zip is read in place."]
        if any(name.endswith(".parquet") for name in self.names):
            hints += [f" {SHARDS_WANTED}"]
        raise UserError(
            f"data.path: {self.root} lacks {' and '.join(lacking)} (at a glance it holds "
            f"{count_suffixes(self.names)}).{''.join(hints)}\n{WAYS_TO_GET}\n"
            "For pictures without CelebA's lists: data=folder data.path=FOLDER."
        )


def discover_files(root: Path) -> DiscoveredFiles:
    """Find CelebA's files in a folder and its subfolders.

    Raises:
        UserError: the folder is not there.
    """
    # os.path throughout: a Path's own questions raise where a folder above may not be entered.
    if os.path.isfile(root):
        root = root.parent  # data.path=.../img_align_celeba.zip
    if not os.path.isdir(root):
        raise UserError(
            f"data.path: there is no {root} (looked in {Path.cwd()}). Put CelebA there, or give "
            f"the folder where it is: data.path=FOLDER.\n{WAYS_TO_GET}\n"
            "To try things without it: data=synthetic."
        )
    found = _search(root, MAX_DEPTH)
    # data.path=.../Img/img_align_celeba: what belongs to the images is beside them, or above.
    if root.name in (IMAGES, "Img"):
        for above in itertools.islice(root.resolve().parents, 3):
            found.lists = found.lists or _search(above, 1).lists
    return found


def _search(root: Path, depth: int) -> DiscoveredFiles:
    found = DiscoveredFiles(root)
    folders = [root]
    for _ in range(depth + 1):  # breadth first: the least deep comes first
        folders = [below for folder in folders for below in _scan(folder, found)][:MAX_ENTRIES]
    return found


def _scan(folder: Path, found: DiscoveredFiles) -> list[Path]:
    """Record a folder's files; return its subfolders."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in itertools.islice(entries, MAX_ENTRIES))
    except OSError as error:  # lost+found/ and the like
        found.closed.append(f"{folder} cannot be read: {error.strerror}")
        return []
    inside = []
    for name in names:
        path, suffix = folder / name, Path(name).suffix.lower()
        if name.startswith(".") or name in IGNORED:
            continue
        if not is_image_name(name) and os.path.isdir(path):
            inside.append(path)
            continue
        found.names.append(name)
        if is_image_name(name) and found.image_folders[-1:] != [folder]:
            found.image_folders.append(folder)
        elif suffix == ".zip":
            found.archives.append(path)
        elif suffix == ".parquet" and split_of_shard(path):
            found.shards.append(path)
    # By name, since in a folder of many images a glance may not reach them.
    for kind, known in KINDS.items():
        for suffix in (".txt", ".csv"):
            if os.path.exists(folder / f"{known.stem}{suffix}"):
                found.lists.setdefault(kind, folder / f"{known.stem}{suffix}")
    return inside
