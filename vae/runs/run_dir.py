"""The run folder: its lock, its removal when no run began, and summary.json."""

from __future__ import annotations

import logging
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import Timeout

from vae.runs.resume import resume_command
from vae.utils.errors import UserError
from vae.utils.files import annotate_os_error, read_json, write_json
from vae.utils.locks import file_lock, hold

LOCK_FILE = ".lock"  # held by the process that trains in the folder
SMALL_FILES = 1 << 16  # bytes that Hydra's and other small ones of a run fit into

SUMMARY_FILE = "summary.json"
RUN_ENTRIES = (  # regular expression: the files and folders of a run, and all within
    r"(\.hydra|\.lock[^/]*|[^/]+\.log|metrics\.jsonl?|summary\.json|provenance\.json"
    r"|artifact\.json|code(-\d+)?\.patch|checkpoints"
    r"|directions|figures|edited|export|priors|samples_[^/]+|wandb)(/.*)?"
)
SWEEP_ENTRIES = rf"[^/]+|{RUN_ENTRIES}|\.submitit/.*|[^/]+/{RUN_ENTRIES}"  # of a sweep

log = logging.getLogger(__name__)


class RunFolderInUseError(UserError):
    """The folder holds another run, or another process trains in it."""


def require_writable(folder: Path) -> None:
    """Create a folder and check that files can be written in it.

    Raises:
        OSError: why not.
    """
    with annotate_os_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0" * SMALL_FILES)
            file.flush()


def require_own_place(place: Path) -> None:
    """Refuse a data.root that only an untrusted run folder names.

    Allowed are places below the current folder, and where images are packed already.

    Raises:
        UserError: says how to allow it.
    """
    below = (place / "cache").resolve().is_relative_to(Path.cwd().resolve())  # may be a link
    if not below and not any(place.glob("cache/*/index.json")):
        raise UserError(
            f"data.root: {place} is outside the current folder and has no packed images. To pack "
            f"there, add data.root={shlex.quote(str(place))}; or choose another folder."
        )


def claim_run_folder(folder: Path) -> None:
    """Claim `folder` for this run, atomically.

    Raises:
        RunFolderInUseError: it holds a run already, or one that has just begun.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        (folder / "checkpoints").mkdir()
    except FileExistsError:
        raise RunFolderInUseError(
            f"{folder} holds a run already. Resume it:  {resume_command(folder)}  "
            "Or choose another folder by hydra.run.dir=FOLDER."
        ) from None


@contextmanager
def run_lock(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold the run folder's lock: two processes never train in the same folder.

    Raises:
        RunFolderInUseError: another process holds it, and this one is not to wait for it.
    """
    busy = f"{folder}: another process is training this run"
    with hold(folder / LOCK_FILE, busy, None if wait else RunFolderInUseError):
        yield


def is_locked(folder: Path) -> bool:
    """Return whether a process is training the run in `folder` now."""
    if not any(folder.glob(f"{LOCK_FILE}*")):  # and looking must not make it
        return False
    try:
        with file_lock(folder / LOCK_FILE).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # somebody else's folder: it cannot be told
        return False


def remove_run_folder(folder: Path) -> None:
    """Remove Hydra's files from a run folder in which nothing was trained.

    A mistyped value must not leave an empty run behind. A folder with metrics or checkpoints in
    it is left alone, and one in which a process still packs its images; and so is whatever else
    lies there: only Hydra's own files go, the log among them, then the folder and its parents
    below the current one, as long as they are empty.
    """
    trained = (folder / "metrics.jsonl").exists() or any(folder.glob("checkpoints/*.pt"))
    if trained or is_locked(folder):
        return
    shutil.rmtree(folder / ".hydra", ignore_errors=True)
    (folder / LOCK_FILE).unlink(missing_ok=True)
    for handler in list(logging.getLogger().handlers):
        if isinstance(handler, logging.FileHandler):
            log_file = Path(handler.baseFilename)
            if log_file.parent == folder.absolute():
                logging.getLogger().removeHandler(handler)  # Hydra is about to log the failure
                log_file.unlink(missing_ok=True)
    with suppress(OSError):
        (folder / "checkpoints").rmdir()
    remove_empty(folder)


def remove_empty(folder: Path) -> None:
    """Remove an empty folder, and empty parents below the current folder."""
    here = Path.cwd()
    for empty in (folder.absolute(), *folder.absolute().parents):
        if here not in empty.parents and empty != folder.absolute():
            return
        try:
            empty.rmdir()
        except FileNotFoundError:
            continue
        except OSError:  # not empty
            return


def read_summary(folder: Path) -> dict[str, Any]:
    """Read the summary of the run in `folder`; {} if it has none."""
    return read_json(folder / SUMMARY_FILE)


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Replace the summary atomically, with the time added."""
    now = datetime.now().isoformat(timespec="milliseconds")
    write_json(folder / SUMMARY_FILE, {**summary, "ended": now})


def record_failure(folder: Path, error: str) -> None:
    """Record why a run failed in its summary, if the disk has room."""
    try:
        write_summary(folder, {**read_summary(folder), "status": "failed", "error": error})
    except OSError as reason:
        log.warning("%s: why it failed cannot be noted (%s)", folder, reason)
