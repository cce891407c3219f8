"""Detection of CelebA's layout below a folder."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vae.data.celeba.download import WAYS_TO_GET, reject_placeholders
from vae.data.celeba.parquet import split_of_shard
from vae.data.celeba.stores import FolderStore, Store, ZipStore
from vae.data.images import is_image_name
from vae.utils.errors import UserError

IMAGES = "img_align_celeba"
LISTS = {  # first part of each list file's name; they end in .txt or .csv
    "partition": "list_eval_partition",
    "attributes": "list_attr_celeba",
    "identities": "identity_CelebA",
    "landmarks": "list_landmarks_align_celeba",
}
MAX_DEPTH = 5  # folders below data.path: Hugging Face's cache has its files there
MAX_ENTRIES = 1000  # entries looked at of each folder: one with 202,599 images is not searched


@dataclass
class DiscoveredFiles:
    """CelebA's files below a folder."""

    lists: dict[str, Path] = field(default_factory=dict)
    image_folders: list[Path] = field(default_factory=list)
    archives: list[Path] = field(default_factory=list)  # *.zip
    shards: list[Path] = field(default_factory=list)  # *.parquet
    kinds: Counter[str] = field(default_factory=Counter)  # files by suffix, for messages
    closed: dict[Path, str] = field(default_factory=dict)  # folders not looked into, and why

    @property
    def is_sharded(self) -> bool:
        """Whether the layout is Hugging Face's parquet shards."""
        images = self.image_folders or self.archives
        if images and ("partition" in self.lists or not any(map(split_of_shard, self.shards))):
            return False
        return bool(self.shards)

    def store(self) -> Store | None:
        """Return the store of the aligned images, or None."""
        folders = [path for path in self.image_folders if path.name != "img_celeba"]
        named = [path for path in folders if path.name == IMAGES]
        zips = [path for path in self.archives if path.name.lower() == f"{IMAGES}.zip"]
        if named:  # the first is the least deep
            return FolderStore(named[0])
        if zips:
            return ZipStore(zips[0])
        return FolderStore(folders[0]) if folders else None


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
    if not os.access(root, os.R_OK | os.X_OK):
        raise UserError(f"data.path: {root} cannot be read: Permission denied.")
    found = _search(root)
    # data.path=.../Img/img_align_celeba: what belongs to the images is beside them, or above.
    if root.name in (IMAGES, "Img") and not found.lists:
        for above in itertools.islice(root.resolve().parents, 3):
            found.lists = found.lists or _search(above, depth=1).lists
    return found


def require_complete(root: Path, found: DiscoveredFiles) -> Store:
    """Return the store of the images; require images and the partition.

    Raises:
        UserError: names the missing files, the searched folder, and the files there.
    """
    for file in found.lists.values():
        reject_placeholders(file)
    store = found.store()
    lacking = [] if store else [f"the images ({IMAGES}/ or {IMAGES}.zip)"]
    if "partition" not in found.lists:
        lacking.append("the partition (list_eval_partition.txt or .csv)")
    if store and not lacking:
        return store
    closed = itertools.islice(found.closed.items(), 3)
    hints = [f" {folder} cannot be read: {why}." for folder, why in closed]
    if not store and found.archives:
        hints += [f" Unpack {found.archives[0].name}; only {IMAGES}.zip is read in place."]
    elif any(path.name == "img_celeba" for path in found.image_folders):
        hints += [" img_celeba/ are the photographs before alignment."]
    raise UserError(
        f"data.path: {root} lacks {' and '.join(lacking)} (it holds {_inventory(found)})."
        f"{''.join(hints)}\n{WAYS_TO_GET}\n"
        "For pictures without CelebA's lists: data=folder data.path=FOLDER."
    )


def _search(root: Path, depth: int = MAX_DEPTH) -> DiscoveredFiles:
    found = DiscoveredFiles()
    folders = [root]
    for _ in range(depth + 1):  # breadth first: the least deep comes first
        inside: list[Path] = []
        for folder in folders:
            inside += _scan_folder(folder, found)
        folders = inside[:MAX_ENTRIES]
    return found


def _scan_folder(folder: Path, found: DiscoveredFiles) -> list[Path]:
    """Record a folder's files; return its subfolders."""
    inside = []
    for entry in _entries(folder, found):
        suffix = Path(entry.name).suffix.lower()
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            continue
        if _is_folder(entry):
            inside.append(folder / entry.name)
            continue
        found.kinds[suffix or "without a suffix"] += 1
        if is_image_name(entry.name) and found.image_folders[-1:] != [folder]:
            found.image_folders.append(folder)
        elif suffix == ".zip":
            found.archives.append(folder / entry.name)
        elif suffix == ".parquet":
            found.shards.append(folder / entry.name)
    # By name, since in a folder of many images a glance may not reach them.
    for kind, stem in LISTS.items():
        for suffix in (".txt", ".csv"):
            if os.path.exists(folder / f"{stem}{suffix}"):
                found.lists.setdefault(kind, folder / f"{stem}{suffix}")
    return sorted(inside)


def _entries(folder: Path, found: DiscoveredFiles) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from sorted(itertools.islice(entries, MAX_ENTRIES), key=lambda entry: entry.name)
    except OSError as error:  # lost+found/ and the like
        found.closed[folder] = str(error.strerror)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder that may not be entered
        return False


def _inventory(found: DiscoveredFiles) -> str:
    """Format the found files: '3 .txt, 1 .zip files', or 'no files'."""
    kinds = ", ".join(
        f"{count}{'+' if count >= MAX_ENTRIES else ''} {kind}"
        for kind, count in found.kinds.most_common(5)
    )
    return f"{kinds} files" if kinds else "no files"
