"""Checkpoints: atomic writes with a checksum, validation, and the state to resume from."""

from __future__ import annotations

import hashlib
import io
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch import Tensor

from vae.runs.config import RunConfig, default_of
from vae.training.step_metrics import SKIPPED
from vae.utils.errors import UserError
from vae.utils.files import write_atomically

log = logging.getLogger(__name__)

FORMAT = 1  # of the checkpoint's contents; a file of another format is refused
DIGEST_BYTES = 32  # bytes at the end of a file: the digest of all before them

GROUPS = ("model", "data", "optimizer", "loss")  # settings that decide the weights, beside the seed
BEST_METRIC = "val/bpd"  # which epoch is kept as best.pt: the smallest
MAX_COUNT = 2**62  # of any count

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
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise UserError(
            f"{path}: this checkpoint is of format {found}; this version reads format {FORMAT}."
        )
    assert isinstance(state, dict)
    return state


def load_last(checkpoints: Path) -> tuple[dict[str, Any], Path]:
    """Load last.pt and return it with its path; fall back to previous.pt with a warning.

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
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def validate_checkpoint(state: Mapping[str, Any], file: Path) -> None:
    """Raise a UserError unless the checkpoint has every entry of the schema, with valid values.

    Whether weights and moments are those of the model is seen where they are put into it.
    """
    for entry, is_valid in CHECKPOINT_SCHEMA.items():
        if not is_valid(state.get(entry)):
            raise UserError(
                f"resume: {file} is not a checkpoint of this version: its {entry!r} "
                "is missing or invalid."
            )


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_number(value: Any) -> bool:
    largest = sys.float_info.max
    return isinstance(value, (int, float)) and -largest <= value <= largest  # nor is it NaN


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < MAX_COUNT


def _are_counts(value: Any) -> bool:
    if not isinstance(value, Mapping) or value.keys() != {"total", "in_a_row"}:
        return False
    return all(map(_is_count, value.values()))


def _are_metrics(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_number, value.values()))


def _are_best_metrics(value: Any) -> bool:
    return _are_metrics(value) and (not value or BEST_METRIC in value)


def _are_step_values(value: Any) -> bool:
    """Return whether these are named values of steps; older versions wrote one tensor."""
    if isinstance(value, Tensor):
        return _is_dense(value)
    if not isinstance(value, Mapping) or not all(map(_is_dense, value.values())):
        return False
    return len({tuple(column.shape) for column in value.values()}) <= 1 and all(
        isinstance(name, str) and column.ndim == 1 for name, column in value.items()
    )


def _is_dense(value: Any) -> bool:
    """Return whether this is a dense, real tensor on the CPU, with data."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_nested:
        return False
    return value.device.type == "cpu" and value.is_floating_point() and not value.requires_grad


def _is_average(value: Any) -> bool:
    return value is None or (isinstance(value, Mapping) and _is_count(value.get("updates")))


def _is_config(value: Any) -> bool:
    """Return whether this has the parts of a configuration that are read before validation."""
    if not isinstance(value, Mapping) or not _is_plain(value) or "seed" not in value:
        return False
    groups = all(isinstance(value.get(group), Mapping) for group in (*GROUPS, "trainer", "wandb"))
    names = ("name", "group")
    return groups and all(isinstance(value["wandb"].get(n, 0), (str, NoneType)) for n in names)


def _is_plain(value: Any) -> bool:
    """Return whether this is made of YAML's types only."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) for key in value) and all(map(_is_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, (bool, int, float, str, NoneType))


CHECKPOINT_SCHEMA: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("model", "optimizer"), _is_mapping),
    "ema": _is_average,
    "config": _is_config,
    "seed": lambda value: isinstance(value, int),
    "step": _is_count,
    "skipped": _are_counts,
    "pending": _are_step_values,
    "best": _are_best_metrics,
    "final": _are_metrics,
    "seconds": _is_number,
    "precision": lambda value: isinstance(value, (str, NoneType)),
    "run_id": lambda value: isinstance(value, (str, NoneType)),
}


@contextmanager
def matching_checkpoint() -> Iterator[None]:
    """Raise errors of a checkpoint that does not match its own settings as a UserError."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            "resume: the weights in the checkpoint are not those of its own settings "
            f"({type(error).__name__})."
        ) from error


def load_resume_state(config: RunConfig, folder: Path) -> dict[str, Any] | None:
    """Load the checkpoint to resume from in `folder`; None if there is none.

    Where last.pt is damaged, it is previous.pt, named as the state's "file".

    Raises:
        UserError: it is another run's: what decides a run's course has changed; or it is
            damaged, and so is the one before it; or somebody else has written it.
    """
    checkpoints = folder / "checkpoints"
    if not any((checkpoints / name).exists() for name in ("last.pt", "previous.pt")):
        return None
    state, file = load_last(checkpoints)
    validate_checkpoint(state, file)
    for key, before, now in config_changes(state["config"], config.as_dict()):
        if config.resume is not None and key.startswith(CHANGEABLE_KEYS):
            log.warning("resume: %s was %s and is %s now", key, before, now)
        elif config.resume is not None:  # it would be another run, not this one longer
            raise UserError(f"resume: {key} was {before} in {folder}, and is {now} now.")
        else:
            raise UserError(
                f"sweep.name: {folder} holds a run with {key}={before}, and it is {now} now. "
                "Take another sweep.name, or restore the earlier settings."
            )
    if isinstance(state["pending"], Tensor):
        state["pending"] = _named_step_values(state["pending"])
    return state if file.name == "last.pt" else {**state, "file": file}


def _named_step_values(rows: Tensor) -> dict[str, Tensor]:
    """Convert the step values of an older version, (steps, 5), to values by name."""
    names = ("loss", "distortion", "rate", "penalty", "grad_norm")
    if rows.ndim != 2 or rows.shape[1] != len(names):
        return {}
    columns = dict(zip(names, rows.unbind(1), strict=True))
    return {**columns, SKIPPED: (~rows.isfinite().all(1)).to(rows.dtype)}


def config_changes(
    before: Mapping[str, Any], now: Mapping[str, Any]
) -> list[tuple[str, object, object]]:
    """Return the differences between two configurations that affect training: (key, was, is).

    What an older version did not know is as it is by default now.
    """
    pairs: list[tuple[str, object, object]] = [("seed", before["seed"], now["seed"])]
    for group in GROUPS:
        was, is_now = (_flat(settings[group], f"{group}.") for settings in (before, now))
        for key in sorted({*was, *is_now}):
            past = was[key] if key in was else default_of(key, now)
            pairs.append((key, past, is_now.get(key)))
    return [pair for pair in pairs if pair[1] != pair[2] and not pair[0].startswith(LOCATION_KEYS)]


def _flat(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Flatten nested settings: {"loss.schedule.name": ...}."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        inside = isinstance(value, Mapping)
        found |= _flat(value, f"{prefix}{key}.") if inside else {f"{prefix}{key}": value}
    return found
