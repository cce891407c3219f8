"""Checkpoints: written whole or not at all, and safe to open."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vae.errors import UserError
from vae.files import write_atomically

FORMAT = 1  # of the checkpoint's contents; a file of another format is refused


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values to `path`, atomically."""
    write_atomically(path, lambda file: torch.save({"format": FORMAT, **state}, file))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote, on the CPU. Opening a stranger's file runs no code.

    Raises:
        UserError: there is no such file, or it is damaged or no checkpoint of ours.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such checkpoint.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path}: this is no checkpoint, or a damaged one ({type(error).__name__})."
        ) from error
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise UserError(
            f"{path}: this checkpoint is of format {found}; this version reads format {FORMAT}."
        )
    assert isinstance(state, dict)
    return state
