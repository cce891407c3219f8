"""One run of a sweep: skip it when finished, resume it when interrupted, prune it when told.

The sweeper learns of a trial only when it has ended. For pruning, the run itself opens the
study, reports its objective after each epoch, and asks the pruner. A pruned run ends like a
finished one, with its last metrics and the status `pruned`; the sweeper then tells the study.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vae.runs.checkpoint import load_resume_state
from vae.runs.config import RunConfig
from vae.runs.failures import translate_resource_errors
from vae.runs.launch import prepare_run
from vae.runs.overrides import save_accepted_overrides
from vae.runs.provenance import Source, current_source
from vae.runs.run import ShouldContinue
from vae.runs.run_dir import read_summary, record_failure, run_lock
from vae.sweeps.results import ENDED, RECORD_FILE, metrics_at
from vae.sweeps.subprocess_runner import run_in_subprocess
from vae.utils.errors import UserError, exit_with_error
from vae.utils.files import read_json
from vae.utils.registry import run_metrics
from vae.utils.text import plural

log = logging.getLogger(__name__)


def pruning_callback(config: RunConfig, folder: Path) -> ShouldContinue:
    """Return a callback that stops the run at its rung, or reports each epoch to the pruner."""
    sweep = config.sweep
    if (stop_at := sweep.stop_at) is not None:
        return lambda epochs, metrics: epochs < stop_at
    if sweep.trial is None or sweep.pruner is None:
        return lambda epochs, metrics: True
    from optuna import load_study

    from vae.sweeps.study import build_pruner, open_storage

    storage = open_storage(sweep, folder.parent)
    pruner = build_pruner(sweep, config.trainer.epochs)
    study = load_study(study_name=sweep.name, storage=storage, pruner=pruner)
    trial_id = storage.get_trial_id_from_study_id_trial_number(study._study_id, sweep.trial)
    (objective,) = config.objectives

    def should_continue(epochs: int, metrics: Mapping[str, float]) -> bool:
        try:
            storage.set_trial_intermediate_value(trial_id, epochs, metrics[objective])
            return not study.pruner.prune(study, storage.get_trial(trial_id))
        except Exception as error:  # training does not depend on the study
            log.warning("the study cannot be reached; the run is not pruned: %s", error)
            return True

    return should_continue


def run_trial(config: RunConfig, folder: Path, logs: Mapping[str, Any]) -> dict[str, float]:
    """Train one run of a sweep in a subprocess; resume it, or skip it if finished.

    Args:
        config: checked.
        folder: multirun/<sweep>/<overrides>; a run in it is resumed.
        logs: how that process logs, for logging.config.dictConfig.

    Returns:
        The validation metrics at the end of the run, by key.

    Raises:
        UserError: why the run failed; noted in its summary.json, too.
        SystemExit: too many runs failed one after another.
    """
    metrics = finished_metrics(config, folder)
    if metrics is not None:
        log.info("%s: finished already", folder)
        return metrics
    stop_after_failures_in_a_row(config.sweep.max_failures, folder.parent)
    try:
        gpu = gpu_of_worker(config.trainer.device)
        if gpu is not None:
            log.info("%s: on GPU %s, its own", folder.name, gpu)
        # Read here, once: the runs' processes have the code of the sweep's start.
        source = current_source(read_json(folder.parent / RECORD_FILE).get("command"))
        return dict(run_in_subprocess(train_locked, config, folder, gpu, source, logs=logs))
    except UserError as error:
        log.error("%s failed: %s", folder, error)  # a launcher says so at the end only
        record_failure(folder, str(error))
        raise


def gpu_of_worker(device: str) -> str | None:
    """Return the GPU for the runs of this worker process, as CUDA_VISIBLE_DEVICES names it.

    joblib numbers its workers: each takes another GPU, in turns where there are fewer GPUs.

    Args:
        device: `trainer.device`.

    Returns:
        None outside of such a worker, on a machine with one GPU, and for another device.
    """
    number = re.search(r"Loky.*-(\d+)$", multiprocessing.current_process().name)
    if number is None or device not in ("auto", "cuda") or torch.cuda.device_count() < 2:
        return None
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    return visible.split(",")[(int(number[1]) - 1) % count].strip()


def train_locked(
    config: RunConfig, folder: Path, gpu: str | None = None, source: Source | None = None
) -> dict[str, float]:
    """Train the run while holding its lock.

    Args:
        gpu: the only one that this process sees; None: all of them.
        source: code and command that start the run; None: those of this process.
    """
    if gpu is not None:  # in time: this process has not used CUDA yet
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    with translate_resource_errors(config, folder), run_lock(folder, wait=True):
        metrics = finished_metrics(config, folder)
        if metrics is None:
            should_continue = pruning_callback(config, folder)
            run = prepare_run(
                config,
                folder,
                resume=True,
                single=False,
                should_continue=should_continue,
                source=source,
            )
            save_accepted_overrides(folder)
            metrics = run.train()
        return metrics


def finished_metrics(config: RunConfig, folder: Path) -> dict[str, float] | None:
    """Return the final metrics of a finished run in `folder`, else None.

    Raises:
        UserError: there is a run of other settings.
    """
    state = load_resume_state(config, folder)
    summary = read_summary(folder)
    if state is None or summary.get("status") not in ENDED:
        return None
    limits = ("epochs", "max_steps")  # a longer run resumes
    stop_at = config.sweep.stop_at
    ahead = stop_at is None or (summary.get("epoch") or 0) < stop_at
    if summary["status"] == "pruned" and config.sweep.rungs and ahead:  # to its next rung
        return None
    before = state["config"].trainer
    if any(getattr(before, key) != getattr(config.trainer, key) for key in limits):
        return None
    metrics = (metrics_at(folder, stop_at) if stop_at else {}) or dict(summary.get("final") or {})
    # of an evaluation at the run's end; an older run may lack a newer metric of the validation
    measured_last = {*config.objectives} - run_metrics().keys()
    return metrics if summary["status"] == "pruned" or measured_last <= metrics.keys() else None


def stop_after_failures_in_a_row(limit: int | None, sweep: Path) -> None:
    """End the sweep if the last `limit` runs since its start all failed."""
    if limit is None:
        return
    started = read_json(sweep / RECORD_FILE).get("started", "")
    summaries = [read_summary(file.parent) for file in sweep.glob("*/summary.json")]
    ended = [summary for summary in summaries if summary.get("ended", "") >= started]
    last = sorted(ended, key=lambda summary: summary["ended"])[-limit:]
    if len(last) == limit and all(summary.get("status") == "failed" for summary in last):
        exit_with_error(
            f"the sweep stops: its last {plural(limit, 'run')} failed "
            f"(sweep.max_failures={limit}), the last one because of: {last[-1].get('error')}"
        )
