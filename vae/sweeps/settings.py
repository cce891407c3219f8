"""Checks of Hydra's own settings of a sweep, before its sweeper and its launcher see them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, TypeAlias

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from vae.runs.config import SweepConfig, constraints_of
from vae.utils.errors import UserError, require, require_range

COUNT = (1, 10**6)
Ranges: TypeAlias = dict[str, tuple[float, float, tuple[Any, ...]]]

# The range of each key (least value, largest value, other values), by sweeper and by launcher.
# A key that is not in the configuration keeps the launcher's default.
SWEEPERS: dict[str, Ranges] = {
    "basic": {"max_batch_size": (*COUNT, (None,))},
    "study": {"n_trials": (*COUNT, ()), "n_jobs": (-1024, 10**6, (0,))},
}
LAUNCHERS: dict[str, Ranges] = {
    "joblib": {
        "n_jobs": (-1024, 1024, (None,)),
        "inner_max_num_threads": (1, 1024, (None,)),
        "batch_size": (*COUNT, ("auto",)),
        "timeout": (1e-3, 1e9, (None,)),
        "verbose": (0, 100, ()),
    },
    "submitit": {
        "timeout_min": (*COUNT, ()),
        "nodes": (1, 1, ()),
        "tasks_per_node": (1, 1, ()),
        "cpus_per_task": (1, 1024, (None,)),
        "gpus_per_node": (0, 64, (None,)),
        "mem_gb": (*COUNT, (None,)),
        "array_parallelism": (*COUNT, ()),
        "signal_delay_s": (1, 10**6, ()),
        "max_num_timeout": (0, 10**6, ()),
    },
    "ray": {
        "n_jobs": (*COUNT, ()),
        "num_cpus": (0.01, 1024.0, ()),
        "num_gpus": (0.0, 64.0, (None,)),
        "memory_gb": (0.01, 1e6, (None,)),
    },
}
# Settings of the Optuna plugin that StudySweeper replaces, with the value in study.yaml.
REPLACED = {
    "direction": (None, "it follows from objective, as each metric is better"),
    "study_name": (None, "set sweep.name"),
    "storage": (None, "set sweep.storage"),
    "max_failure_rate": (1.0, "set sweep.max_failures"),
    "custom_search_space": (None, "set the keys in hydra.sweeper.params, or on the command line"),
}


def check_sweep_settings(
    hydra: DictConfig, overrides: Sequence[Override], sweep: SweepConfig
) -> None:
    """Raise a UserError if a setting of a sweep, of its sweeper or its launcher cannot work.

    Args:
        hydra: of the composed configuration.
        overrides: of the sweep.
        sweep: checked.
    """
    sweeper, launcher = (hydra.runtime.choices[f"hydra/{part}"] for part in ("sweeper", "launcher"))
    if sweeper == "optuna":
        raise UserError("hydra/sweeper: got 'optuna'. Take study: Optuna with a resumable study.")
    if sweeper == "study":
        for key, (value, instead) in REPLACED.items():
            if (got := hydra.sweeper[key]) != value:
                raise UserError(f"hydra.sweeper.{key}: got {got!r}. Leave it out; {instead}.")
        if hydra.runtime.choices["hydra/sweeper/sampler"] == "grid":
            raise UserError(
                "hydra/sweeper/sampler: got 'grid'. Leave hydra/sweeper=study out: Hydra's own "
                "sweeper runs the whole grid."
            )
    elif sweep.rungs:
        raise UserError(
            f"sweep.rungs: got {list(sweep.rungs)}, but a grid trains each run to its end. Add "
            "hydra/sweeper=study, or leave it out."
        )
    if sweep.pruner and (sweep.rungs or sweep.seeds > 1):
        other = f"sweep.rungs={list(sweep.rungs)}" if sweep.rungs else f"sweep.seeds={sweep.seeds}"
        raise UserError(
            f"sweep.pruner: got {sweep.pruner!r} beside {other}. Take sweep.pruner=null: "
            "sweep.rungs stops trials early by the means of their seeds, and continues the best."
        )
    swept = [o.key_or_group for o in overrides if o.is_sweep_override()]
    if sweep.seeds > 1 and "seed" in swept:
        raise UserError(
            f"seed: it is swept, and sweep.seeds={sweep.seeds} sets it. Leave one of them out."
        )
    for override in overrides if sweeper == "basic" else ():
        if override.is_interval_sweep():
            raise UserError(
                f"{override.key_or_group}: an interval has no list of values. Add "
                "hydra/sweeper=study to search in it, or give values: 1,2,3 or range(1,4)."
            )
    ranges = LAUNCHERS.get(launcher.partition("_")[0], {})
    _check_numbers("hydra.launcher", hydra.launcher, ranges)
    _check_numbers("hydra.sweeper", hydra.sweeper, SWEEPERS.get(sweeper, {}))
    if launcher == "joblib":
        backend = hydra.launcher.get("backend")
        takes = "loky: others may not start the process of a run"
        require(backend in (None, "loky"), "hydra.launcher.backend", backend, takes)
    if launcher == "submitit_slurm" and not shutil.which("srun"):
        raise UserError(
            "hydra/launcher: submitit_slurm needs Slurm, and there is no srun here. Start the "
            "sweep on a login node of a cluster, or take hydra/launcher=joblib on this machine."
        )
    if launcher == "ray" and not find_spec("hydra_plugins.hydra_ray_launcher"):
        raise UserError('hydra/launcher: ray is not installed. Install it: pip install -e ".[ray]"')


def search_settings(sweep: SweepConfig, epochs: int | None) -> dict[str, Any]:
    """Return the settings of `sweep` that all trials of a study share, as plain values.

    Args:
        sweep: checked.
        epochs: `trainer.epochs`, which the schedule's length follows.

    Raises:
        UserError: a rung is not below the end of the runs.
    """
    constraints = [str(constraint) for constraint in constraints_of(sweep.constraint)]
    settings: dict[str, Any] = {"seeds": sweep.seeds, "constraint": constraints}
    rungs = list(sweep.rungs or ())
    if not rungs:
        return settings
    takes = f"epochs below trainer.epochs={epochs}, where the last rung is"
    require(epochs is None or rungs[-1] < epochs, "sweep.rungs", rungs, takes)
    return {**settings, "rungs": rungs, "reduction": sweep.reduction, "epochs": epochs}


def reject_other_search(before: Any, now: dict[str, Any]) -> None:
    """Raise a UserError if a study's trials were made with other settings.

    Args:
        before: recorded settings; anything else: of an earlier version, which had none.
        now: as `search_settings` returns them.
    """
    before = before if isinstance(before, dict) else {"seeds": 1, "constraint": []}
    for key in dict.fromkeys([*now, *before]):
        if before.get(key) != now.get(key):
            name = "trainer.epochs" if key == "epochs" else f"sweep.{key}"
            raise UserError(
                f"{name}: the study's trials have {before.get(key)}, and it is {now.get(key)} "
                "now. Take another sweep.name, or restore the earlier value."
            )


def _check_numbers(group: str, settings: DictConfig, ranges: Ranges) -> None:
    """Raise a UserError if a number of the settings is not in its range."""
    for key in ranges.keys() & settings.keys():
        least, most, others = ranges[key]
        got, integer, takes = settings[key], isinstance(least, int), ""
        if least == most:
            takes = f"{most} only: a run is one process"
        if least < 0:  # joblib's count
            takes = f"an int from 1 to {most}, or -1 for all cores (-2 for all but one, ...)"
            least = least if got else 1
        require_range(
            f"{group}.{key}", got, least, most, integer=integer, others=others, takes=takes
        )
