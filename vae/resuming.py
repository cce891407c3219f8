"""Going on with a run: its last checkpoint, if it is this run's."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vae.checkpoint import load_checkpoint
from vae.config import RunConfig
from vae.errors import UserError

log = logging.getLogger(__name__)

INDIFFERENT = ("data.root", "data.num_workers")  # the same images, wherever they are packed
MAY_CHANGE = ("data.path", "optimizer.", "loss.beta")  # by resume=, and it is said so


def saved_state(
    config: RunConfig, settings: Mapping[str, Any], folder: Path
) -> dict[str, Any] | None:
    """The checkpoint in `folder` to go on from; None where there is none, and the run starts anew.

    Raises:
        UserError: it is another run's: what decides a run's course has changed.
    """
    last = folder / "checkpoints" / "last.pt"
    if not last.exists():
        return None
    state = load_checkpoint(last)
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
    return state


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, object, object]]:
    """What differs between two configurations in what decides a run's course: (key, was, is)."""
    groups = ("model", "data", "optimizer", "loss")
    pairs: list[tuple[str, object, object]] = [("seed", before["seed"], now["seed"])]
    for group in groups:
        for key in sorted({*before[group], *now[group]}):
            pairs.append((f"{group}.{key}", before[group].get(key), now[group].get(key)))
    return [pair for pair in pairs if pair[1] != pair[2] and not pair[0].startswith(INDIFFERENT)]
