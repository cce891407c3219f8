"""Validation of a packed cache: its index, the headers of its arrays, its labels, its checksums.

The checksums find damage. The rest finds a cache that somebody else made: the index and the
arrays are used only if they have the form that packing.py writes.
"""

from __future__ import annotations

import math
import os
import re
import zlib
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from vae.data.base import LABEL_DTYPES, SPLITS, DataConfig, ImageSource
from vae.data.packing import FORMAT, NUMBERS, SKIPPED, label_fault, valid_columns
from vae.data.partial_cache import CHUNK_BYTES, HEADER_BYTES, Pieces
from vae.utils.errors import UserError
from vae.utils.files import MAX_TEXT, open_regular, read_text, verify_checksum


def find_damage(
    folder: Path, source: ImageSource, config: DataConfig, *, every_byte: bool = False
) -> str:
    """Describe why this is no intact cache of a source, "" if it is.

    Args:
        folder: of the cache.
        source: the cache has those of its images that were not skipped.
        config: of the source.
        every_byte: read all of each file; else some chunks, which takes milliseconds.

    Raises:
        UserError: a file cannot be read: a disk that is away for a moment is no damage.
    """
    if not folder.exists():
        return "not there"
    try:
        index = read_index(folder)
        if index["format"] != FORMAT:
            return f"has format {index['format']!r:.20}, not {FORMAT}"
        labels, files = index["labels"], index["files"]
        _require_index(labels, files, (folder / SKIPPED).exists())
        sizes, size = source.sizes(), config.image_size
        arrays: dict[str, tuple[Any, tuple[int, ...]]] = {}
        for split, skipped in skipped_images(folder).items():
            if max(skipped, default=0) >= sizes[split]:
                return f"{SKIPPED} is damaged (image {max(skipped)} of {sizes[split]})"
            count = sizes[split] - len(skipped)
            arrays[f"{split}.npy"] = np.uint8, (count, size, size, 3)
            for kind, names in labels.items():
                arrays[f"{split}.{kind}.npy"] = LABEL_DTYPES.get(kind), (count, len(names))
        limits = {SKIPPED: MAX_TEXT}
        for name, (dtype, shape) in arrays.items():
            limits[name] = HEADER_BYTES + np.dtype(dtype or np.longdouble).itemsize * math.prod(
                shape
            )
        found = [
            _damage(folder / name, pieces, every_byte, limits[name])
            for name, pieces in files.items()
        ]
        if not any(found):
            for name, form in arrays.items():
                fault = label_fault(name.split(".")[1], open_array(folder / name, *form))
                found.append(fault and f"{name} is damaged ({fault})")
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: cannot be read: {error.strerror}. If that lasts, remove "
            f"{folder}: the next run packs it again."
        ) from error
    except CacheError as error:
        return str(error)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        return f"index.json is damaged ({error!s:.80})"
    return "; ".join(filter(None, found))


class CacheError(Exception):
    """A file of a cache is damaged, or of another form than packing.py writes."""


def open_array(file: Path, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Map an array of a cache into memory, read-only. Only its header is read.

    Args:
        file: of the array.
        dtype: None for any numbers.
        shape: of the array.

    Raises:
        CacheError: it is another, or damaged.
        OSError: it cannot be read.
    """
    try:
        array = np.lib.format.open_memmap(file, mode="r")
    except OSError:
        raise
    except Exception as error:  # NumPy raises nearly anything on damaged bytes
        raise CacheError(f"{file.name} is damaged ({error!s:.80})") from error
    right = array.dtype == dtype if dtype else array.dtype.kind in NUMBERS
    if not (right and array.shape == shape and array.flags.c_contiguous):
        wanted = np.dtype(dtype) if dtype else "numbers"
        raise CacheError(
            f"{file.name} is damaged ({array.dtype} of shape {array.shape}, not {wanted} of "
            f"shape {shape} in C order)"
        )
    return array


def read_index(folder: Path) -> dict[str, Any]:
    """Return the content of index.json; OSError or ValueError if it cannot be read."""
    return verify_checksum(read_text(folder / "index.json"))


def skipped_images(folder: Path) -> dict[str, dict[int, str]]:
    """Return number and reason of each image that could not be read, by split.

    Raises:
        CacheError: the list of them is damaged.
    """
    skipped: dict[str, dict[int, str]] = {split: {} for split in SPLITS}
    try:
        lines = read_text(folder / SKIPPED, "replace").split("\n")[:-1]
    except FileNotFoundError:
        return skipped
    for line in lines:
        found = re.fullmatch(r"(train|val|test)\t(\d{1,9})\t(.*)", line, re.ASCII)
        if not found:
            raise CacheError(f"{SKIPPED} is damaged ({line[:40]!r})")
        skipped[found[1]][int(found[2])] = found[3]
    return skipped


def _require_index(labels: Any, files: Any, has_skipped: bool) -> None:
    """Raise a ValueError unless the index has names of labels, and all files."""
    for kind, names in labels.items():
        if not (isinstance(names, list) and valid_columns(kind, names)):
            raise ValueError(f"its labels {kind!r:.20} are {names!r:.40}")
    kinds = ["", *(f".{kind}" for kind in labels)]
    wanted = {f"{split}{kind}.npy" for split in SPLITS for kind in kinds}
    if files.keys() != wanted | ({SKIPPED} if has_skipped else set()):
        raise ValueError(f"its files are {', '.join(files)}")


def _damage(file: Path, pieces: Pieces, every_byte: bool, largest: int) -> str:
    """Describe the damage of a file of a cache, of at most `largest` bytes; "" if there is none."""
    *starts, expected = accumulate((length for length, _ in pieces), initial=0)
    last = len(pieces) - 1
    looked_at = range(last + 1) if every_byte else sorted({0, min(1, last), last // 2, last})
    damaged = []
    with open_regular(file) as opened:
        size = os.fstat(opened.fileno()).st_size
        if size != expected or size > largest:
            return f"{file.name} is damaged ({size:,} bytes, not {min(expected, largest):,})"
        for piece in looked_at:
            opened.seek(starts[piece])
            if _checksum(opened, pieces[piece][0]) != pieces[piece][1]:
                damaged.append(starts[piece])
    if not damaged:
        return ""
    return (
        f"{file.name} is damaged in {len(damaged)} of {len(looked_at)} chunks that were read "
        f"(the first at byte {damaged[0]:,})"
    )


def _checksum(opened: Any, length: int) -> int:
    checksum = 0
    while block := opened.read(min(length, CHUNK_BYTES)):
        checksum = zlib.crc32(block, checksum)
        length -= len(block)
    return checksum
