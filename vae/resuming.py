"""Going on with a run: its last checkpoint, if it is this run's."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vae.checkpoint import load_last
from vae.config import RunConfig, default_of
from vae.errors import UserError
from vae.sound import GROUPS, require_sound

log = logging.getLogger(__name__)

INDIFFERENT = ("data.root", "data.num_workers")  # the same images, wherever they are packed
MAY_CHANGE = ("data.path", "optimizer.", "loss.beta")  # by resume=, and it is said so


def saved_state(
    config: RunConfig, settings: Mapping[str, Any], folder: Path
) -> dict[str, Any] | None:
    """The checkpoint in `folder` to go on from; None where there is none, and the run starts anew.

    Where last.pt is damaged, it is previous.pt, named as the state's "file".

    Raises:
        UserError: it is another run's: what decides a run's course has changed; or it is
            damaged, and so is the one before it; or somebody else has written it.
    """
    checkpoints = folder / "checkpoints"
    if not any((checkpoints / name).exists() for name in ("last.pt", "previous.pt")):
        return None
    state, file = load_last(checkpoints)
    require_sound(state, file)
    for key, before, now in changes(state["config"], settings):
        if config.resume is not None and key.startswith(MAY_CHANGE):
            log.warning("resume: %s was %s and is %s now", key, before, now)
        elif config.resume is not None:  # it would be another run, not this one longer
            raise UserError(f"resume: {key} was {before} in {folder}, and is {now} now.")
        else:
            raise UserError(
                f"sweep.name: {folder} holds a run with {key}={before}, and it is {now} now. "
                "Take another sweep.name, or go on with the settings of before."
            )
    return state if file.name == "last.pt" else {**state, "file": file}


def is_unmeasured(state: Mapping[str, Any] | None) -> bool:
    """Whether a checkpoint was written in a validation, which is to be done before all else."""
    return state is not None and state.get("measured", True) is False


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, object, object]]:
    """What differs between two configurations in what decides a run's course: (key, was, is).

    What an older version did not know is as it is by default now.
    """
    pairs: list[tuple[str, object, object]] = [("seed", before["seed"], now["seed"])]
    for group in GROUPS:
        was, is_now = (_flat(settings[group], f"{group}.") for settings in (before, now))
        for key in sorted({*was, *is_now}):
            past = was[key] if key in was else default_of(key, now)
            pairs.append((key, past, is_now.get(key)))
    return [pair for pair in pairs if pair[1] != pair[2] and not pair[0].startswith(INDIFFERENT)]


def _flat(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """{"loss.schedule.name": ...} of nested settings."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        inside = isinstance(value, Mapping)
        found |= _flat(value, f"{prefix}{key}.") if inside else {f"{prefix}{key}": value}
    return found
