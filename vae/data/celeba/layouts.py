"""Detection of CelebA's layout below a folder."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from vae.data.celeba.download import WAYS_TO_GET, first_names, reject_placeholders
from vae.data.celeba.listed import BY_HASH, ListedCelebA
from vae.data.celeba.lists import KINDS
from vae.data.celeba.parquet import SHARDS_WANTED, ParquetCelebA, split_of_shard
from vae.data.celeba.stores import FolderStore, ZipStore
from vae.data.images import count_suffixes, is_image_name
from vae.utils.errors import UserError

IMAGES = "img_align_celeba"
IGNORED = ("__MACOSX", "img_celeba")  # the second: the photographs before alignment
LIST_NAMES = {
    f"{known.stem}{suffix}": kind
    for kind, known in KINDS.items()
    for suffix in (".txt", ".csv", ".tsv")
}
MAX_DEPTH = 5  # folders below data.path: Hugging Face's cache has its files there
MAX_ENTRIES = 1000  # entries looked at of each folder: one with 202,599 images is not searched

Layout = ListedCelebA | ParquetCelebA


def find_layout(root: Path, split: str) -> Callable[[], Layout]:
    """Find CelebA's files in a folder and its subfolders; of several, the least deep are taken.

    With split="hash" the partition is neither needed nor read.

    | layout                       | images         | partition and labels |
    | ---------------------------- | -------------- | -------------------- |
    | torchvision's, the authors'  | a folder       | list_*.txt           |
    | either, not unpacked         | a zip          | list_*.txt           |
    | Kaggle's                     | a folder       | list_*.csv           |
    | Hugging Face's               | parquet shards | in each row of these |

    Returns:
        Opens the lists or the shards; raises a UserError if their content is wrong.

    Raises:
        UserError: the folder, the images or the partition are missing, or a file is a
            placeholder; names them, the searched folder, and the files there.
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
    closed: list[str] = []
    files = _search(root, MAX_DEPTH, closed)
    lists = _lists(files)
    # data.path=.../Img/img_align_celeba: what belongs to the images is beside them, or above.
    if root.name in (IMAGES, "Img"):
        for above in itertools.islice(root.resolve().parents, 3):
            lists = lists or _lists(_search(above, 1, []))
    shards = [file for file in files if split_of_shard(file)]
    archives = [file for file in files if file.suffix.lower() == ".zip"]
    zips = [file for file in archives if file.name.lower() == f"{IMAGES}.zip"]
    folders = list(dict.fromkeys(file.parent for file in files if is_image_name(file.name)))
    images = [*(folder for folder in folders if folder.name == IMAGES), *zips, *folders]
    if shards and not (images and "partition" in lists):
        return partial(ParquetCelebA, shards, split)
    if split == "hash":
        lists.pop("partition", None)
        if len(images) == len(folders) > 1:  # none of them is IMAGES
            several = first_names([str(folder) for folder in folders])
            raise UserError(
                f"data.path: {root} has several folders of images: {several}. Give one of them, "
                "data.path=ONE, or use all of them without lists: data=folder."
            )
    for file in lists.values():
        reject_placeholders(file)
    lacking = [] if images else [f"the images ({IMAGES}/ or {IMAGES}.zip)"]
    if "partition" not in lists and split == "official":
        lacking.append("the partition (list_eval_partition.txt or .csv)")
    if not lacking:
        store = ZipStore(images[0]) if images[0] in zips else FolderStore(images[0])
        return partial(ListedCelebA, lists, store)
    hints = [f" {one}." for one in closed[:3]]
    if archives and not images:
        hints += [f" Unpack {archives[0].name}; only {IMAGES}.zip is read in place."]
    if any(file.suffix == ".parquet" for file in files):
        hints += [f" {SHARDS_WANTED}"]
    elif images:
        hints += [f" {BY_HASH}"]
    raise UserError(
        f"data.path: {root} lacks {' and '.join(lacking)} (at a glance it holds "
        f"{count_suffixes(file.name for file in files)}).{''.join(hints)}\n{WAYS_TO_GET}\n"
        "For pictures without CelebA's lists: data=folder data.path=FOLDER."
    )


def _lists(files: list[Path]) -> dict[str, Path]:
    """Return CelebA's lists by kind, in the order of `KINDS`; of several the first."""
    kind_of = {name.lower(): kind for name, kind in LIST_NAMES.items()}
    found = {kind_of.get(file.name.lower()): file for file in reversed(files)}
    return {kind: found[kind] for kind in KINDS if kind in found}


def _search(root: Path, depth: int, closed: list[str]) -> list[Path]:
    """Return the files below a folder, the least deep first.

    Of a folder with many files at most MAX_ENTRIES are returned, but always CelebA's lists.
    Folders that cannot be read, lost+found/ and the like, are added to `closed`, with the reason.
    """
    files, folders = [], [root]
    for _ in range(depth + 1):
        inside = []
        for folder in folders:
            try:
                with os.scandir(folder) as entries:
                    names = sorted(entry.name for entry in itertools.islice(entries, MAX_ENTRIES))
            except OSError as error:
                closed.append(f"{folder} cannot be read: {error.strerror}")
                continue
            # By name, since in a folder of many images a glance may not reach them.
            lists = [name for name in LIST_NAMES if os.path.exists(folder / name)]
            for name in dict.fromkeys([*lists, *names]):
                if name.startswith(".") or name in IGNORED:
                    continue
                if not is_image_name(name) and os.path.isdir(folder / name):
                    inside.append(folder / name)
                else:
                    files.append(folder / name)
        folders = inside[:MAX_ENTRIES]
    return files
