"""A trained model, back from its run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import torch

from vae.checkpoint import load_checkpoint
from vae.config import SCHEMAS, RunConfig
from vae.errors import UserError, require
from vae.models import VAE, build_model


@dataclass(frozen=True)
class SavedRun:
    """A run as one of its checkpoints has it."""

    folder: Path
    config: RunConfig
    model: VAE  # on the CPU, in evaluation mode
    step: int
    epoch: float
    metrics: dict[str, float]  # val/* as it was last measured


def load_run(folder: Path | str, checkpoint: str = "last") -> SavedRun:
    """The model of a run, as `checkpoints/CHECKPOINT.pt` has it.

    What the file names decides which of our own classes are used; no code in it, and none
    that it points to, is run. torch's random numbers stay as they were.

    Args:
        folder: the run's.
        checkpoint: `last`, or `best` (by val/bpd).

    Raises:
        UserError: there is no such checkpoint, it is damaged, or this version does not
            know what is in it.
    """
    folder = Path(folder)
    path = folder / "checkpoints" / f"{checkpoint}.pt"
    state = load_checkpoint(path)
    try:
        config = run_config(state["config"])
        with torch.random.fork_rng(devices=[]):
            model = build_model(config.model, config.data.image_size)
        model.load_state_dict(state["model"])
        metrics = {key: value for key, value in state["final"].items() if key.startswith("val/")}
        return SavedRun(folder, config, model.eval(), state["step"], state["epoch"], metrics)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"{path}: what is in it is not a run of this version ({_one_line(error)})."
        ) from error


def run_config(values: Mapping[str, Any]) -> RunConfig:
    """The configuration of a run from its nested dict, with every range checked.

    Raises:
        UserError: names the key that this version does not know, or that is missing.
    """
    settings = dict(values)
    for group, schema in get_type_hints(RunConfig).items():
        choices = {name: choice for of, name, choice in SCHEMAS if of == group}
        if choices:  # its name says which of them
            name = values[group]["name"]
            known = name in choices
            require(known, f"{group}.name", name, f"one of {', '.join(choices)} in this version")
            schema = choices[name]
        if is_dataclass(schema):
            settings[group] = _settings(schema, values[group], f"{group}.")
    config: RunConfig = _settings(RunConfig, settings)
    return config


def _settings(schema: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    """A dataclass from a dict with exactly its keys."""
    known = {field.name for field in fields(schema)}
    for key in sorted(values.keys() - known):
        raise UserError(f"{prefix}{key}: this version knows no such key.")
    for key in sorted(known - values.keys()):
        raise UserError(f"{prefix}{key}: is missing; an older version wrote this.")
    return schema(**values)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
