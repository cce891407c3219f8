"""Pack a source's images and labels into a cache folder, by worker processes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
import time
import zlib
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vae.data.base import LABEL_DTYPES, DataConfig, ImageError, ImageSource, Labels
from vae.data.partial_cache import DONE, Chunk, PartialCache, Pieces, partial_folder
from vae.utils.errors import UserError
from vae.utils.files import DISK_FULL_ERRORS, with_checksum
from vae.utils.signals import blocked
from vae.utils.text import printable

FORMAT = 3  # of the cache's files: raise it when they change
SKIPPED = "skipped.txt"  # lists the images that could not be read
KIND = re.compile(r"[\w-]+")  # of labels: part of a file's name
NUMBERS = "biuf"  # NumPy's kinds of dtypes that labels may have
POOL_PAYS_FROM = 5.0  # seconds of work: starting workers takes one to three

log = logging.getLogger(__name__)


def pack(
    source: ImageSource, config: DataConfig, fingerprint: dict[str, Any], folder: Path
) -> None:
    """Write the cache `folder`, replacing an existing one. The caller holds its lock.

    Raises:
        UserError: images are missing or cannot be read, or the labels have a wrong form.
        OSError: the disk became full, or cannot be written.
        BrokenProcessPool: a worker process was killed.
    """
    started = time.monotonic()
    source.check()
    labels = _read_labels(source)
    if folder.exists():
        shutil.rmtree(folder)
    partial = PartialCache(partial_folder(folder), source, config)
    index = {"format": FORMAT, "source": source.name, "fingerprint": fingerprint}
    try:
        written = _write_images(partial)
        _finish(partial, written, labels, index)
    except OSError as error:
        if error.errno in DISK_FULL_ERRORS:
            shutil.rmtree(partial.folder, ignore_errors=True)  # others need the disk too
        raise
    partial.folder.rename(folder)
    shutil.rmtree(folder / DONE)  # only now: a kill until here loses little
    count = sum(chunk.stop - chunk.start - len(chunk.skipped) for chunk in written)
    log.info("packed %s images in %.1f s", f"{count:,}", time.monotonic() - started)


def label_fault(kind: str, values: np.ndarray) -> str:
    """Describe attributes that are not 0 or 1 and factors that are not finite, or return ""."""
    if kind == "attributes" and not ((values == 0) | (values == 1)).all():
        return "attributes other than 0 and 1"
    if kind == "factors" and not np.isfinite(values).all():
        return "factors that are not finite"
    return ""


def valid_columns(kind: str, names: Sequence[Any]) -> bool:
    """Return whether labels have a kind that can be part of a file's name, and distinct names."""
    text = all(isinstance(name, str) for name in names)
    return text and 0 < len(set(names)) == len(names) and KIND.fullmatch(kind) is not None


def _read_labels(source: ImageSource) -> dict[str, dict[str, Labels]]:
    """Return a source's labels by split and kind, converted to LABEL_DTYPES.

    Raises:
        UserError: a cache with these labels would count as damaged.
    """
    labels: dict[str, dict[str, Labels]] = {}
    for split, count in source.sizes().items():
        found = source.labels(split)
        where = f"data.name: {source.name}: its labels of {split}"
        labels[split] = {}
        for kind, known in found.items():
            try:
                labels[split][kind] = _convert(kind, known, count)
            except ValueError as error:
                raise UserError(f"{where}: {kind} {error}. Correct its method `labels`.") from error
        names = [{kind: known.names for kind, known in one.items()} for one in labels.values()]
        if names[-1] != names[0]:
            what = "have other kinds or names than those of train"
            raise UserError(f"{where} {what}. Correct its method `labels`.")
    return labels


def _convert(kind: str, labels: Labels, count: int) -> Labels:
    """Return labels with the dtype of their kind, in C order. ValueError: not possible."""
    names, values = tuple(labels.names), np.asarray(labels.values)
    shape = count, len(names)
    if not valid_columns(kind, names):
        raise ValueError(f"has the names {names}")
    if values.dtype.kind not in NUMBERS or values.shape != shape:
        form = f"{values.dtype} of shape {values.shape}"
        raise ValueError(f"is {form}, but it takes numbers of shape {shape}")
    dtype = np.dtype(LABEL_DTYPES.get(kind, values.dtype))
    with np.errstate(over="ignore", invalid="ignore"):
        stored = values.astype(dtype, order="C", copy=False)
    if stored is not values and not np.allclose(stored, values, 1e-6, 1e-30, equal_nan=True):
        raise ValueError(f"has values that do not fit into {dtype}")
    if fault := label_fault(kind, stored):
        raise ValueError(f"has {fault}")
    return Labels(names, stored)


def _write_images(partial: PartialCache) -> list[Chunk]:
    """Write all chunks that are not there yet; a bar on stderr shows the progress.

    Returns:
        All chunks, in order. None has skipped images unless `config.skips_corrupt`.
    """
    from tqdm import tqdm

    interrupted = partial.folder.exists()
    partial.allocate()
    written = partial.written()
    there = sum(chunk.stop - chunk.start for chunk in written)
    if interrupted:
        how = f"resuming at image {there:,}" if there else "starting over"
        log.info("%s: an earlier packing was interrupted; %s", partial.folder, how)
    finished = {chunk[:3] for chunk in written}
    left = [chunk for chunk in partial.chunks() if chunk[:3] not in finished]
    bar = tqdm(
        total=sum(partial.source.sizes().values()),
        initial=there,
        desc=f"packing {partial.source.name} {partial.config.image_size} px",
        unit=" images",
        mininterval=0.2 if sys.stderr.isatty() else 10,  # a log file wants fewer lines
    )
    try:
        with bar, closing(_write_all(partial, left)) as results:
            for chunk in results:
                written.append(chunk)
                bar.update(chunk.stop - chunk.start)
    except ImageError as error:
        hint = "To do without what cannot be read: data.on_corrupt=skip."
        raise UserError(f"{error} {hint}") from error
    return sorted(written)


def _write_all(partial: PartialCache, chunks: list[Chunk]) -> Generator[Chunk, None, None]:
    """Write chunks, in worker processes where that pays, and yield each, in any order.

    Raises:
        ImageError, OSError: as `PartialCache.write`.
        BrokenProcessPool: a worker process was killed.
    """
    started = time.monotonic()
    for chunk in chunks[:1]:  # written here: tells whether workers pay
        yield partial.write(chunk)
    rest = chunks[1:]
    work = (time.monotonic() - started) * len(rest)
    workers = min(partial.config.num_workers or _cores(), len(rest))
    if workers <= 1 or work < POOL_PAYS_FROM:
        yield from map(partial.write, rest)
        return
    # Spawned, since a fork of a process with threads (torch's) can hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker, (partial,))
    try:
        with blocked(signal.SIGINT):  # in the workers for good: Ctrl-C is for this process
            running = [pool.submit(_write_in_worker, chunk) for chunk in rest]
        for done in as_completed(running):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _cores() -> int:
    """Return the number of cores that this process may use: Slurm grants fewer than all."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


_partial: PartialCache  # a worker's copy: sent once, and not with every chunk


def _start_worker(partial: PartialCache) -> None:
    global _partial
    _partial = partial
    torch.set_num_threads(1)  # a worker a core: threads would only get in the way
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """End this process as soon as its parent is gone: SIGKILL leaves no workers behind."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _write_in_worker(chunk: Chunk) -> Chunk:
    return _partial.write(chunk)


def _finish(
    partial: PartialCache,
    written: list[Chunk],
    labels: dict[str, dict[str, Labels]],
    index: dict[str, Any],
) -> None:
    """Write headers, labels, the list of skipped images and the index; flush all to the disk."""
    files: dict[str, Pieces] = {}
    listed = ""
    for split, count in partial.source.sizes().items():
        chunks = [chunk for chunk in written if chunk.split == split]
        skipped = dict(pair for chunk in chunks for pair in chunk.skipped)
        if len(skipped) == count:
            raise UserError(
                f"data.on_corrupt: skip would leave nothing of {split}: none of its {count:,} "
                f"images can be read. The first: {next(iter(skipped.values()))}"
            )
        for number, reason in skipped.items():  # a line each, whatever is in the reason
            listed += f"{split}\t{number}\t{printable(reason)}\n"
        files[f"{split}.npy"] = partial.finish_images(split, chunks)
        for kind, known in labels[split].items():
            file = partial.folder / f"{split}.{kind}.npy"
            np.save(file, np.delete(known.values, list(skipped), axis=0))
            files[file.name] = _one_piece(file)
    (partial.folder / SKIPPED).unlink(missing_ok=True)
    if listed:
        (partial.folder / SKIPPED).write_bytes(listed.encode())
        files[SKIPPED] = _one_piece(partial.folder / SKIPPED)
    names = {kind: list(known.names) for kind, known in labels["train"].items()}
    text = with_checksum(index | {"labels": names, "files": files})
    (partial.folder / "index.json").write_text(text, encoding="utf-8")
    for name in (*files, "index.json"):
        with open(partial.folder / name, "rb+") as opened:
            os.fsync(opened)


def _one_piece(file: Path) -> Pieces:
    content = file.read_bytes()
    return [(len(content), zlib.crc32(content))]
