"""The provenance of a run: its code (git), command, packages and data.

The repository is the one whose commit holds this package, wherever the command is started. No
setting of that repository starts a program, and git's answers are limited in size and time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import netrc
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Timer
from typing import Any
from urllib.parse import urlsplit

from vae.data.integrity import read_index
from vae.runs.wandb_run import WandbRun
from vae.utils.distributed import world_size
from vae.utils.errors import without_password
from vae.utils.files import read_text, write_atomically, write_json

PROVENANCE_FILE = "provenance.json"
PACKAGE = Path(__file__).resolve().parents[1]
PACKAGES = (
    *("torch", "torchvision", "numpy", "pillow", "wandb", "optuna", "hydra-core", "omegaconf"),
    *("hydra-optuna-sweeper", "hydra-joblib-launcher", "hydra-submitit-launcher"),
)
PARTS = ("code", "command", "packages", "data", "resumed_with")  # of the file
COMPARED = ("commit", "clean", "changes")  # of the code, between the starts of a run
MAX_PATCH = 1_000_000  # bytes; a larger one is not kept
MAX_FILE = 1 << 20  # bytes of the file that are read
GIT_TIMEOUT = 5.0  # seconds of one command
# Each setting that starts a program, or that changes the form of the patch.
GIT_OPTIONS = [
    *("--no-pager", "--no-optional-locks", "--literal-pathspecs"),
    *("-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}"),
    *("-c", "diff.external=", "-c", "diff.autoRefreshIndex=false"),
]
DIFF = [
    *("diff", "HEAD", "--binary", "--no-ext-diff", "--no-textconv", "--no-color", "--no-relative"),
    *("--ignore-submodules=all", "--src-prefix=a/", "--dst-prefix=b/"),
]
SECRET_NAMES = re.compile(r"KEY|TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL", re.IGNORECASE)
URL_PASSWORD = re.compile(rb"(?<=://)([^\s:/@'\"]*):[^\s@'\"]{1,256}@")
HIDDEN = b"***"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Code:
    """The code that a process runs."""

    commit: str | None  # None: unknown, and `note` says why
    clean: bool | None  # no tracked file is changed, and git knows all files of the package
    patch: bytes = b""  # `git diff HEAD`, secrets hidden; empty: no changes, or not kept
    note: str | None = None

    @property
    def about(self) -> dict[str, Any]:
        """The code as in the record; `changes` is a digest of the patch."""
        changes = hashlib.sha256(self.patch).hexdigest()[:16] if self.patch else None
        about = {"commit": self.commit, "clean": self.clean, "changes": changes, "patch": None}
        return about | ({"note": self.note} if self.note else {})


@dataclass(frozen=True)
class Source:
    """The code and the command that a run is started with."""

    code: Code
    command: str


def current_source(command: str | None = None) -> Source:
    """Return the code of this process, read at its first run, and a command: by default its own."""
    words = ["python", *sys.argv]
    if world_size() > 1:
        words[:1] = ["torchrun", f"--nproc-per-node={os.environ.get('LOCAL_WORLD_SIZE')}"]
    if command:
        try:
            words = shlex.split(command)
        except ValueError:  # not of shlex.join: somebody else's file
            words = [command]
    text = shlex.join(map(without_password, words))
    return Source(read_code(), hide_secrets(text.encode("utf-8", "replace")).decode())


@cache
def read_code(package: Path = PACKAGE) -> Code:
    """Return the state of the repository whose commit holds `package`; read once in a process."""
    if shutil.which("git") is None:
        return Code(None, None, note="git is not installed")
    try:
        # A file of the package: a package in a folder that another project ignores has none.
        commit, _ = _git(package, "rev-parse", "HEAD", "HEAD:./__init__.py").decode().split()
    except (OSError, ValueError, subprocess.SubprocessError):
        return Code(None, None, note="no commit of a git repository holds the package")
    try:
        patch = _git(package, *_without_filters(package), *DIFF, limit=MAX_PATCH)
        others = _git(package, "ls-files", "--others", "--exclude-standard", "-z", "--", ".")
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return Code(commit, None, note=f"git cannot compare the files ({type(error).__name__})")
    note = f"files of the package that git does not know: {others.count(0)}" if others else None
    if len(patch) > MAX_PATCH:
        return Code(commit, False, note=f"the patch is larger than {MAX_PATCH / 1e6:g} MB")
    return Code(commit, not patch and not others, hide_secrets(patch), note)


def _without_filters(package: Path) -> list[str]:
    """Return options that disable the programs through which git passes contents of files."""
    try:
        listed = _git(package, "config", "-z", "--name-only", "--get-regexp", r"^filter\.")
    except subprocess.CalledProcessError:  # there are none
        return []
    options = []
    for key in sorted(set(os.fsdecode(listed).split("\0")) - {""}):
        if "=" in key:
            raise ValueError(f"the key {key} cannot be set")
        value = "false" if key.endswith(".required") else ""
        options += ["-c", f"{key}={value}"]
    return options


def _git(package: Path, *arguments: str, limit: int = 1 << 20) -> bytes:
    """Return the output of a git command in the package's folder, at most `limit` + 1 bytes.

    Raises:
        OSError, subprocess.SubprocessError: it cannot be started, fails, or takes too long.
    """
    # GIT_DIR and the like would lead to another repository.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    environment |= {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "none",  # a partial clone would fetch what it lacks
        "GIT_NO_LAZY_FETCH": "1",
        "LC_ALL": "C",
    }
    command = ["git", *GIT_OPTIONS, *arguments]
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(
        command, cwd=package, env=environment, stdout=subprocess.PIPE, **streams
    ) as process:
        timer = Timer(GIT_TIMEOUT, process.kill)
        timer.start()
        try:
            assert process.stdout is not None
            output: bytes = process.stdout.read(limit + 1)
            if len(output) > limit:
                process.kill()
                return output
        finally:
            timer.cancel()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command[0])
    return output


def hide_secrets(content: bytes) -> bytes:
    """Return `content` without passwords in URLs, and without secrets that this process knows.

    Those are the values of environment variables such as WANDB_API_KEY and PGPASSWORD, the
    passwords in the URLs of any variable, and the passwords of .netrc.
    """
    content = URL_PASSWORD.sub(rb"\1:" + HIDDEN + b"@", content)
    known = {value for name, value in os.environ.items() if SECRET_NAMES.search(name)}
    for value in [value for value in os.environ.values() if "@" in value]:
        with suppress(ValueError):  # no URL
            known.add(urlsplit(value).password or "")
    for path in (os.environ.get("NETRC") or "~/.netrc", "~/_netrc"):
        with suppress(OSError, netrc.NetrcParseError):
            hosts = netrc.netrc(os.path.expanduser(path)).hosts
            known |= {password or "" for _, _, password in hosts.values()}
    for secret in sorted(known, key=len, reverse=True):
        if len(secret) >= 6:  # a shorter one is a common word
            content = content.replace(os.fsencode(secret), HIDDEN)
    return content


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def data_fingerprint(cache_folder: Path) -> dict[str, Any]:
    """Return the name of a packed cache, and a digest of its pixels and labels (of checksums)."""
    index = read_index(cache_folder)
    content = json.dumps([index["labels"], index["files"]], sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    return {"cache": cache_folder.name, "content": digest}


class Provenance:
    """The provenance of one run: of its first start, and of each resumption with other code.

    Args:
        folder: the run folder.
        source: of this start; None: this process's own.
        cache_folder: of the packed images.
        resumed: the run is resumed from a checkpoint in its folder.
    """

    def __init__(
        self, folder: Path, source: Source | None, cache_folder: Path, resumed: bool
    ) -> None:
        self.folder = folder
        source = source or current_source()
        self._patch, self._patch_file = source.code.patch, "code.patch"
        code = source.code.about
        now = {
            "code": code,
            "command": source.command,
            "packages": dict(_versions()),
            "data": data_fingerprint(cache_folder),
        }
        self.record: dict[str, Any] = _read(folder / PROVENANCE_FILE) if resumed else now
        later = self.record.get("resumed_with", [])
        if self.record is not now:
            before = [self.record, *later][-1]
            if _compared(before) == _compared(now):
                self._patch = b""
            else:
                later = [*later, now]
                self.record = {**self.record, "resumed_with": later}
                self._patch_file = f"code-{len(later)}.patch"
        if self._patch:
            code["patch"] = self._patch_file

    def write(self, wandb_run: WandbRun) -> None:
        """Write provenance.json and the patch, and upload the patch; an error is a warning."""
        patch = self.folder / self._patch_file
        try:
            if self._patch:
                write_atomically(patch, lambda file: file.write_bytes(self._patch))
            write_json(self.folder / PROVENANCE_FILE, self.record)
        except OSError as error:
            log.warning("the provenance of the run cannot be written: %s", error)
        if self._patch:
            wandb_run.save_code(patch.name, self._patch)


def _compared(record: Mapping[str, Any]) -> list[Any]:
    return [record["code"].get(key) for key in COMPARED] + [record.get("packages")]


def _read(file: Path) -> dict[str, Any]:
    """Return a record; an unknown one if the file is missing or damaged, as an older run's."""
    try:
        found = json.loads(read_text(file, limit=MAX_FILE))
        json.dumps(found, allow_nan=False)
        record = {key: found[key] for key in PARTS if key in found}
        for each in (record, *record.get("resumed_with", [])):
            _compared(each)
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return {"code": Code(None, None, note="not recorded").about}
    return record
