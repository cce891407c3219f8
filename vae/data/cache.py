"""The packed cache: a source's images, decoded once into plain uint8 arrays.

    <data.root>/cache/<source>-<size>px-<hash of the fingerprint>/
        train.npy, val.npy, test.npy     images, (n, size, size, 3) uint8
        train.attributes.npy, ...        0/1 attributes, (n, names) int8, where there are any
        train.factors.npy, ...           generating factors, (n, names) float32, where known
        index.json                       fingerprint, names of the labels, bytes of each file

A cache is made under another name and renamed when all of it is on the disk, so a
folder of this name is a whole cache or a damaged one, never a half-made one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import multiprocessing
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from vae.data.packing import pack_images
from vae.data.source import SPLITS, DataConfig, ImageSource, Labels
from vae.errors import UserError

FORMAT = 1
UNGUARDED = "A script that packs must do so under `if __name__ == '__main__':`."

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Packed:
    """An opened cache; its arrays are memory-mapped, read-only."""

    folder: Path
    images: dict[str, np.ndarray]  # per split, (n, size, size, 3) uint8

    def attributes(self, split: str) -> Labels | None:
        """0/1 attributes, (n, A) int8, in the images' order, or None where there are none."""
        return self._labels(split, "attributes")

    def factors(self, split: str) -> Labels | None:
        """Generating factors, (n, F) float32, in the images' order, or None if not known."""
        return self._labels(split, "factors")

    def _labels(self, split: str, kind: str) -> Labels | None:
        names = _read_index(self.folder)[kind]
        if names is None:
            return None
        return Labels(tuple(names), np.load(self.folder / f"{split}.{kind}.npy"))


def open_or_pack(source: ImageSource, config: DataConfig) -> Packed:
    """The packed images of a source; the first call with these settings makes the cache.

    Several processes may ask at once: one packs, the others wait for it.

    Args:
        source: picklable, since worker processes read it.
        config: `root` says where caches lie, `num_workers` how many processes pack.

    Raises:
        UserError: an image cannot be read, or the disk has not room enough.
    """
    fingerprint = source.fingerprint()
    canonical = json.dumps(fingerprint, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:12]
    folder = Path(config.root, "cache", f"{source.name}-{config.image_size}px-{digest}")
    if _fault(folder):
        with _naming_the_root(config.root), _locked(folder):
            if fault := _fault(folder):  # nobody made it while we waited
                if folder.exists():
                    log.warning("%s: %s; packing it again", folder, fault)
                _pack(source, config, fingerprint, folder)
    log.info("images: %s", folder)
    images = {split: np.load(folder / f"{split}.npy", mmap_mode="r") for split in SPLITS}
    return Packed(folder, images)


def _read_index(folder: Path) -> dict[str, Any]:
    index: dict[str, Any] = json.loads((folder / "index.json").read_text())
    return index


def _fault(folder: Path) -> str:
    """Why this is no whole cache, "" if it is one. Reads no image: it costs next to nothing."""
    if not folder.exists():
        return "not there"
    try:
        index = _read_index(folder)
        if index["format"] != FORMAT:
            return f"has format {index['format']}, not {FORMAT}"
        for name, size in index["bytes"].items():
            found = (folder / name).stat().st_size
            if found != size:
                return f"{name} is damaged ({found} bytes, not {size})"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"index.json is damaged ({error})"
    return ""


@contextmanager
def _naming_the_root(root: str) -> Iterator[None]:
    """What goes wrong with the disk while packing, as a UserError about data.root."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = "the disk became full while packing; what was written is removed. Free some"
        else:
            what = f"the cache cannot be written there: {error}. Make it writable"
        raise UserError(f"data.root: {root}: {what}, or set data.root to another disk.") from error
    except BrokenProcessPool as error:
        raise UserError(
            "data.num_workers: a packing process died, perhaps for want of memory: try "
            f"data.num_workers=1. {UNGUARDED}"
        ) from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a cache that is to be made."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # A worker importing a script that packs as it is imported: it would wait for its parent.
        raise UserError(UNGUARDED)
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("%s: another process is packing it; waiting", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _pack(
    source: ImageSource, config: DataConfig, fingerprint: dict[str, Any], folder: Path
) -> None:
    """Make the cache `folder`, in place of what is there. The caller holds its lock."""
    started = time.monotonic()
    for stale in folder.parent.glob(f".{folder.name}.*.partial"):  # of killed processes:
        shutil.rmtree(stale)  # a live one would hold the lock
    if folder.exists():
        shutil.rmtree(folder)
    sizes = source.sizes()
    _require_room(sum(sizes.values()) * 3 * config.image_size**2, config.root)

    partial = folder.with_name(f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    partial.mkdir()
    try:
        index = {"format": FORMAT, "source": source.name, "fingerprint": fingerprint}
        index |= {"images": sizes, **_write_labels(source, partial)}
        pack_images(source, config, partial)
        index["bytes"] = {file.name: file.stat().st_size for file in partial.iterdir()}
        (partial / "index.json").write_text(json.dumps(index, indent=1))
        for file in partial.iterdir():
            with open(file, "rb+") as opened:
                os.fsync(opened)
        partial.rename(folder)
    except BaseException:  # Ctrl-C too
        shutil.rmtree(partial, ignore_errors=True)
        raise
    log.info("packed %d images in %.1f s", sum(sizes.values()), time.monotonic() - started)


def _require_room(needed: int, root: str) -> None:
    free = shutil.disk_usage(root).free
    if needed > free:
        raise UserError(
            f"data.root: {root} has {free / 1e9:.2f} GB free, but the packed images need "
            f"{needed / 1e9:.2f} GB. Free some, set data.root to another disk, or lower "
            "data.num_images or data.image_size."
        )


def _write_labels(source: ImageSource, partial: Path) -> dict[str, list[str] | None]:
    """Write the labels of each split; the names of each kind."""
    names: dict[str, list[str] | None] = {"attributes": None, "factors": None}
    for split in SPLITS:
        for kind, labels in (
            ("attributes", source.attributes(split)),
            ("factors", source.factors(split)),
        ):
            if labels is not None:
                names[kind] = list(labels.names)
                np.save(partial / f"{split}.{kind}.npy", labels.values, allow_pickle=False)
    return names
