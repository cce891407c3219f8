"""A sweep on W&B: links to its runs, and a summary run.

W&B's tools want all runs in one folder: links in `<sweep>/wandb/` point to each run's own.
The summary is one W&B run with the table and the figures, in the group of the sweep's runs.
"""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from vae.runs.wandb_run import WandbRun
from vae.runs.wandb_settings import WandbConfig, fitting_name, run_group
from vae.sweeps.comparison import Comparison, rows
from vae.utils.errors import UserError
from vae.utils.files import read_text, write_text_atomically

logger = logging.getLogger(__name__)

RUNS = "*run-*"  # folders of W&B runs: run-DATE-ID, offline-run-DATE-ID
SUMMARY_ID_FILE = ".wandb_summary_id"  # the id of the W&B run, so that a sweep has one of them
FIGURES = tuple(f"sweep/{name}" for name in ("comparison", "reconstructions", "samples"))


def link_runs(sweep: Path) -> None:
    """Update the links in `<sweep>/wandb/` to the runs of the sweep.

    `wandb/offline-run-X` → `../loss.beta=1e-05/wandb/offline-run-X`, so a sweep can be moved.
    Several processes may do this at once. Where there can be no links, there are none.
    """
    shelf = sweep / "wandb"
    try:
        for link in list(shelf.glob(RUNS)):
            if link.is_symlink() and not link.exists():
                link.unlink(missing_ok=True)
        for run in sweep.glob(f"*/wandb/{RUNS}"):
            shelf.mkdir(exist_ok=True)
            with suppress(FileExistsError):
                (shelf / run.name).symlink_to(Path("..", run.relative_to(sweep)), True)
    except (OSError, NotImplementedError) as error:
        logger.info("%s holds no links to the W&B runs of its sweep: %s", shelf, error)


def log_summary(
    comparison: Comparison, settings: WandbConfig, folder: Path, stopped: str | None = None
) -> None:
    """Log a sweep's table and figures to its summary run on W&B; send an alert if asked to.

    Nothing that W&B does is an error here: it is warned about.

    Args:
        comparison: of one run or more.
        settings: those of the sweep's runs.
        folder: the sweep's; it may hold `comparison.png`, `reconstructions.png` and
            `samples.png`. W&B writes to its `wandb/`.
        stopped: why the sweep has stopped early.
    """
    remembered = folder / SUMMARY_ID_FILE
    named = replace(
        settings,
        name=fitting_name(f"{comparison.name} summary"),
        group=run_group(settings.group, comparison.name),
    )
    about = {
        "sweep": comparison.name,
        "command": comparison.command,
        "swept": comparison.swept,
        "objectives": comparison.objectives,
        "constraints": [*map(str, comparison.constraints)],
    }
    table = rows(comparison)
    for row in table:
        del row["folder"]  # a path on this machine
    figures = {key: folder / f"{Path(key).name}.png" for key in FIGURES}
    figures = {key: path for key, path in figures.items() if path.exists()}
    try:
        known = read_text(remembered, "replace").strip() if remembered.exists() else ""
        with WandbRun(folder, named, about, run_id=known or None, job_type="sweep") as run:
            if run.run_id and run.run_id != known:
                write_text_atomically(remembered, run.run_id + "\n")
            run.report_table("comparison", table)
            if figures:
                run.report({}, figures)
            failed = any(each.status == "failed" for each in comparison.runs)
            run.alert(
                f"Sweep {'stopped' if stopped else 'ended'}: {comparison.name}",
                _ending(comparison, stopped),
                "ERROR" if stopped else "WARN" if failed else "INFO",
            )
    except (UserError, OSError) as error:
        logger.warning("the sweep has no summary on W&B: %s", error)


def _ending(comparison: Comparison, stopped: str | None) -> str:
    """Return the text of the alert: why the sweep stopped, its runs, its best."""
    counts = Counter(run.status for run in comparison.runs)
    lines = [f"stopped early: {stopped}"] if stopped else []
    lines.append(f"runs: {', '.join(f'{number} {status}' for status, number in counts.items())}")
    if best := comparison.best:
        (objective,) = comparison.objectives
        lines.append(f"best by {objective}: {best.name} ({best.metrics[objective]:.5g})")
    elif front := comparison.front:
        lines.append(f"Pareto front: {', '.join(run.name for run in front)}")
    return "\n".join([comparison.name, *lines])
