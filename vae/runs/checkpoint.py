"""Checkpoints: atomic writes with a checksum, one schema, and the state to resume from."""

from __future__ import annotations

import hashlib
import io
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch import Tensor

from vae.models.base import build_shapes
from vae.runs.compose import flatten, run_config
from vae.runs.config import RunConfig
from vae.runs.resume import resume_command
from vae.training.optim import state_of_a_step
from vae.utils.errors import UserError
from vae.utils.files import read_json, write_atomically

log = logging.getLogger(__name__)

FORMAT = 1  # of the checkpoint's contents; a file of another format is refused
DIGEST_BYTES = 32  # bytes at the end of a file: the digest of all before them
MAX_COUNT = 2**62  # of any count

BEST_METRIC = "val/bpd"  # which epoch is kept as best.pt: the smallest

COMPARED_KEYS = ("seed", "model.", "data.", "optimizer.", "loss.")  # these decide the weights
LOCATION_KEYS = ("data.root", "data.num_workers")  # the same images, wherever they are packed
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

    Raises:
        UserError: there is no such file, or it is damaged or no checkpoint of ours.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: there is no such checkpoint ({error.strerror}).") from error
    content, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    if _digest(content) != digest:
        raise UserError(f"{path}: not a valid checkpoint (checksum mismatch).")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # an untrusted file with a valid checksum may fail in any way
        raise UserError(
            f"{path}: this is no checkpoint of tensors and plain values ({type(error).__name__})."
        ) from error
    found = state if isinstance(state, dict) else {}
    if found.get("format") != FORMAT:
        raise UserError(
            f"{path}: this checkpoint is of format {found.get('format')}; "
            f"this version reads format {FORMAT}."
        )
    return found


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
    hint = f"It holds {len(runs)} runs; give one: {runs[0]}." if runs else "Give outputs/DATE/TIME."
    return f"{folder}: is no run's folder: there are no checkpoints in it. {hint}"


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def checkpoint_schema(config: RunConfig) -> dict[str, Any]:
    """Return what the entries of a checkpoint of these settings are, as `matches` reads it.

    Weights are on torch's meta device: no number in a file can fill the memory.
    """
    model = build_shapes(config.model, config.data.image_size)
    weights, shapes = model.state_dict(), [weight.shape for weight in model.parameters()]
    metrics = {str: float}

    def is_optimizer_state(value: Any) -> bool:  # of the parameters that had a gradient by then
        state = value.get("state") if isinstance(value, Mapping) else None
        expected = state_of_a_step(config.optimizer, shapes)
        return isinstance(state, Mapping) and all(
            number in expected and matches(moments, expected[number])
            for number, moments in state.items()
        )

    return {
        "model": weights,
        "ema": lambda ema: ema is None or matches(ema, {"model": weights, "updates": int}),
        "optimizer": is_optimizer_state,
        "seed": int,
        "step": int,
        "epoch": float,
        "skipped": {"total": int, "in_a_row": int},
        "pending": _are_step_values,
        "best": lambda best: matches(best, metrics) and (not best or BEST_METRIC in best),
        "final": metrics,
        "seconds": float,
        "precision": str,
        "run_id": str,
        "measured": lambda value: isinstance(value, (bool, NoneType)),  # None: an older version's
    }


def matches(value: Any, schema: Any) -> bool:
    """Return whether a value is what a schema says.

    Args:
        schema: a dict: a mapping of these very keys, or with `str` as its key: of any names; a
            tensor: a dense one of its shape and type; int: a count; float: a finite number;
            str: a text or None; a function of the value; else an example, whose type it has.
    """
    if isinstance(schema, Mapping):
        if not isinstance(value, Mapping):
            return False
        if str in schema:
            return all(isinstance(k, str) and matches(v, schema[str]) for k, v in value.items())
        return value.keys() == schema.keys() and all(matches(value[k], schema[k]) for k in schema)
    if isinstance(schema, Tensor):
        kind = (schema.shape, schema.dtype)
        return _is_dense(value) and (value.shape, value.dtype) == kind
    if schema is int:
        return isinstance(value, int) and 0 <= value < MAX_COUNT
    if schema is float:
        return isinstance(value, (int, float)) and abs(value) <= sys.float_info.max  # no NaN
    if schema is str:
        return isinstance(value, (str, NoneType))
    return bool(schema(value)) if callable(schema) else type(value) is type(schema)


def _is_dense(value: Any) -> bool:
    """Return whether this is a plain tensor on the CPU, with data for each of its values.

    Without them, a small file could ask for a model of any size.
    """
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_nested:
        return False
    plain = value.device.type == "cpu" and not value.requires_grad
    return plain and value.untyped_storage().nbytes() >= value.nbytes


def _are_step_values(value: Any) -> bool:
    """Return whether these are named values of the same steps, (steps,) float64 each."""
    if not matches(value, {str: _is_dense}):
        return False
    kinds = {(column.ndim, column.dtype) for column in value.values()}
    return kinds <= {(1, torch.float64)} and len({len(column) for column in value.values()}) <= 1


def validate_checkpoint(state: Mapping[str, Any], config: RunConfig, *entries: str) -> None:
    """Raise a UserError unless a checkpoint has the entries of its schema, with valid values.

    Args:
        state: the checkpoint.
        config: settings of the model and the optimizer that it is to be put into.
        entries: those to look at; none: all.
    """
    for entry, schema in checkpoint_schema(config).items():
        if (not entries or entry in entries) and not matches(state.get(entry), schema):
            raise UserError(
                "not a checkpoint of this version and these settings: "
                f"its {entry!r} is missing or invalid."
            )


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
