"""Atomic file writes, and tolerant reads of YAML and JSON."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path
from typing import Any, BinaryIO

import yaml
from omegaconf import OmegaConf

from vae.utils.errors import UserError

DISK_FULL_ERRORS = {  # errors of writes without enough disk space, and their meaning
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your share of the disk is full",
    errno.EFBIG: "files may not become that large there",
}

MAX_YAML = 1 << 20  # bytes of a YAML file: it takes a second to read
MAX_DEPTH = 50  # lists and mappings within each other, in a YAML file
MAX_WEIGHTS = 1 << 36  # bytes of a file of weights: it is read into memory
MAX_TEXT = 64 << 20  # bytes of a text file of a run, except metrics.jsonl
MAX_ROWS = 1 << 32  # bytes of metrics.jsonl: it takes seconds to read
MAX_LINE = 1 << 20  # bytes of a row of it
HARMLESS_LINKS = re.compile(  # W&B's to the log of its service, submitit's to a job's script
    r"[\\/](wandb[\\/][^\\/]+[\\/]logs[\\/]debug-core\.log"
    r"|\.submitit[\\/]\.submission_file_[0-9a-f]+\.sh)\Z"
)
TEMPORARY = re.compile(r"\.(\d+)(?:\.[0-9a-f]{16})?\.tmp$")  # the process, and a random number


def open_regular(path: Path, limit: int | None = None) -> BinaryIO:
    """Open a regular file for reading. A FIFO would wait for a writer; a device has no end.

    Raises:
        OSError: it cannot be opened, is no regular file, or is larger than `limit` bytes.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    about, fault = os.fstat(descriptor), ""
    if not stat.S_ISREG(about.st_mode):
        fault = "not a regular file"
    elif limit is not None and about.st_size > limit:
        fault = f"too large: {about.st_size / 1e6:,.0f} MB of at most {limit / 1e6:,.0f}"
    if fault:
        os.close(descriptor)
        raise OSError(errno.EINVAL, fault, str(path))
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, limit: int | None = None) -> bytes:
    """Return the content of a regular file; OSError as `open_regular`."""
    with open_regular(path, limit) as opened:
        return opened.read()


def read_text(path: Path, errors: str = "strict", limit: int = MAX_TEXT) -> str:
    """Return the text of a regular file in UTF-8, of at most `limit` bytes.

    Raises:
        OSError: as `open_regular`.
        UnicodeDecodeError: not UTF-8, with `errors="strict"`.
    """
    return read_bytes(path, limit).decode("utf-8", errors)


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each line of JSON objects with its object; skip damaged lines. One line is in memory.

    Raises:
        OSError: as `open_regular`; larger than MAX_ROWS, as a file of holes may be.
    """
    with open_regular(path, MAX_ROWS) as file:
        while line := file.readline(MAX_LINE).decode("utf-8", "replace"):
            with suppress(ValueError, RecursionError):  # a line that is being written
                row = json.loads(line)
                if isinstance(row, dict):
                    yield line.rstrip("\r\n") + "\n", row


def stored_records(archive: zipfile.ZipFile, limit: int) -> list[zipfile.ZipInfo]:
    """Return the records of an archive of torch's or NumPy's, of at most `limit` bytes in all.

    Raises:
        ValueError: they are larger (one record may be there many times), or compressed, which
            neither writes: zipfile inflates some kinds to any size, whatever they declare.
    """
    records = archive.infolist()
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise ValueError("its records are compressed")
    if sum(record.file_size for record in records) > limit:
        raise ValueError("its records are too large")
    return records


def reject_unsafe_entries(folder: Path, names: str = ".*") -> None:
    """Refuse a folder with links out of it, or with pipes and devices: before any write in it.

    A write through such a link changes a file elsewhere; a pipe waits for ever. HARMLESS_LINKS
    may stay: W&B and submitit make them anew for each run, and never write through an old one.

    Args:
        folder: may be missing.
        names: regular expression of paths within the folder, with `/`; others are ignored.

    Raises:
        UserError: names the link and its target, or the pipe.
        OSError: a folder in it cannot be listed.
    """
    root = os.path.realpath(folder)
    for entry in _entries_below(str(folder), re.compile(names, re.DOTALL | re.IGNORECASE)):
        if entry.is_symlink():
            target = os.path.realpath(entry.path)
            inside = target == root or target.startswith(os.path.join(root, ""))
            if not (inside or HARMLESS_LINKS.search(entry.path)):
                raise UserError(
                    f"{entry.path}: is a link to {target}, outside of {folder}. "
                    "Put a copy of its target in its place, or remove it."
                )
        elif not entry.is_file() and os.path.lexists(entry.path):  # a temporary file may be gone
            raise UserError(f"{entry.path}: is a pipe, a socket or a device. Remove it.")


def _entries_below(folder: str, names: re.Pattern[str]) -> Iterator[os.DirEntry[str]]:
    """Yield each entry below a folder that is not a folder; nothing if the folder is missing."""
    folders, start = [folder], len(os.path.join(folder, ""))
    while folders:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if not names.fullmatch(entry.path[start:].replace(os.sep, "/")):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    yield entry


def write_atomically(path: Path, write: Callable[[Path], Any], before: str | None = None) -> None:
    """Call `write(temporary path)`, flush the file to disk, and rename it.

    A reader of `path` sees the old file or the new one, never a part. The temporary name
    cannot be foreseen: in an untrusted folder, a link of that name would lead the write elsewhere.

    Args:
        path: the file.
        write: writes it to the path that it is given.
        before: the name under which the old file is kept, once the new one is written whole.

    Raises:
        OSError: it cannot be written; `path` is as it was, and the error's filename.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(8)}.tmp")
    try:
        with annotate_os_error(path):
            temporary.touch(exist_ok=False)
            write(temporary)
            with open(temporary, "rb" if os.name == "posix" else "rb+") as file:
                os.fsync(file.fileno())
        if before and path.exists():
            backup_as(path, before)
        with annotate_os_error(path):
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def annotate_os_error(path: Path) -> Iterator[None]:
    """Set `path` as the filename of an OSError raised inside the block."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:  # a message of somebody's own stays as it is
            error.filename = str(path)
        raise


def free_bytes(path: Path) -> int:
    """Return the free bytes on the disk of a path, which need not exist yet."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote below `folder`.

    Those of a process that lives stay: `vae evaluate` may be writing beside a run.
    """
    for temporary in folder.rglob(".*.tmp"):
        named = TEMPORARY.search(temporary.name)
        if named and not is_alive(int(named[1])):
            temporary.unlink(missing_ok=True)


def is_alive(pid: int) -> bool:
    """Return whether there is a process of this number on this host. Windows: always True."""
    if os.name == "nt":  # os.kill would send it Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except PermissionError:  # another user's
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def backup_as(path: Path, name: str) -> None:
    """Keep the contents of `path` as `name` in the same folder."""

    def link(backup: Path) -> None:
        backup.unlink()
        try:
            os.link(path, backup)  # no byte is copied
        except OSError:  # a file system without links
            shutil.copyfile(path, backup)

    write_atomically(path.with_name(name), link)


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file in UTF-8, atomically."""
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))


def read_yaml(path: Path) -> Any:
    """Read a YAML file of Hydra as plain dicts and lists, interpolations unresolved.

    Raises:
        OSError, ValueError, YAMLError, OmegaConfBaseException: it cannot be read, is damaged,
            or is nested as no file of ours: libyaml would end the process (its stack overflows).
    """
    text = read_text(path, limit=MAX_YAML)
    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"{path}: nested more than {MAX_DEPTH} deep")
    return OmegaConf.to_container(OmegaConf.load(StringIO(text)))


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file; {} if it is missing or damaged."""
    try:
        found = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write an object as JSON, atomically.

    Raises:
        ValueError: one of its numbers is none of JSON's: nan or inf.
    """
    write_text_atomically(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def with_checksum(values: dict[str, Any]) -> str:
    """Return JSON text of values and their checksum; `verify_checksum` reads it."""
    return json.dumps(values | {"crc32": zlib.crc32(json.dumps(values).encode())})


def verify_checksum(text: str) -> dict[str, Any]:
    """Return the values in a text of `with_checksum`.

    Raises:
        ValueError: the text is no JSON, or was changed.
    """
    values: dict[str, Any] = json.loads(text)
    checksum = values.pop("crc32", None)
    if checksum != zlib.crc32(json.dumps(values).encode()):
        raise ValueError("other checksum")
    return values
