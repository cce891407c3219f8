"""The packed cache: a source's images, decoded once into plain uint8 arrays.

    <data.root>/cache/<source>-<size>px-<hash of the fingerprint>/
        train.npy, val.npy, test.npy     images, (n, size, size, 3) uint8
        train.attributes.npy, ...        0/1 attributes, (n, names) int8, where there are any;
                                         factors, identities and landmarks likewise
        skipped.txt                      images that could not be read, where there are any
        index.json                       fingerprint, names of the labels, checksums

A cache is made under another name and renamed when all of it is on the disk (packing.py),
so a folder of this name is a whole cache or a damaged one, never a half-made one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import Timeout

from vae.data.base import SPLITS, DataConfig, ImageError, ImageSource, Labels
from vae.data.packing import FORMAT, SKIPPED, cache_lock, pack, required_bytes
from vae.utils.errors import UserError
from vae.utils.files import BLOCK, DISK_FULL_ERRORS, damaged_blocks, free_bytes, verify_checksum

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
        names: dict[str, list[str]] = _read_index(self.folder)["labels"]
        return names

    def skipped(self) -> list[str]:
        """Return the unreadable images: `split<tab>number<tab>reason` each."""
        file = self.folder / SKIPPED
        return file.read_text(encoding="utf-8").split("\n")[:-1] if file.exists() else []

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
    if _find_damage(folder) or _now_readable(source, config, folder):
        with _translate_disk_errors(source, config), _locked(folder):
            # Asked again: somebody may have made it while we waited.
            if fault := _find_damage(folder) or _now_readable(source, config, folder):
                if folder.exists():
                    log.warning("%s: %s; packing it again", folder, fault)
                pack(source, config, fingerprint, folder)
    log.info("images: %s", folder)
    packed = _open(folder)
    _report_skipped_images(packed, config)
    return packed


def verify(source: ImageSource, config: DataConfig) -> Packed:
    """Verify every byte of a cache against its checksums and open it.

    Raises:
        UserError: there is no cache yet, or it is damaged; names the files and the blocks.
    """
    folder = _folder(source, config, source.fingerprint())
    fault = _find_damage(folder)
    if not folder.exists():
        raise UserError(f"{folder}: nothing is packed yet. Without --verify, it is.")
    if not fault:
        files = _read_index(folder)["files"].items()
        damage = [_damage(folder / name, entry["crc32"]) for name, entry in files]
        fault = "; ".join(filter(None, damage))
    if fault:
        raise UserError(f"{folder}: {fault}. Remove this folder: the next run packs it again.")
    return _open(folder)


def _damage(file: Path, expected: list[int]) -> str:
    """Describe the damage of a cache file, "" if intact; reads every byte."""
    try:
        blocks = damaged_blocks(file, expected, all_of_it=True)
    except OSError as error:  # a sector of the disk has gone bad
        return f"{file.name} cannot be read ({error.strerror})"
    if not blocks:
        return ""
    return (
        f"{file.name} is damaged in {len(blocks)} of {len(expected)} MiB "
        f"(the first at byte {blocks[0] * BLOCK:,})"
    )


def _folder(source: ImageSource, config: DataConfig, fingerprint: dict[str, Any]) -> Path:
    canonical = json.dumps(fingerprint, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:12]
    return Path(config.root, "cache", f"{source.name}-{config.image_size}px-{digest}")


def _open(folder: Path) -> Packed:
    images = {split: np.load(folder / f"{split}.npy", mmap_mode="r") for split in SPLITS}
    return Packed(folder, images)


def _report_skipped_images(packed: Packed, config: DataConfig) -> None:
    """Warn about skipped images; raise a UserError where skipping is not configured."""
    skipped = packed.skipped()
    if not skipped:
        return
    listed = f"images left out: {len(skipped):,}, listed in {packed.folder / SKIPPED}"
    if config.skips_corrupt:
        log.warning("%s", listed)
        return
    raise UserError(
        f"data.on_corrupt: is `error`, but the images were packed with `skip`; {listed}. The "
        f"first: {skipped[0].split(chr(9))[-1]} Give data.on_corrupt=skip again, or fix them: "
        "all is packed again then."
    )


def _read_index(folder: Path) -> dict[str, Any]:
    return verify_checksum((folder / "index.json").read_text(encoding="utf-8"))


def _find_damage(folder: Path) -> str:
    """Describe why this is no intact cache, "" if it is; a check of milliseconds."""
    if not folder.exists():
        return "not there"
    try:
        index = _read_index(folder)
        if index["format"] != FORMAT:
            return f"has format {index['format']}, not {FORMAT}"
        for name, entry in index["files"].items():
            found = (folder / name).stat().st_size
            if found != entry["bytes"]:
                return f"{name} is damaged ({found} bytes, not {entry['bytes']})"
            if damaged_blocks(folder / name, entry["crc32"]):
                return f"{name} is damaged (other bytes than were written)"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:  # a disk that is away for a moment is no damage
        raise UserError(f"{error.filename or folder}: cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"index.json is damaged ({error})"
    return ""


def _now_readable(source: ImageSource, config: DataConfig, folder: Path) -> str:
    """Report that all skipped images are readable now; "" if not, or if skipping is configured.

    All of them: packing again for fewer would remove this cache, and then end at the first.
    """
    skipped = Packed(folder, {}).skipped()
    if config.skips_corrupt or not skipped:
        return ""
    for line in skipped:
        split, number, _ = line.split("\t", 2)
        try:
            source.read(split, int(number), int(number) + 1)
        except ImageError:
            return ""
    return "images that were left out can be read now"


@contextmanager
def _translate_disk_errors(source: ImageSource, config: DataConfig) -> Iterator[None]:
    """Translate disk errors during packing into a UserError about data.root."""
    root = config.root
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL_ERRORS:
            what = (
                f"{DISK_FULL_ERRORS[error.errno]}, so packing stopped and removed its files. "
                f"Now {free_bytes(Path(root)) / 1e9:.2f} GB are free, and the packed images need "
                f"{required_bytes(source.sizes(), config) / 1e9:.2f} GB. Free some"
            )
        else:
            what = f"the cache cannot be written there: {error}. Make it writable"
        raise UserError(f"data.root: {root}: {what}, or set data.root to another disk.") from error
    except BrokenProcessPool as error:
        raise UserError(
            "data.num_workers: a packing process died, perhaps for want of memory: try "
            f"data.num_workers=1. {MAIN_GUARD_HINT}"
        ) from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a cache while it is packed."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # A worker importing a script that packs as it is imported: it would wait for its parent.
        raise UserError(MAIN_GUARD_HINT)
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = cache_lock(folder)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("%s: another process is packing it; waiting", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
