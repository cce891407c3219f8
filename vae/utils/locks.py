"""Locks between processes, also on network disks that do not support the system's locks."""

from __future__ import annotations

import logging
import tempfile
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from vae.utils.errors import UserError
from vae.utils.files import annotate_os_error, read_text
from vae.utils.text import printable

try:
    import fcntl
except ImportError:  # Windows: filelock has its own way there
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)


def file_lock(path: Path) -> BaseFileLock:
    """Return the lock of a path, not yet acquired.

    The system releases its own lock (flock) when the process ends, however it ends. Where the
    disk has none, a file beside `path` is the lock. It names a host and a process: the file of
    a process of this host that is gone does not count; that of another host blocks.

    Raises:
        OSError: no file can be created in the folder of `path`.
    """
    if _has_flock(path.parent):
        return FileLock(path)
    return SoftFileLock(path.with_name(f"{path.name}.soft"))


def hold(
    path: Path, held_elsewhere: str, refuse: type[UserError] | None = None
) -> AbstractContextManager[object]:
    """Acquire the lock of a path, as a context manager; if it is held, say so and wait for it.

    Args:
        path: of the lock.
        held_elsewhere: says who has it: "FOLDER: another process is ...".
        refuse: the error to raise instead of waiting.

    Raises:
        OSError: as `file_lock`.
    """
    lock = file_lock(path)
    try:
        return lock.acquire(timeout=0.5)  # who only looks at it holds it for a moment
    except Timeout:
        text = held_elsewhere + _describe_holder(lock)
        if refuse is not None:
            raise refuse(f"{text}.") from None
        log.info("%s; waiting for it", text)
        return lock.acquire()


def _describe_holder(lock: BaseFileLock) -> str:
    """Describe who holds a lock, and how to release it, to follow "another process ...".

    Nothing for the system's own lock, which is released with its process.
    """
    if not isinstance(lock, SoftFileLock):
        return ""
    try:
        process, host = read_text(Path(lock.lock_file), "replace").splitlines()[:2]
    except (OSError, ValueError):  # released meanwhile, or still being written
        process, host = "?", "?"
    return (
        f" (process {printable(process)} on the host {printable(host)}, as {lock.lock_file} says; "
        "if that process is gone, remove this file)"
    )


@cache  # a folder is tried once in this process, however often its lock is looked at
def _has_flock(folder: Path) -> bool:
    """Return whether files in a folder can be locked by flock.

    Tried on a file of its own. Where a lock daemon is missing, for instance, it raises ENOLCK;
    other network disks raise ENOSYS, EOPNOTSUPP or EACCES.
    """
    if fcntl is None:
        return True
    with annotate_os_error(folder), tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True
