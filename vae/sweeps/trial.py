"""One run of a sweep: what is done already is not done again, and what fails fails alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vae.apart import call_apart
from vae.config import RunConfig
from vae.errors import UserError
from vae.folders import run_lock
from vae.resuming import saved_state
from vae.run import prepare
from vae.summary import read_summary, record_failure
from vae.sweeps.pruning import reporter
from vae.sweeps.record import read_record

log = logging.getLogger(__name__)


def run_trial(
    config: RunConfig, settings: Mapping[str, Any], folder: Path, logs: Mapping[str, Any]
) -> dict[str, float]:
    """Train one run of a sweep, in a process of its own; or what is left of it, or nothing.

    Args:
        config, settings: as for vae.run.prepare.
        folder: multirun/<sweep>/<what differs>; a run in it is gone on with.
        logs: how that process logs, for logging.config.dictConfig.

    Returns:
        The validation metrics at the end of the run, by key.

    Raises:
        UserError: why the run failed; noted in its summary.json, too.
        SystemExit: too many runs failed one after another.
    """
    metrics = metrics_of_finished(config, settings, folder)
    if metrics is not None:
        log.info("%s: finished already", folder)
        return metrics
    stop_after_failures(config.sweep.max_failures, folder.parent)
    try:
        return dict(call_apart(train, config, settings, folder, logs=logs))
    except UserError as error:
        log.error("%s failed: %s", folder, error)  # a launcher says so at the end only
        record_failure(folder, str(error))
        raise


def train(config: RunConfig, settings: Mapping[str, Any], folder: Path) -> dict[str, float]:
    """The run itself, once no other process is at it."""
    with run_lock(folder, wait=True):
        metrics = metrics_of_finished(config, settings, folder)
        if metrics is None:
            keep_going = reporter(config, folder)
            metrics = prepare(config, settings, folder, go_on=True, keep_going=keep_going).train()
        return metrics


def metrics_of_finished(
    config: RunConfig, settings: Mapping[str, Any], folder: Path
) -> dict[str, float] | None:
    """The final metrics of the run in `folder`, None if it is not there or not at its end.

    Raises:
        UserError: there is a run of other settings.
    """
    state = saved_state(config, settings, folder)
    summary = read_summary(folder)
    if state is None or summary.get("status") not in ("finished", "pruned"):
        return None
    limits = ("epochs", "max_steps")  # a longer run goes on from here
    before = state["config"]["trainer"]
    if any(before.get(key) != settings["trainer"][key] for key in limits):
        return None
    return dict(summary["final"])


def stop_after_failures(limit: int | None, sweep: Path) -> None:
    """End the sweep where the last `limit` runs of this start have all failed."""
    started = read_record(sweep).get("started", "")
    summaries = [read_summary(file.parent) for file in sweep.glob("*/summary.json")]
    ended = sorted(
        (s for s in summaries if s.get("ended", "") >= started), key=lambda s: s["ended"]
    )
    last = ended[-limit:] if limit else []
    if limit and len(last) == limit and all(s.get("status") == "failed" for s in last):
        raise SystemExit(
            f"error: the sweep stops: its last {limit} runs failed (sweep.max_failures={limit}), "
            f"the last one because of: {last[-1].get('error')}"
        )
