"""Whether a checkpoint holds what a run writes: its seal does not say who has sealed it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch import Tensor

from vae.errors import UserError

GROUPS = ("model", "data", "optimizer", "loss")  # what decides a run's course, beside its seed
BEST_BY = "val/bpd"  # which epoch is kept as best.pt: the smallest
LARGEST = 2**62  # of any count


def require_sound(state: Mapping[str, Any], file: Path) -> None:
    """Raise a UserError unless there is all that a run goes on from, and nothing else in its place.

    Whether weights and moments are those of the model is seen where they are put into it.
    """
    for entry, is_sound in SOUND.items():
        if not is_sound(state.get(entry)):
            raise UserError(
                f"resume: {file} lacks what this version needs to go on from it: its {entry!r} "
                "is missing, or is not what a run writes."
            )


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_number(value: Any) -> bool:
    largest = sys.float_info.max
    return isinstance(value, (int, float)) and -largest <= value <= largest  # nor is it NaN


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < LARGEST


def _are_counts(value: Any) -> bool:
    if not isinstance(value, Mapping) or value.keys() != {"total", "in_a_row"}:
        return False
    return all(map(_is_count, value.values()))


def _are_metrics(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_number, value.values()))


def _are_best_metrics(value: Any) -> bool:
    return _are_metrics(value) and (not value or BEST_BY in value)


def _are_values(value: Any) -> bool:
    """A tensor that can be computed with here: dense, real, with more than a shape."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_nested:
        return False
    return value.device.type == "cpu" and value.is_floating_point() and not value.requires_grad


def _is_average(value: Any) -> bool:
    return value is None or (isinstance(value, Mapping) and _is_count(value.get("updates")))


def _is_config(value: Any) -> bool:
    """A run's configuration, as far as it is looked at without being checked."""
    if not isinstance(value, Mapping) or not _is_plain(value) or "seed" not in value:
        return False
    groups = all(isinstance(value.get(group), Mapping) for group in (*GROUPS, "trainer", "wandb"))
    names = ("name", "group")
    return groups and all(isinstance(value["wandb"].get(n, 0), (str, NoneType)) for n in names)


def _is_plain(value: Any) -> bool:
    """Made of what YAML has: it can be compared, which tensors cannot."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) for key in value) and all(map(_is_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, (bool, int, float, str, NoneType))


SOUND: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("model", "optimizer"), _is_mapping),
    "ema": _is_average,
    "config": _is_config,
    "seed": lambda value: isinstance(value, int),
    "step": _is_count,
    "skipped": _are_counts,
    "pending": _are_values,
    "best": _are_best_metrics,
    "final": _are_metrics,
    "seconds": _is_number,
    "precision": lambda value: isinstance(value, (str, NoneType)),
    "run_id": lambda value: isinstance(value, (str, NoneType)),
}
