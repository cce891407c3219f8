"""Checkpoints: atomic writes with a checksum, safe reads, and the state to resume from."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from vae.runs.checkpoint_schema import validate_checkpoint
from vae.runs.compose import flatten, require_few, run_config
from vae.runs.config import RunConfig
from vae.runs.resume import resume_command
from vae.utils.errors import UserError
from vae.utils.files import MAX_WEIGHTS, open_regular, read_json, stored_records, write_atomically
from vae.utils.text import plural

log = logging.getLogger(__name__)

FORMAT = 1  # of the checkpoint's contents; a file of another format is refused
RESTORE = "Restore the file, or take another checkpoint."  # of one that cannot be loaded
MAX_VALUES = 100_000  # of a checkpoint; there are some hundreds
DIGEST_BYTES = 32  # bytes at the end of a file: the digest of all before them
GLOBALS = re.compile(  # in a pickle: what builds tensors, and calls nothing else
    r"torch\._utils _rebuild_tensor_v2|collections OrderedDict"
    r"|torch (Float|Double|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage"
)

COMPARED_KEYS = ("seed", "model.", "data.", "optimizer.", "loss.")  # these decide the weights
LOCATION_KEYS = ("data.root", "data.download", "data.num_workers")  # the same images
CHANGEABLE_KEYS = ("data.path", "optimizer.", "loss.beta")  # by resume=, and it is said so


def save_checkpoint(path: Path, state: Mapping[str, Any], before: str | None = None) -> None:
    """Write tensors and plain values to `path`, atomically; keep the old file as `before`.

    The file is torch's own format with a digest behind it, which torch does not mind. Its
    own check sums say nothing: it loads other weights from a file with a flipped bit.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    content = buffer.getvalue()
    write_atomically(path, lambda file: file.write_bytes(content + _digest(content)), before)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint on the CPU. Opening an untrusted file runs no code.

    Its memory is at most a few times the file's size, for damaged and forged files too.

    Raises:
        UserError: there is no such file, or it is damaged or no checkpoint of ours.
    """
    try:
        with open_regular(path, MAX_WEIGHTS) as file:
            if not _has_digest(file):
                raise UserError(f"{path}: not a valid checkpoint (checksum mismatch). {RESTORE}")
            state = _load_archive(file)
            require_few(state, MAX_VALUES)
    except OSError as error:
        what = "cannot be read" if path.is_file() else "there is no such checkpoint"
        raise UserError(f"{path}: {what} ({error.strerror or error}). {RESTORE}") from error
    except UserError:
        raise
    except Exception as error:  # an untrusted file with a valid checksum may fail in any way
        raise UserError(
            f"{path}: this is no checkpoint of tensors and plain values ({type(error).__name__}). "
            + RESTORE
        ) from error
    found = state if isinstance(state, dict) else {}
    if found.get("format") != FORMAT:
        raise UserError(
            f"{path}: this checkpoint is of format {found.get('format')!r:.20}; "
            f"this version reads format {FORMAT}. {RESTORE}"
        )
    return found


def _has_digest(file: BinaryIO) -> bool:
    """Return whether a file ends in the digest of all before it."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    left = os.fstat(file.fileno()).st_size - DIGEST_BYTES
    while left > 0 and (piece := file.read(min(left, 1 << 20))):
        digest.update(piece)
        left -= len(piece)
    return digest.digest() == file.read(DIGEST_BYTES)


def _load_archive(file: BinaryIO) -> Any:
    """Load torch's archive of tensors and plain values; refuse records larger than the file.

    torch reads one record under many names, and lets a pickle call `bytearray(10**12)`. So it
    gets a copy of the records, with a pickle that only builds tensors.

    Raises:
        Exception: any, of a damaged or forged file.
    """
    copied = io.BytesIO()
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(copied, "w") as copy:
        for record in stored_records(archive, os.fstat(file.fileno()).st_size):
            content = archive.read(record)
            if record.filename.lower().endswith(".pkl"):
                for opcode, name, _ in pickletools.genops(content):
                    if opcode.name == "GLOBAL" and not GLOBALS.fullmatch(str(name)):
                        raise ValueError(f"it asks for {name}")
            copy.writestr(record.filename, content)
    copied.seek(0)
    return torch.load(copied, map_location="cpu", weights_only=True)


def read_checkpoint(folder: Path, name: str = "last") -> tuple[dict[str, Any], Path]:
    """Load a checkpoint of the run in `folder`; return it with its path.

    Where last.pt is damaged or missing, it is previous.pt, with a warning.

    Raises:
        UserError: there is none, or none that is whole; says what to do.
    """
    path = folder / "checkpoints" / f"{name}.pt"
    previous = path.with_name("previous.pt")
    try:
        return load_checkpoint(path), path
    except UserError as error:
        if name == "last" and previous.is_file():
            state = load_checkpoint(previous)
            log.warning("%s In its place: %s, step %s.", error, previous, state.get("step"))
            return state, previous
        if path.is_file():
            raise
        raise UserError(_what_is_missing(folder, path)) from None


def _what_is_missing(folder: Path, path: Path) -> str:
    """Explain why a checkpoint is missing, and what to do."""
    if not folder.is_dir():
        return f"{folder}: there is no such folder. Give a run's: outputs/DATE/TIME."
    if (folder / "checkpoints").is_dir():
        status = read_json(folder / "summary.json").get("status", "never came to its end")
        return (
            f"{path}: there is no such checkpoint (the run: {status}). One is written at the end "
            f"of each epoch. Resume the run: {resume_command(folder)}"
        )
    runs = sorted(found.parents[1] for found in folder.glob("*/checkpoints/last.pt"))
    hint = (
        f"It holds {plural(len(runs), 'run')}; give one: {runs[0]}."
        if runs
        else "Give outputs/DATE/TIME."
    )
    return f"{folder}: is no run's folder: there are no checkpoints in it. {hint}"


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def load_resume_state(config: RunConfig, folder: Path) -> dict[str, Any] | None:
    """Load the checkpoint to resume from in `folder`; None if there is none.

    Its "config" is a RunConfig, and its "file" the path: where last.pt is damaged, previous.pt's.

    Raises:
        UserError: it is another run's: what decides a run's course has changed; or it is
            damaged, and so is the one before it; or somebody else has written it.
    """
    if not any((folder / "checkpoints" / f"{name}.pt").exists() for name in ("last", "previous")):
        return None
    state, file = read_checkpoint(folder)
    try:
        before = run_config(state.get("config"))
    except UserError as error:
        raise UserError(f"resume: {file}: {error}") from error
    for key, was, is_now in config_changes(before.as_dict(), config.as_dict()):
        if config.resume is not None and key.startswith(CHANGEABLE_KEYS):
            log.warning("resume: %s was %s and is %s now", key, was, is_now)
        elif config.resume is not None:  # it would be another run, not this one longer
            raise UserError(f"resume: {key} was {was} in {folder}, and is {is_now} now.")
        else:
            raise UserError(
                f"sweep.name: {folder} holds a run with {key}={was}, and it is {is_now} now. "
                "Take another sweep.name, or restore the earlier settings."
            )
    if isinstance(state.get("pending"), Tensor):  # of an older version, without names
        state["pending"] = {}
    try:
        validate_checkpoint(state, config)
    except UserError as error:
        raise UserError(f"resume: {file}: {error}") from error
    return {**state, "config": before, "file": file}


def check_last_step(
    state: Mapping[str, Any], config: RunConfig, folder: Path, total_steps: int
) -> None:
    """Check that a run may be resumed to `total_steps` with these settings.

    Raises:
        UserError: the run is past them; or it is there already, and the settings have changed.
    """
    if state["step"] > total_steps:
        raise UserError(
            f"resume: the run in {folder} is at step {state['step']} already, and with "
            f"these trainer.epochs and trainer.max_steps it would end at step "
            f"{total_steps}. Give it more, or leave them out."
        )
    if state["step"] == total_steps:
        for key, was, value in config_changes(state["config"].as_dict(), config.as_dict()):
            if key != "data.path":
                raise UserError(
                    f"resume: {key} was {was} in {folder}, which is at its last step. "
                    f"To train with {value}, give it more trainer.epochs, or start a new run."
                )


def config_changes(
    before: Mapping[str, Any], now: Mapping[str, Any]
) -> list[tuple[str, object, object]]:
    """Return the differences between two configurations that affect training: (key, was, is).

    What `before` lacks, as an older version did not know it, is no difference.
    """
    was, is_now = flatten(before), flatten(now)
    return [
        (key, value, is_now.get(key))
        for key, value in was.items()
        if value != is_now.get(key)
        and key.startswith(COMPARED_KEYS)
        and not key.startswith(LOCATION_KEYS)
    ]
