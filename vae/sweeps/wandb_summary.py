"""A sweep as one run on W&B: its table and its figures, in the group of its runs."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from vae.errors import UserError
from vae.files import write_text_atomically
from vae.sweeps.comparison import Comparison, rows
from vae.wandb_run import WandbConfig, WandbRun

logger = logging.getLogger(__name__)

REMEMBERED = ".wandb_summary_id"  # the id of the W&B run, so that a sweep has one of them
FIGURES = tuple(f"sweep/{name}" for name in ("comparison", "reconstructions", "samples"))
LEFT_OUT = ("folder",)  # a path on this machine


def log_summary(comparison: Comparison, settings: WandbConfig, folder: Path) -> None:
    """Show a sweep on W&B as it is now, in the same W&B run every time.

    Nothing that W&B does is an error here: it is warned about.

    Args:
        comparison: of one run or more.
        settings: those of the sweep's runs.
        folder: the sweep's; it may hold `comparison.png`, `reconstructions.png` and
            `samples.png`. W&B writes to its `wandb/`.
    """
    remembered = folder / REMEMBERED
    named = replace(
        settings,
        name=f"{comparison.name} summary",
        group=settings.group or comparison.name,  # that of the runs
    )
    about = {
        "sweep": comparison.name,
        "command": comparison.command,
        "swept": comparison.swept,
        "objectives": comparison.objectives,
    }
    table = [{k: v for k, v in row.items() if k not in LEFT_OUT} for row in rows(comparison)]
    figures = {key: folder / f"{Path(key).name}.png" for key in FIGURES}
    figures = {key: path for key, path in figures.items() if path.exists()}
    try:
        known = remembered.read_text(encoding="utf-8").strip() if remembered.exists() else ""
        with WandbRun(folder, named, about, run_id=known or None, job_type="sweep") as run:
            if run.run_id and run.run_id != known:
                write_text_atomically(remembered, run.run_id + "\n")
            run.report_table("comparison", table)
            if figures:
                run.report({}, figures)
    except (UserError, OSError) as error:
        logger.warning("the sweep has no summary on W&B: %s", error)
