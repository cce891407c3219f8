"""Stores of CelebA's JPEG files: a folder, or a zip archive read in place."""

from __future__ import annotations

import hashlib
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from vae.data.base import ImageError
from vae.data.celeba.download import download_again, reject_placeholders
from vae.data.images import is_image_name, read_image_file
from vae.utils.errors import UserError

END_BYTES = 1 << 25  # bytes: the list of 202,599 members at an archive's end is 15 to 20 MB
MEMBER_BYTES = 1 << 26  # bytes: limit of one unpacked image; CelebA's have 10 kB


class FolderStore:
    """Image files in a folder. Picklable: workers read it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> set[str]:
        """Return the names of all images. Takes a second or more: called before packing only."""
        try:
            return set(filter(_is_image, os.listdir(self.path)))
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read: {error.strerror}.") from error

    def read(self, name: str) -> bytes:
        """Return a file's content. ImageError if it cannot be read."""
        return read_image_file(self.path / name)

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


class Member(NamedTuple):
    """Where a member of an archive lies, and how it is packed."""

    start: int  # bytes, of its local header
    size: int  # bytes, packed
    method: int  # zipfile.ZIP_STORED or ZIP_DEFLATED
    checksum: int  # CRC-32 of its content


class ZipStore:
    """Image files in a zip archive, read in place. Picklable: workers read it.

    A worker needs to know where each member lies, not all that zipfile keeps about it
    (150 MB a process): that is found once, and members are read by it.

    Raises:
        UserError: the file is no whole zip archive.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        reject_placeholders(path)
        if not zipfile.is_zipfile(path):
            raise UserError(
                f"{path}: is no zip archive, or is truncated: after {path.stat().st_size:,} bytes "
                f"its end, where the list of its members stands, is missing. {download_again(path)}"
            )

    def names(self) -> set[str]:
        """Return the names of the images in the archive."""
        return set(self._members)

    def read(self, name: str) -> bytes:
        """Return a member's content, checked against the archive's checksum."""
        where = f"{self.path}: {name}"
        member = self._members.get(name)
        if member is None:
            raise ImageError(f"{where}: is not in the archive.")
        try:
            with open(self.path, "rb") as file:
                if member.start + member.size > file.seek(0, os.SEEK_END):
                    raise EOFError("it would end after the archive")
                file.seek(member.start)
                header = file.read(30)  # its last two fields: lengths of name and extra field
                file.seek(sum(struct.unpack("<HH", header[26:30])), os.SEEK_CUR)
                content = file.read(member.size)
            if member.method == zipfile.ZIP_DEFLATED:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, MEMBER_BYTES)
            if zlib.crc32(content) != member.checksum:
                raise EOFError("other checksum")
        except (OSError, EOFError, struct.error, zlib.error) as error:
            raise ImageError(f"{where}: the archive is damaged here ({error}).") from error
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
            with zipfile.ZipFile(self.path) as archive:
                infos = archive.infolist()
        except Exception as error:  # zipfile raises nearly anything on damaged bytes
            what = f"the archive is damaged ({error})"
            raise UserError(f"{self.path}: {what}. {download_again(self.path)}") from error
        members: dict[str, Member] = {}
        for info in infos:
            name = info.filename.rpartition("/")[2]
            twice = "is in two of its folders (unpack it, and give one: data.path=FOLDER)"
            if wrong := twice if name in members else _refusal(info):
                raise UserError(
                    f"{self.path}: its member {info.filename!r} {wrong}. CelebA's archive has no "
                    f"such member; nothing of it was read. {download_again(self.path)}"
                )
            if _is_image(name):
                members[name] = Member(
                    info.header_offset, info.compress_size, info.compress_type, info.CRC
                )
        return members


Store = FolderStore | ZipStore


def fingerprint_end(file: Path, count: int) -> list[Any]:
    """Return a file's size and a digest of its last `count` bytes."""
    with open(file, "rb") as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(max(0, size - count))
        return [size, hashlib.sha256(opened.read()).hexdigest()]


def _is_image(name: str) -> bool:
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
