"""Ending bad trials early: a run reports its objective to the study after each epoch.

The sweeper only learns of a trial when it has ended, so the run itself opens the study,
reports, and asks the pruner. A pruned run ends like a finished one, with its last metrics
and the status `pruned`; the sweeper then tells the study so.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from vae.config import RunConfig
from vae.run import KeepGoing
from vae.sweeps.study import build_pruner, open_storage, storage_url

log = logging.getLogger(__name__)


def reporter(config: RunConfig, folder: Path) -> KeepGoing:
    """What to ask after each epoch of the run in `folder`: (epochs, metrics) -> go on?"""
    sweep = config.sweep
    if sweep.trial is None or sweep.pruner is None:
        return lambda epochs, metrics: True
    from optuna import load_study

    storage = open_storage(storage_url(sweep, folder.parent))
    pruner = build_pruner(sweep, config.trainer.epochs)
    study = load_study(study_name=sweep.name, storage=storage, pruner=pruner)
    trial_id = storage.get_trial_id_from_study_id_trial_number(study._study_id, sweep.trial)
    (objective,) = config.objectives
    for epochs, value in earlier_values(folder, objective):  # a trial that was cut has a new number
        storage.set_trial_intermediate_value(trial_id, epochs, value)

    def keep_going(epochs: int, metrics: Mapping[str, float]) -> bool:
        try:
            storage.set_trial_intermediate_value(trial_id, epochs, metrics[objective])
            return not study.pruner.prune(study, storage.get_trial(trial_id))
        except Exception as error:  # the storage is not training's life line
            log.warning("the study cannot be reached; the run goes on unpruned: %s", error)
            return True

    return keep_going


def earlier_values(folder: Path, objective: str) -> list[tuple[int, float]]:
    """(epochs, value) of the validations of a run that is gone on with."""
    values = []
    file = folder / "metrics.jsonl"
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        with suppress(ValueError):  # a line that was cut
            row = json.loads(line)
            if objective in row:
                values.append((math.ceil(row["epoch"]), row[objective]))
    return values
