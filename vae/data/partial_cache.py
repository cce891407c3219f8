"""An unfinished cache: files that worker processes fill chunk by chunk.

    .<name>.partial/
        train.npy, val.npy, test.npy     of full size from the start; each chunk at its place
        done/train-64-9a3f01c2           an empty file: the chunk from image 64 on is written,
                                         and its bytes have this CRC-32

An interrupted packing is resumed: a chunk is kept if its bytes still have that CRC-32.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vae.data.base import DataConfig, ImageError, ImageSource
from vae.utils.errors import UserError
from vae.utils.files import reject_unsafe_entries

CHUNK = 64  # images of a chunk at most, and bytes
CHUNK_BYTES = 1 << 24
DONE = "done"  # folder with an empty file per finished chunk
HEADER_BYTES = 128  # of an .npy file of uint8 with four dimensions

Pieces = list[tuple[int, int]]  # bytes and CRC-32 of each piece of a file, in order


class Chunk(NamedTuple):
    """Images [start, stop) of a split: one job, and one checksum of the cache."""

    split: str
    start: int
    stop: int
    checksum: int = 0  # CRC-32 of its bytes, once it is in its file
    skipped: Sequence[tuple[int, str]] = ()  # number and reason of each unreadable image


@dataclass(frozen=True)
class PartialCache:
    """An unfinished cache. Picklable: each worker writes chunks into it."""

    folder: Path
    source: ImageSource
    config: DataConfig

    @property
    def image_bytes(self) -> int:
        """Bytes per image."""
        return 3 * self.config.image_size**2

    def chunks(self) -> list[Chunk]:
        """Return all chunks; of large images fewer each, since a worker holds one in memory."""
        length = max(1, min(CHUNK, CHUNK_BYTES // self.image_bytes))
        return [
            Chunk(split, start, min(start + length, count))
            for split, count in self.source.sizes().items()
            for start in range(0, count, length)
        ]

    def allocate(self) -> None:
        """Create the folder and files of full size; what an interrupted packing wrote stays.

        Raises:
            UserError: a link or a pipe is in their place.
        """
        if self.folder.is_symlink():
            raise UserError(f"{self.folder}: is a link. Remove it.")
        reject_unsafe_entries(self.folder)
        (self.folder / DONE).mkdir(parents=True, exist_ok=True)
        for split, count in self.source.sizes().items():
            with open(self.file(split), "ab") as file:
                file.truncate(HEADER_BYTES + count * self.image_bytes)

    def written(self) -> list[Chunk]:
        """Return the chunks that an interrupted packing has written.

        Their bytes are checked: a machine that lost power may have kept the marker alone.
        """
        noted = {marker.name.rpartition("-")[0] for marker in (self.folder / DONE).iterdir()}
        found = []
        for chunk in self.chunks():
            if f"{chunk.split}-{chunk.start}" not in noted:
                continue
            with open(self.file(chunk.split), "rb") as file:
                file.seek(HEADER_BYTES + chunk.start * self.image_bytes)
                content = file.read((chunk.stop - chunk.start) * self.image_bytes)
            chunk = chunk._replace(checksum=zlib.crc32(content))
            if self._marker(chunk).exists():
                found.append(chunk)
        return found

    def write(self, chunk: Chunk) -> Chunk:
        """Read a chunk's images, write them at their place, and mark the chunk as done.

        By write() and not through a memory map, where a full disk would kill the process.

        Raises:
            ImageError: an image cannot be read, and skipping is not configured.
            OSError: the disk is full.
        """
        images, skipped = self._read(chunk)
        content = np.ascontiguousarray(images, np.uint8).data
        with open(self.file(chunk.split), "rb+") as file:
            file.seek(HEADER_BYTES + chunk.start * self.image_bytes)
            file.write(content)
        chunk = chunk._replace(checksum=zlib.crc32(content), skipped=skipped)
        if not skipped:  # else it is tried again when resumed: the images may have been fixed
            self._marker(chunk).touch()
        return chunk

    def finish_images(self, split: str, chunks: list[Chunk]) -> Pieces:
        """Drop the rows of unreadable images and write the header; return the file's pieces.

        Rows move towards the beginning only, so each is read before it is overwritten. A kill
        meanwhile costs the moved chunks: their bytes no longer have the CRC-32 of their markers.
        """
        size, count = self.config.image_size, chunks[-1].stop
        images = np.memmap(self.file(split), np.uint8, "r", HEADER_BYTES, (count, size, size, 3))
        kept = np.delete(np.arange(count), [number for one in chunks for number, _ in one.skipped])
        pieces = [((one.stop - one.start) * self.image_bytes, one.checksum) for one in chunks]
        with open(self.file(split), "rb+") as file:
            if len(kept) < count:
                pieces = []
                file.seek(HEADER_BYTES)
                for rows in np.array_split(kept, len(chunks)):
                    content = images[rows].tobytes()
                    pieces.append((len(content), zlib.crc32(content)))
                    file.write(content)
                file.truncate()
                file.seek(0)
            fields = {"descr": "|u1", "fortran_order": False, "shape": (len(kept), size, size, 3)}
            np.lib.format.write_array_header_1_0(file, fields)
            file.seek(0)
            header = file.read(HEADER_BYTES)
        return [(HEADER_BYTES, zlib.crc32(header)), *pieces]

    def file(self, split: str) -> Path:
        """Return the file of a split's images."""
        return self.folder / f"{split}.npy"

    def _marker(self, chunk: Chunk) -> Path:
        return self.folder / DONE / f"{chunk.split}-{chunk.start}-{chunk.checksum:08x}"

    def _read(self, chunk: Chunk) -> tuple[np.ndarray, list[tuple[int, str]]]:
        """Read a chunk's images, zeros for unreadable ones, and the reasons."""
        split, start, stop, *_ = chunk
        try:
            return self.source.read(split, start, stop), []
        except ImageError:
            if not self.config.skips_corrupt:
                raise
        size, skipped = self.config.image_size, []
        images = np.zeros((stop - start, size, size, 3), np.uint8)
        for number in range(start, stop):
            try:
                images[number - start] = self.source.read(split, number, number + 1)[0]
            except ImageError as error:
                skipped.append((number, str(error)))
        return images, skipped


def partial_folder(folder: Path) -> Path:
    """Return the folder of an unfinished cache."""
    return folder.with_name(f".{folder.name}.partial")
