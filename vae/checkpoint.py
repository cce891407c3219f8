"""Checkpoints: written whole or not at all, sealed against damage, and safe to open."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vae.errors import UserError
from vae.files import write_atomically

log = logging.getLogger(__name__)

FORMAT = 1  # of the checkpoint's contents; a file of another format is refused
SEAL = 32  # bytes at the end of a file: the digest of all before them


def save_checkpoint(path: Path, state: Mapping[str, Any], before: str | None = None) -> None:
    """Write tensors and plain values to `path`, atomically; `before` names what was in it.

    The file is torch's own format with a digest behind it, which torch does not mind. Its
    own check sums say nothing: it loads other weights from a file with a flipped bit.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    content = buffer.getvalue()
    write_atomically(path, lambda file: file.write_bytes(content + _digest(content)), before)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote, on the CPU. Opening a stranger's file runs no code.

    Raises:
        UserError: there is no such file, or it is damaged or no checkpoint of ours.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: there is no such checkpoint ({error.strerror}).") from error
    content, seal = content[:-SEAL], content[-SEAL:]
    if _digest(content) != seal:
        raise UserError(f"{path}: this is no checkpoint, or a damaged one.")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # sealed by a stranger, it may fail in any way
        raise UserError(
            f"{path}: this is no checkpoint of tensors and plain values ({type(error).__name__})."
        ) from error
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise UserError(
            f"{path}: this checkpoint is of format {found}; this version reads format {FORMAT}."
        )
    assert isinstance(state, dict)
    return state


def load_last(checkpoints: Path) -> tuple[dict[str, Any], Path]:
    """What is in last.pt, and its path; where it is damaged, of previous.pt, and a line says so.

    Raises:
        UserError: neither of them is whole.
    """
    last, previous = checkpoints / "last.pt", checkpoints / "previous.pt"
    try:
        return load_checkpoint(last), last
    except UserError as error:
        if not previous.exists():
            raise
        state = load_checkpoint(previous)
        log.warning("%s In its place: %s, step %s.", error, previous, state.get("step"))
        return state, previous


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=SEAL).digest()
