"""Stores of CelebA's image files: a folder, or a zip archive read in place."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from vae.data.base import ImageError
from vae.data.celeba.download import download_again, reject_placeholders
from vae.data.images import FIX, is_image_name, read_image_file
from vae.utils.errors import UserError
from vae.utils.files import open_regular

MAX_IMAGES = 1_000_000  # CelebA has 202,599
END_BYTES = 1 << 25  # bytes: the list of 202,599 members at an archive's end is 15 to 20 MB
MEMBER_BYTES = 1 << 26  # bytes: limit of one image, packed or not; CelebA's have 10 kB
LIST_BYTES = 1 << 27  # bytes: limit of that list of members; zipfile takes 10 times as many


class Store(ABC):
    """Image files by name. Picklable: workers read it."""

    path: Path

    @abstractmethod
    def names(self) -> set[str]:
        """Return the names of all images, which takes a second or more."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return an image's content. ImageError if it cannot be read."""

    @abstractmethod
    def fingerprint(self, names: Sequence[str]) -> Any:
        """Return JSON-able values that change with the content of these images."""

    @cached_property
    def by_stem(self) -> dict[str, str]:
        """Names by stem, for lists that say .jpg where files are .png. Made only if needed."""
        return {stem_of(name): name for name in sorted(self.names(), reverse=True)}


class FolderStore(Store):
    """Image files in a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> set[str]:
        try:
            return set(filter(_is_visible_image, os.listdir(self.path)))
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read: {error.strerror}.") from error

    def read(self, name: str) -> bytes:
        return read_image_file(self._file(name))

    def fingerprint(self, names: Sequence[str]) -> str:
        """Return a digest of size and modification time of 1,000 of the files.

        A sample, since asking a cluster's file system about 202,599 files takes a minute
        at every start, and CelebA is not a set whose pictures change one by one.
        """
        digest = hashlib.sha256()
        for name in names[:: -(-len(names) // 1000)]:
            try:
                stat = os.stat(self._file(name))
                digest.update(os.fsencode(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n"))
            except OSError:
                digest.update(os.fsencode(f"{name}\0missing\n"))
        return digest.hexdigest()

    def _file(self, name: str) -> Path:
        file = self.path / name
        if not os.path.isfile(file):
            file = self.path / self.by_stem.get(stem_of(name), name)
        return file


class Member(NamedTuple):
    """Where a member of an archive lies, and how it is packed."""

    start: int  # bytes, of its local header
    size: int  # bytes, packed
    unpacked: int  # bytes
    method: int  # zipfile.ZIP_STORED or ZIP_DEFLATED
    checksum: int  # CRC-32 of its content


class ZipStore(Store):
    """Image files in a zip archive, read in place.

    A worker needs to know where each member lies, not all that zipfile keeps about it
    (150 MB a process): that is found once, and members are read by it.

    Raises:
        UserError: the file is no whole zip archive.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        reject_placeholders(path)
        with open_regular(path) as file:
            whole = zipfile.is_zipfile(file)
        if not whole:
            raise UserError(
                f"{path}: is no zip archive, or is truncated: after {path.stat().st_size:,} bytes "
                f"its end, where the list of its members stands, is missing. {download_again(path)}"
            )

    def names(self) -> set[str]:
        return set(self._members)

    def read(self, name: str) -> bytes:
        """Return a member's content, checked against the archive's size and checksum of it."""
        where = f"{self.path}: {name}"
        member = self._members.get(name) or self._members.get(self.by_stem.get(stem_of(name), ""))
        if member is None:
            raise ImageError(f"{where}: is not in the archive.")
        if (size := max(member.size, member.unpacked)) > MEMBER_BYTES:
            what = f"{size / 1e6:,.0f} MB of at most {MEMBER_BYTES / 1e6:,.0f}"
            raise ImageError(f"{where}: is too large: {what}. {FIX}")
        try:
            with open_regular(self.path) as file:
                file.seek(member.start)
                header = file.read(30)  # its last two fields: lengths of name and extra field
                file.seek(sum(struct.unpack("<HH", header[26:30])), os.SEEK_CUR)
                content = file.read(member.size)
            if member.method == zipfile.ZIP_DEFLATED:
                limit = member.unpacked + 1  # one byte more: 0 would be no limit
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, limit)
            if len(content) != member.unpacked:
                raise ValueError("other size")
            if zlib.crc32(content) != member.checksum:
                raise ValueError("other checksum")
        except (OSError, ValueError, OverflowError, struct.error, zlib.error) as error:
            what = f"the archive is damaged here ({error})"
            raise ImageError(f"{where}: {what}. {download_again(self.path)}") from error
        return content

    def fingerprint(self, names: Sequence[str]) -> list[Any]:
        """Return the archive's size and a digest of its end, which holds the members' checksums."""
        return fingerprint_end(self.path, END_BYTES)

    @cached_property
    def _members(self) -> dict[str, Member]:
        """Each image's place, by file name.

        Raises:
            UserError: the archive is damaged, or one of its members cannot be read in place.
        """
        try:
            with _Archive(self.path) as file, zipfile.ZipFile(file) as archive:
                infos = archive.infolist()
        except Exception as error:  # zipfile raises nearly anything on damaged bytes
            what = f"the archive is damaged ({error})"
            raise UserError(f"{self.path}: {what}. {download_again(self.path)}") from error
        members: dict[str, Member] = {}
        for info in infos:
            name = info.filename.replace("\\", "/").rpartition("/")[2]  # "\\": older Windows
            twice = "is in two of its folders (unpack it, and give one: data.path=FOLDER)"
            if wrong := twice if name in members else _refusal(info):
                raise UserError(
                    f"{self.path}: its member {info.filename!r} {wrong}. CelebA's archive has no "
                    f"such member; nothing of it was read. {download_again(self.path)}"
                )
            if _is_visible_image(name):
                members[name] = Member(
                    info.header_offset,
                    info.compress_size,
                    info.file_size,
                    info.compress_type,
                    info.CRC,
                )
        return members


class _Archive(io.FileIO):
    """A file of which zipfile may not read too much at once: it asks for its list in one piece."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > LIST_BYTES:
            raise OSError(f"its list of members would have {size / 1e6:,.0f} MB")
        return super().read(size)


def stem_of(name: str) -> str:
    """Return a name without the suffix of an image, in small letters."""
    return (os.path.splitext(name)[0] if is_image_name(name) else name).lower()


def fingerprint_end(file: Path, count: int) -> list[Any]:
    """Return a file's size and a digest of its last `count` bytes."""
    with open_regular(file) as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(max(0, size - count))
        return [size, hashlib.sha256(opened.read()).hexdigest()]


def _is_visible_image(name: str) -> bool:
    return is_image_name(name) and not name.startswith(".")


def _refusal(info: zipfile.ZipInfo) -> str:
    """Return why a member of an archive is not read, or ""."""
    parts = info.filename.replace("\\", "/").split("/")
    if not parts[0] or ".." in parts or ":" in parts[0]:
        return "points outside of the archive"
    if info.flag_bits & 1:
        return "is encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is packed by a method that is not read in place (unpack it)"
    return ""
