"""The packed cache: a source's images, decoded once into plain uint8 arrays.

    <data.root>/cache/<source>-<size>px-<hash of the fingerprint>/
        train.npy, val.npy, test.npy     images, (n, size, size, 3) uint8
        train.attributes.npy, ...        0/1 attributes, (n, names) int8, where there are any;
                                         factors, identities and landmarks likewise
        skipped.txt                      images that could not be read, where there are any
        index.json                       format, fingerprint, names of the labels, and the
                                         bytes and CRC-32 of each piece of each file

A cache is made under another name and renamed when all of it is on the disk (packing.py),
so a folder of this name is a whole cache or a damaged one, never a half-made one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vae.data.base import SPLITS, DataConfig, ImageError, ImageSource, Labels
from vae.data.integrity import find_damage, read_index, skipped_images
from vae.data.packing import SKIPPED, pack
from vae.data.partial_cache import partial_folder
from vae.utils.errors import UserError
from vae.utils.files import DISK_FULL_ERRORS, free_bytes
from vae.utils.locks import hold

MAIN_GUARD_HINT = "A script that packs must do so under `if __name__ == '__main__':`."

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Packed:
    """An opened cache; its arrays are memory-mapped, read-only."""

    folder: Path
    images: dict[str, np.ndarray]  # per split, (n, size, size, 3) uint8

    def attributes(self, split: str) -> Labels | None:
        """Return 0/1 attributes, (n, A) int8, in the images' order, or None."""
        return self._labels(split, "attributes")

    def factors(self, split: str) -> Labels | None:
        """Return generating factors, (n, F) float32, in the images' order, or None."""
        return self._labels(split, "factors")

    def identities(self, split: str) -> Labels | None:
        """Return identities, (n, 1) int32, in the images' order, or None."""
        return self._labels(split, "identities")

    def landmarks(self, split: str) -> Labels | None:
        """Return landmarks in the uncropped image, (n, 10) int16, or None."""
        return self._labels(split, "landmarks")

    def label_names(self) -> dict[str, list[str]]:
        """Return the column names by kind of label: attributes, factors, ..."""
        names: dict[str, list[str]] = read_index(self.folder)["labels"]
        return names

    def skipped(self) -> list[str]:
        """Return the unreadable images: `split<tab>number<tab>reason` each."""
        skipped = skipped_images(self.folder).items()
        return [f"{split}\t{n}\t{reason}" for split, rows in skipped for n, reason in rows.items()]

    def _labels(self, split: str, kind: str) -> Labels | None:
        names = self.label_names().get(kind)
        if names is None:
            return None
        return Labels(tuple(names), np.load(self.folder / f"{split}.{kind}.npy"))


def open_or_pack(source: ImageSource, config: DataConfig) -> Packed:
    """Open the packed images of a source; the first call with these settings packs them.

    Several processes may ask at once: one packs, the others wait for it.

    Args:
        source: picklable, since worker processes read it.
        config: `root` says where caches lie, `num_workers` how many processes pack.

    Raises:
        UserError: an image cannot be read, or the disk has not room enough.
    """
    fingerprint = source.fingerprint()
    folder = _folder(source, config, fingerprint)
    if find_damage(folder, source, config) or _now_readable(source, config, folder):
        _pack_once(source, config, fingerprint, folder)
    log.info("images: %s", folder)
    packed = _open(folder)
    if skipped := packed.skipped():
        log.warning("images left out: %s, listed in %s", f"{len(skipped):,}", folder / SKIPPED)
    return packed


def verify(source: ImageSource, config: DataConfig) -> Packed:
    """Verify every byte of a cache against its checksums and open it.

    Raises:
        UserError: there is no cache yet, or it is damaged; names the files and the chunks.
    """
    folder = _folder(source, config, source.fingerprint())
    if not folder.exists():
        raise UserError(f"{folder}: nothing is packed yet. Without --verify, it is.")
    if fault := find_damage(folder, source, config, every_byte=True):
        raise UserError(f"{folder}: {fault}. Remove this folder: the next run packs it again.")
    return _open(folder)


def _folder(source: ImageSource, config: DataConfig, fingerprint: dict[str, Any]) -> Path:
    canonical = json.dumps(fingerprint, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:12]
    return Path(config.root, "cache", f"{source.name}-{config.image_size}px-{digest}")


def _open(folder: Path) -> Packed:
    images = {split: np.load(folder / f"{split}.npy", mmap_mode="r") for split in SPLITS}
    return Packed(folder, images)


def _now_readable(source: ImageSource, config: DataConfig, folder: Path) -> str:
    """Report that all skipped images are readable now; "" if there are none, or all is as asked.

    Raises:
        UserError: skipping is not configured, and one of them still cannot be read.
    """
    by_split = skipped_images(folder).items()
    skipped = [(split, *image) for split, images in by_split for image in images.items()]
    if config.skips_corrupt or not skipped:
        return ""
    for split, number, reason in skipped:
        try:
            source.read(split, number, number + 1)
        except ImageError as error:
            raise UserError(
                "data.on_corrupt: is `error`, but the images were packed with `skip`; images left "
                f"out: {len(skipped):,}, listed in {folder / SKIPPED}, as {reason} Give "
                "data.on_corrupt=skip again, or fix them: all is packed again then."
            ) from error
    return "images that were left out can be read now"


def _pack_once(
    source: ImageSource, config: DataConfig, fingerprint: dict[str, Any], folder: Path
) -> None:
    """Pack a cache under its lock, unless another process has done so meanwhile.

    Raises:
        UserError: as `open_or_pack`; also about data.root and data.num_workers.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # A worker importing a script that packs as it is imported: it would wait for its parent.
        raise UserError(MAIN_GUARD_HINT)
    needed = sum(source.sizes().values()) * 3 * config.image_size**2  # bytes
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock_file = folder.with_name(f".{folder.name}.lock")
        with hold(lock_file, f"{folder}: another process is packing it"):
            fault = find_damage(folder, source, config) or _now_readable(source, config, folder)
            if fault:
                if folder.exists():
                    log.warning("%s: %s; packing it again", folder, fault)
                written = [*folder.glob("*.npy"), *partial_folder(folder).glob("*.npy")]
                missing = needed - sum(map(_bytes_on_disk, written))
                if missing > free_bytes(Path(config.root)):
                    raise UserError(_too_small(config, "the disk is too small", missing))
                pack(source, config, fingerprint, folder)
    except OSError as error:
        if error.errno in DISK_FULL_ERRORS:
            what = f"{DISK_FULL_ERRORS[error.errno]}, so packing stopped and removed its files"
            raise UserError(_too_small(config, what, needed)) from error
        raise UserError(
            f"data.root: {config.root}: the cache cannot be written there: {error}. Make it "
            "writable, or set data.root to another disk."
        ) from error
    except BrokenProcessPool as error:
        raise UserError(
            "data.num_workers: a packing process died, perhaps because memory ran out: try "
            f"data.num_workers=1. {MAIN_GUARD_HINT}"
        ) from error


def _bytes_on_disk(file: Path) -> int:
    """Return the bytes that a file occupies: less than its size while it has holes."""
    about = file.stat()
    return getattr(about, "st_blocks", about.st_size // 512) * 512  # Windows does not tell


def _too_small(config: DataConfig, what: str, needed: int) -> str:
    return (
        f"data.root: {config.root}: {what}: {free_bytes(Path(config.root)) / 1e9:.2f} GB are free, "
        f"and the packed images need {needed / 1e9:.2f} GB. Free some, set data.root to another "
        "disk, or lower data.num_images or data.image_size."
    )
