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
from vae.data.partial_cache import Pieces
from vae.utils.errors import UserError
from vae.utils.files import open_regular, read_text, verify_checksum


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
        for split, skipped in skipped_images(folder).items():
            if max(skipped, default=0) >= sizes[split]:
                return f"{SKIPPED} is damaged (image {max(skipped)} of {sizes[split]})"
            count = sizes[split] - len(skipped)
            open_array(folder / f"{split}.npy", np.uint8, (count, size, size, 3))
            for kind, names in labels.items():
                file = folder / f"{split}.{kind}.npy"
                values = open_array(file, LABEL_DTYPES.get(kind), (count, len(names)))
                if fault := label_fault(kind, values):
                    return f"{file.name} is damaged ({fault})"
        found = [_damage(folder / name, pieces, every_byte) for name, pieces in files.items()]
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

    Raises:
        CacheError: it has another dtype (None: any numbers) or shape, or is damaged.
        OSError: it cannot be read.
    """
    with open_regular(file) as opened:
        try:
            np.lib.format.read_magic(opened)
            found, fortran, kind = np.lib.format.read_array_header_1_0(opened)
        except OSError:
            raise
        except Exception as error:  # NumPy raises nearly anything on damaged bytes
            raise CacheError(f"{file.name} is damaged ({error!s:.80})") from error
        right = kind == dtype if dtype else kind.kind in NUMBERS
        if not right or found != shape or fortran:
            wanted = np.dtype(dtype) if dtype else "numbers"
            raise CacheError(
                f"{file.name} is damaged ({kind} of shape {found}, not {wanted} of shape {shape} "
                "in C order)"
            )
        start, size = opened.tell(), os.fstat(opened.fileno()).st_size
        if size != (expected := start + kind.itemsize * math.prod(shape)):
            raise CacheError(f"{file.name} is damaged ({size:,} bytes, not {expected:,})")
        return np.memmap(opened, kind, "r", start, shape)


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


def _damage(file: Path, pieces: Pieces, every_byte: bool) -> str:
    """Describe the damage of a file of a cache; "" if there is none."""
    starts = [0, *accumulate(length for length, _ in pieces)]
    last = len(pieces) - 1
    looked_at = range(last + 1) if every_byte else sorted({0, min(1, last), last // 2, last})
    damaged = []
    with open_regular(file) as opened:
        size = os.fstat(opened.fileno()).st_size
        if size != starts[-1]:
            return f"{file.name} is damaged ({size:,} bytes, not {starts[-1]:,})"
        for piece in looked_at:
            opened.seek(starts[piece])
            if zlib.crc32(opened.read(pieces[piece][0])) != pieces[piece][1]:
                damaged.append(starts[piece])
    if not damaged:
        return ""
    return (
        f"{file.name} is damaged in {len(damaged)} of {len(looked_at)} chunks that were read "
        f"(the first at byte {damaged[0]:,})"
    )
