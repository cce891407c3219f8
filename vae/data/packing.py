"""Pack a source's images and labels into a cache folder.

The folder is written as .<name>.partial and renamed when every file is on the disk. An
interrupted packing is resumed from its journal.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from vae.data.base import SPLITS, DataConfig, ImageError, ImageSource, Labels
from vae.data.packing_jobs import Job, JobResult, Journal, run_jobs
from vae.utils.errors import UserError
from vae.utils.files import checksums, free_bytes, is_full, with_checksum

FORMAT = 2  # of the cache's files: raise it when they change
CHUNK = 64  # images a job at most, and bytes
CHUNK_BYTES = 1 << 24
SKIPPED = "skipped.txt"  # lists the images that could not be read
PARTIAL_LIFETIME = 7 * 24 * 3600  # seconds after which one that nobody went on with is removed

log = logging.getLogger(__name__)

Skipped = dict[str, dict[int, str]]  # split -> number of an image -> why it cannot be read


def pack(
    source: ImageSource, config: DataConfig, fingerprint: dict[str, Any], folder: Path
) -> None:
    """Write the cache `folder`, replacing an existing one. The caller holds its lock.

    Raises:
        UserError: images are missing or cannot be read, or the disk has not room enough.
        OSError: the disk became full, or cannot be written.
        BrokenProcessPool: a worker process was killed.
    """
    started = time.monotonic()
    _remove_old_partials(folder)
    source.check()
    # first: labels of too many fill the memory
    require_disk_space(source.sizes(), config, (partial_folder(folder), folder))
    labels = {split: source.labels(split) for split in SPLITS}
    if folder.exists():
        shutil.rmtree(folder)
    partial = partial_folder(folder)
    index: dict[str, Any] = {"format": FORMAT, "source": source.name, "fingerprint": fingerprint}
    try:
        _start(partial)
        skipped = _pack_images(source, config, partial)
        index |= _describe(source.sizes(), labels["train"], skipped)
        _finish(partial, index, labels, skipped)
    except OSError as error:
        if is_full(error):
            shutil.rmtree(partial, ignore_errors=True)  # others need the disk too
        raise
    partial.rename(folder)
    (folder / Journal.NAME).unlink()  # only now: a kill until here loses little
    count = sum(index["images"].values())
    log.info("packed %s images in %.1f s", f"{count:,}", time.monotonic() - started)


def partial_folder(folder: Path) -> Path:
    """Return the folder of an unfinished cache."""
    return folder.with_name(f".{folder.name}.partial")


def cache_lock(folder: Path) -> FileLock:
    """Return the lock that is held while a cache is packed."""
    return FileLock(folder.with_name(f".{folder.name}.lock"))


def _start(partial: Path) -> None:
    """Create the folder; keep images and journal of an interrupted packing."""
    partial.mkdir(exist_ok=True)
    kept = {Journal.NAME, *(f"{split}.npy" for split in SPLITS)}
    for file in _files(partial):
        if file.name not in kept:
            file.unlink()


def _pack_images(source: ImageSource, config: DataConfig, partial: Path) -> Skipped:
    """Write `<split>.npy`, (n, size, size, 3) uint8, of each split.

    A bar on stderr shows the progress. The rows of images that cannot be read are zeros.

    Returns:
        The images that could not be read; none unless `config.skips_corrupt`.
    """
    from tqdm import tqdm

    sizes = source.sizes()
    was_cut = partial.joinpath("train.npy").exists()
    skipped: Skipped = {split: {} for split in sizes}
    with Journal(partial, _allocate_files(sizes, config, partial)) as journal:
        there = sum(done.stop - done.start for done in journal.done)
        if was_cut:
            how = f"resuming at image {there:,}" if there else "starting over"
            log.info("%s: an earlier packing was interrupted; %s", partial, how)
        with tqdm(
            total=sum(sizes.values()),
            initial=there,
            desc=f"packing {source.name} {config.image_size} px",
            unit=" images",
            mininterval=0.2 if sys.stderr.isatty() else 10,  # a log file wants fewer lines
        ) as bar:

            def note(done: JobResult) -> None:
                journal.note(done)
                skipped[done.split].update(done.skipped)
                bar.update(done.stop - done.start)

            try:
                run_jobs(source, journal.left, config.num_workers, note)
            except ImageError as error:
                hint = "To do without what cannot be read: data.on_corrupt=skip."
                raise UserError(f"{error} {hint}") from error
    return skipped


def _allocate_files(sizes: dict[str, int], config: DataConfig, partial: Path) -> list[Job]:
    """Create missing split files (header, then zeros) and divide the work into jobs."""
    size = config.image_size
    chunk = max(1, min(CHUNK, CHUNK_BYTES // (3 * size**2)))
    jobs = []
    for split, count in sizes.items():
        file = partial / f"{split}.npy"
        if not _is_allocated(file, (count, size, size, 3)):
            np.lib.format.open_memmap(file, "w+", np.uint8, (count, size, size, 3))
        first = np.load(file, mmap_mode="r").offset
        for start in range(0, count, chunk):
            stop = min(start + chunk, count)
            byte = first + start * 3 * size**2
            jobs.append(Job(split, start, stop, file, byte, size, config.skips_corrupt))
    return jobs


def _is_allocated(file: Path, shape: tuple[int, ...]) -> bool:
    with suppress(Exception):  # a damaged header fails in many ways
        found = np.load(file, mmap_mode="r")
        fits = found.shape == shape and found.dtype == np.uint8
        return bool(fits and found.flags.c_contiguous)
    return False


def _describe(sizes: dict[str, int], labels: dict[str, Labels], skipped: Skipped) -> dict[str, Any]:
    """Return the index entries of images and labels."""
    for split, missing in skipped.items():
        if len(missing) == sizes[split]:
            raise UserError(
                f"data.on_corrupt: skip would leave nothing of {split}: none of its "
                f"{len(missing):,} images can be read. The first: {next(iter(missing.values()))}"
            )
    return {
        "images": {split: sizes[split] - len(skipped[split]) for split in SPLITS},
        "skipped": {split: len(skipped[split]) for split in SPLITS},
        "labels": {kind: list(known.names) for kind, known in labels.items()},
    }


def _finish(
    partial: Path,
    index: dict[str, Any],
    labels: dict[str, dict[str, Labels]],
    skipped: Skipped,
) -> None:
    """Write labels, checksums and index; flush all files to disk."""
    for split in SPLITS:
        rows = sorted(skipped[split])
        for kind, known in labels[split].items():
            values = np.delete(known.values, rows, axis=0)
            np.save(partial / f"{split}.{kind}.npy", values, allow_pickle=False)
    _drop_skipped(partial, skipped)
    files = [file for file in _files(partial) if file.name != Journal.NAME]
    index["files"] = {
        file.name: {"bytes": file.stat().st_size, "crc32": checksums(file)} for file in files
    }
    (partial / "index.json").write_text(with_checksum(index), encoding="utf-8")
    for file in [*files, partial / "index.json"]:
        with open(file, "rb+") as opened:
            os.fsync(opened)


def _files(partial: Path) -> list[Path]:
    """Return the cache's own files, without .DS_Store, .nfs..."""
    return sorted(file for file in partial.iterdir() if not file.name.startswith("."))


def _drop_skipped(partial: Path, skipped: Skipped) -> None:
    """Remove the rows of unreadable images from the image files, and list these images."""
    lines = [
        f"{split}\t{number}\t{' '.join(reason.split())}\n"  # a line each, whatever is in it
        for split in SPLITS
        for number, reason in sorted(skipped[split].items())
    ]
    if not lines:
        return
    (partial / SKIPPED).write_bytes("".join(lines).encode(errors="backslashreplace"))
    for split in SPLITS:
        if skipped[split]:
            _drop_rows(partial / f"{split}.npy", sorted(skipped[split]))


def _drop_rows(file: Path, rows: list[int]) -> None:
    """Rewrite an .npy file without some of its rows."""
    array = np.load(file, mmap_mode="r")
    keep = np.delete(np.arange(len(array)), rows)
    header = np.lib.format.header_data_from_array_1_0(array)
    header["shape"] = (len(keep), *array.shape[1:])
    shorter = file.with_name(f"{file.name}.short")
    with open(shorter, "wb") as copy:  # written, not mapped: a full disk kills who maps
        np.lib.format.write_array_header_1_0(copy, header)
        for start in range(0, len(keep), CHUNK):
            copy.write(array[keep[start : start + CHUNK]].tobytes())
    shorter.replace(file)


def _remove_old_partials(folder: Path) -> None:
    """Remove unfinished caches in the same folder that are older than a week."""
    for old in folder.parent.glob(".*.partial"):
        if old == partial_folder(folder):
            continue
        lock = cache_lock(folder.with_name(old.name[1 : -len(".partial")]))
        with suppress(Timeout, OSError), lock.acquire(timeout=0):
            newest = max(path.stat().st_mtime for path in (old, *old.iterdir()))
            if time.time() - newest > PARTIAL_LIFETIME:
                log.info("%s: removed, a packing of over a week ago that was not finished", old)
                shutil.rmtree(old)


def require_disk_space(sizes: dict[str, int], config: DataConfig, there: Iterable[Path]) -> None:
    """Raise a UserError if the disk cannot hold the cache, before any image is decoded.

    Args:
        sizes: images of each split.
        config: `root` is on the disk in question.
        there: folders whose images are gone on with, or removed.
    """
    needed = required_bytes(sizes, config)
    for folder in there:
        needed -= sum(file.stat().st_blocks * 512 for file in folder.glob("*.npy"))
    free = free_bytes(Path(config.root))
    if needed > free:
        raise UserError(
            f"data.root: {config.root} has {free / 1e9:.2f} GB free, but the packed images need "
            f"{needed / 1e9:.2f} GB. Free some, set data.root to another disk, or lower "
            "data.num_images or data.image_size."
        )


def required_bytes(sizes: dict[str, int], config: DataConfig) -> int:
    """Return the bytes that packing needs, without labels."""
    images = sum(sizes.values())
    if config.skips_corrupt:  # a split is rewritten without its skipped images
        images += max(sizes.values())
    return images * 3 * config.image_size**2
