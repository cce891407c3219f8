"""Stores of CelebA's JPEG files: a folder, or a zip archive read in place."""

from __future__ import annotations

import hashlib
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from vae.data.base import ImageError
from vae.data.celeba.download import download_again, first_names, reject_placeholders
from vae.data.images import is_image_name
from vae.utils.errors import UserError

END_BYTES = 1 << 25  # bytes: the list of 202,599 members at an archive's end is 15 to 20 MB


Place = tuple[int, int, int, int]  # where a member begins, packed size, method, checksum


class Store(Protocol):
    """The image files, by name. Picklable: workers read it."""

    path: Path

    def names(self) -> set[str]:
        """Return the names of all images. Takes a second or more: called before packing only."""

    def read(self, name: str) -> bytes:
        """Return a file's content. ImageError if it cannot be read."""

    def fingerprint(self, names: Sequence[str]) -> Any:
        """Return JSON-able values that change with the content; cheap, since called often."""


class FolderStore:
    """Image files in a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> set[str]:
        """Return the names of the images in the folder."""
        try:
            return {name for name in os.listdir(self.path) if _is_image_name(name)}
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read: {error.strerror}.") from error

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise ImageError(f"{self.path / name}: cannot be read: {error.strerror}.") from error

    def fingerprint(self, names: Sequence[str]) -> str:
        """Return a digest of size and modification time of 1,000 of the files.

        A sample, since asking a cluster's file system about 202,599 files takes a minute
        at every start, and CelebA is not a set whose pictures change one by one.
        """
        digest = hashlib.sha256()
        for name in names[:: -(-len(names) // 1000)]:
            try:
                stat = os.stat(self.path / name)
                digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
            except OSError:
                digest.update(f"{name}\0missing\n".encode())
        return digest.hexdigest()


class ZipStore:
    """Image files in a zip archive, read in place.

    A worker needs to know where each member lies, not all that zipfile keeps about it
    (150 MB a process): that is found once, and members are read by it.

    Raises:
        UserError: the file is no whole zip archive.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        reject_placeholders(path)
        if not zipfile.is_zipfile(path):
            with open(path, "rb") as file:
                begins_well = file.read(4) == b"PK\x03\x04"
            what = (
                f"the archive is truncated: after {path.stat().st_size:,} bytes its end, where "
                "the list of its members stands, is missing"
                if begins_well
                else "is no zip archive"
            )
            raise UserError(f"{path}: {what}. {download_again(path)}")
        self._members: dict[str, Place] = {}

    def names(self) -> set[str]:
        """Return the names of the images in the archive."""
        return set(self._find_members())

    def read(self, name: str) -> bytes:
        """Return a member's content, checked against the archive's checksum."""
        member = self._find_members().get(name)
        where = f"{self.path}: {name}"
        if member is None:
            raise ImageError(f"{where}: is not in the archive.")
        start, size, method, checksum = member
        try:
            with open(self.path, "rb") as file:
                if start + size > file.seek(0, os.SEEK_END):
                    raise EOFError("it would end after the archive")
                file.seek(start)
                header = file.read(30)  # its last two fields: lengths of name and extra field
                file.seek(sum(struct.unpack("<HH", header[26:30])), os.SEEK_CUR)
                packed = file.read(size)
            content = zlib.decompress(packed, -zlib.MAX_WBITS) if method else packed
        except (OSError, EOFError, struct.error, zlib.error) as error:
            raise ImageError(f"{where}: the archive is damaged here ({error}).") from error
        if zlib.crc32(content) != checksum:
            raise ImageError(f"{where}: the archive is damaged here (other checksum).")
        return content

    def fingerprint(self, names: Sequence[str]) -> list[Any]:
        """Return the archive's size and a digest of its end, which holds the members' checksums."""
        size = self.path.stat().st_size
        with open(self.path, "rb") as file:
            file.seek(max(0, size - END_BYTES))
            return [size, hashlib.sha256(file.read()).hexdigest()]

    def _find_members(self) -> dict[str, Place]:
        """Return each image's offset, packed size, compression and checksum, by file name."""
        if not self._members:
            try:
                with zipfile.ZipFile(self.path) as archive:
                    infos = archive.infolist()
            except Exception as error:  # zipfile raises nearly anything on damaged bytes
                message = (
                    f"{self.path}: the archive is damaged ({error}). {download_again(self.path)}"
                )
                raise UserError(message) from error
            _reject_odd_members(self.path, infos)
            self._members = _image_offsets(self.path, infos)
        return self._members


def check_image_names(
    store: Store, wanted: Sequence[str], listed: Sequence[str], partition: Path
) -> None:
    """Check that all wanted images exist and that all existing images are listed.

    Raises:
        ImageError: some are missing, or have no split.
    """
    there = store.names()
    missing = [name for name in wanted if name not in there]
    if missing:
        beside = store.path.with_name(f"{store.path.name}.zip")
        other = f" Or remove the folder: {beside.name} beside it is read in place."
        raise ImageError(
            f"data.path: {store.path} lacks {len(missing):,} of the {len(wanted):,} images that "
            f"{partition.name} lists ({first_names(missing)}). Unpack or fetch all of it."
            f"{other if zipfile.is_zipfile(beside) else ''}"
        )
    unlisted = sorted(there.difference(listed))
    if unlisted:
        raise ImageError(
            f"{partition}: {len(unlisted):,} of the {len(there):,} images in {store.path} have "
            f"no line here, and so no split ({first_names(unlisted)}). {download_again(partition)}"
        )


def _is_image_name(name: str) -> bool:
    return is_image_name(name) and not name.startswith(".")


def _reject_odd_members(path: Path, infos: Sequence[zipfile.ZipInfo]) -> None:
    for info in infos:
        parts = info.filename.replace("\\", "/").split("/")
        if not parts[0] or ".." in parts or ":" in parts[0]:
            raise UserError(
                f"{path}: holds a member that points outside of it ({info.filename!r}). CelebA's "
                f"archive does not; nothing of it was read. {download_again(path)}"
            )
        if info.flag_bits & 1:
            raise UserError(f"{path}: is encrypted ({info.filename}). {download_again(path)}")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(
                f"{path}: is packed by a method that is not read in place ({info.filename}). "
                "Unpack it."
            )


def _image_offsets(path: Path, infos: Sequence[zipfile.ZipInfo]) -> dict[str, Place]:
    places: dict[str, Place] = {}
    for info in infos:
        name = info.filename.rpartition("/")[2]
        if not _is_image_name(name) or info.filename.startswith("__MACOSX"):
            continue
        if name in places:
            raise UserError(
                f"{path}: holds {name} twice, in two folders. Unpack it, and give the folder of "
                "the aligned images: data.path=FOLDER."
            )
        places[name] = (info.header_offset, info.compress_size, info.compress_type, info.CRC)
    return places
