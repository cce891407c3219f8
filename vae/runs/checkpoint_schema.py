"""The schema of a checkpoint: its entries, with their types, shapes and ranges."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import NoneType
from typing import Any

import torch
from torch import Tensor

from vae.models.base import build_shapes
from vae.runs.config import RunConfig
from vae.training.optim import state_of_a_step
from vae.utils.errors import UserError

MAX_COUNT = 2**62  # of any count

BEST_METRIC = "val/bpd"  # which epoch is kept as best.pt: the smallest


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
    """Return whether this is a tensor of `load_checkpoint` with data for each of its values.

    Without them, a small file could ask for a model of any size.
    """
    if not isinstance(value, Tensor) or value.requires_grad:
        return False
    return value.untyped_storage().nbytes() >= value.nbytes


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
