"""A sweep on W&B: links to its runs, a summary run, and a workspace.

W&B's tools want all runs in one folder: links in `<sweep>/wandb/` point to each run's own.
The summary is one W&B run with the table and the figures, in the group of the sweep's runs.
The workspace names keys as W&B keeps them: `loss.beta` in a run's config, a metric as it
ended in its summary (`summary_key`), and a line plot's or media browser's key as logged.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from vae.runs.tracking import summary_key
from vae.runs.wandb_run import WandbRun
from vae.runs.wandb_settings import WandbConfig, fitting_name, run_group
from vae.sweeps.comparison import LEADING_KEYS, Comparison, rows
from vae.utils.errors import UserError
from vae.utils.files import read_text, write_text_atomically

logger = logging.getLogger(__name__)

RUNS = "*run-*"  # folders of W&B runs: run-DATE-ID, offline-run-DATE-ID
SUMMARY_ID_FILE = ".wandb_summary_id"  # the id of the W&B run, so that a sweep has one of them
FIGURES = tuple(f"sweep/{name}" for name in ("comparison", "reconstructions", "samples"))

METRICS = ("val/rate", "val/distortion", "val/active_units", "val/bpd")
CURVES = ("val/bpd", "val/rate")
RUN_FIGURES = ("figures/reconstructions", "figures/samples", "figures/latents")  # of each run
LOGARITHMIC = ("loss.beta", "optimizer.lr")
MAX_PANEL_RUNS = 100  # runs in a panel; left alone, W&B stops at 10


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


def build_workspace(comparison: Comparison, entity: str, project: str, group: str) -> Any:
    """Build the workspace, a `wandb_workspaces.workspaces.Workspace`, without network calls.

    Args:
        comparison: of one run or more.
        entity: whose project it is.
        project: the project of the sweep's runs.
        group: the W&B group of the sweep's runs; no others are shown.

    Raises:
        UserError: the package is not installed.
    """
    try:
        import wandb_workspaces.reports.v2.interface as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise UserError(
            f"vae dashboard needs the package wandb-workspaces ({error}). "
            "Run `pip install wandb-workspaces`."
        ) from error
    config = next((run.config for run in comparison.runs if run.config), {})
    parameters = [
        f"{key}.name" if isinstance(config.get(key), dict) else key
        for key in dict.fromkeys([*LEADING_KEYS, *comparison.swept])
        if key.split(".")[0] in config  # not, say, experiment
    ]
    parameters.append("beta_elbo")
    metrics = [summary_key(key) for key in dict.fromkeys([*METRICS, *comparison.objectives])]
    columns = [re.sub(r"^[^.]+", r"config:\g<0>.value", key) for key in parameters]
    columns += [f"summary:{key}" for key in metrics]
    axes = [
        wr.ParallelCoordinatesPlotColumn(metric=wr.Config(key), log=key in LOGARITHMIC)
        for key in parameters
    ]
    axes += [wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(key)) for key in metrics]
    trade = wr.ScatterPlot(
        title="rate against distortion",
        x=wr.SummaryMetric(summary_key("val/distortion")),
        y=wr.SummaryMetric(summary_key("val/rate")),
    )
    wanted = map(summary_key, comparison.objectives)
    importances = [wr.ParameterImportancePlot(with_respect_to=key) for key in wanted]
    panels: dict[str, list[Any]] = {
        "Summary": [wr.MediaBrowser(title=key, media_keys=[key]) for key in FIGURES],
        "Runs": [wr.ParallelCoordinatesPlot(columns=axes), trade, *importances],
        "Curves": [wr.LinePlot(title=key, x="step", y=[key]) for key in CURVES],
        "Figures": [
            wr.MediaBrowser(title=key, media_keys=[key], gallery_axis="run") for key in RUN_FIGURES
        ],
    }
    # Each character by its number: the package stumbles over quotes in a name, and makes two
    # of each `=`.
    escaped = "".join(f"\\U{ord(character):08x}" for character in group)
    return ws.Workspace(
        entity=entity,
        project=project,
        # The package takes all kinds of signs for emojis, `=` and `+` among them.
        name=re.sub(r"[^\w .,()-]", "_", f"Sweep {group}"),
        sections=[ws.Section(name=name, panels=of, is_open=True) for name, of in panels.items()],
        settings=ws.WorkspaceSettings(x_axis="step", max_runs=MAX_PANEL_RUNS),
        runset_settings=ws.RunsetSettings(
            filters=f"Metric('Group') == '{escaped}'", pinned_columns=columns
        ),
    )
