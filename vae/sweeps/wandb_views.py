"""Views of a sweep on W&B: a workspace to explore, and a report to read and pass on.

Both have the same panels and show the runs of the sweep's group alone. They name keys as W&B
keeps them: `loss.beta` in a run's config, a metric as it ended in its summary (`summary_key`),
and a line plot's or media browser's key as logged.
"""

from __future__ import annotations

import re
from collections import Counter
from types import ModuleType
from typing import Any

from vae.runs.tracking import summary_key
from vae.sweeps.comparison import LEADING_KEYS, Comparison
from vae.sweeps.report import best_section, infeasible_section, runs_table
from vae.sweeps.sentences import constraint_sentence
from vae.sweeps.wandb_sweep import FIGURES
from vae.utils.errors import UserError
from vae.utils.text import markdown_block, markdown_text, plural, truncate

METRICS = ("val/rate", "val/distortion", "val/active_units", "val/bpd")
CURVES = ("val/bpd", "val/rate")
# Lists of images: those with the same index are of the same face, or noise, in every run.
FACES = ("faces/reconstructions", "faces/samples", "faces/fitted_samples", "faces/interpolations")
RUN_FIGURES = ("figures/reconstructions", "figures/samples", "figures/latents")  # of each run
LOGARITHMIC = ("loss.beta", "optimizer.lr")
MAX_PANEL_RUNS = 100  # runs in a panel; left alone, W&B stops at 10
MAX_TITLE = 128  # characters that W&B takes of a report's title
REPORT_WIDTH = 24  # columns of a report's grid


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
    wr, ws = _import_package()
    columns = [re.sub(r"^[^.]+", r"config:\g<0>.value", key) for key in _parameters(comparison)]
    columns += [f"summary:{key}" for key in _metrics(comparison)]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=_title(group),
        sections=[
            ws.Section(name=name, panels=panels, is_open=True)
            for name, panels in _panels(wr, comparison).items()
        ],
        settings=ws.WorkspaceSettings(x_axis="step", max_runs=MAX_PANEL_RUNS),
        runset_settings=ws.RunsetSettings(filters=_only(group), pinned_columns=columns),
    )


def build_report(comparison: Comparison, entity: str, project: str, group: str) -> Any:
    """Build the report, a `wandb_workspaces.reports.v2.Report`, without network calls.

    Its text is of now, from the run folders; its panels follow the runs on W&B.

    Args:
        comparison: of one run or more.
        entity: whose project it is.
        project: the project of the sweep's runs.
        group: the W&B group of the sweep's runs; no others are shown.

    Raises:
        UserError: the package is not installed.
    """
    wr, _ = _import_package()
    wide, narrow = {"w": REPORT_WIDTH, "h": 12}, {"w": REPORT_WIDTH // 2, "h": 8}
    blocks = [wr.MarkdownBlock(text=_best_runs(comparison))]
    for name, panels in _panels(wr, comparison).items():
        for panel in panels:
            is_wide = isinstance(panel, wr.MediaBrowser | wr.ParallelCoordinatesPlot)
            panel.layout = wr.Layout(**(wide if is_wide else narrow))
        # Without a project, which the package would look up on the server, it is the report's.
        shown = wr.Runset(name=_title(group), filters=_only(group))
        blocks += [wr.H2(text=name), wr.PanelGrid(runsets=[shown], panels=panels)]
    blocks += [
        wr.H2(text="All runs"),
        wr.MarkdownBlock(text=runs_table(comparison, comparison.runs, None)),
    ]
    states = Counter(run.status for run in comparison.runs)
    counts = ", ".join(f"{number} {status}" for status, number in states.items())
    return wr.Report(
        entity=entity,
        project=project,
        title=_title(group),
        description=f"{plural(len(comparison.runs), 'run')} of a sweep: {counts}",
        width="fluid",
        blocks=blocks,
    )


def view_json(view: Any) -> Any:
    """Return a workspace or a report as W&B's own JSON."""
    # The package has no public way to it.
    return view._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)


def _import_package() -> tuple[ModuleType, ModuleType]:
    """Return the package's modules of reports and workspaces."""
    try:
        import wandb_workspaces.reports.v2.interface as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise UserError(
            f"vae dashboard needs the package wandb-workspaces ({error}). "
            "Run `pip install wandb-workspaces`."
        ) from error
    return wr, ws


def _title(group: str) -> str:
    # The package takes all kinds of signs for emojis, `=` and `+` among them, and puts the title
    # of a report into its address as it is.
    return truncate(re.sub(r"[^\w .,()-]", "_", f"Sweep {group}"), MAX_TITLE)


def _only(group: str) -> str:
    """Return the filter for the runs of a group."""
    # Each character by its number: the package stumbles over quotes in a name, and makes two
    # of each `=`.
    escaped = "".join(f"\\U{ord(character):08x}" for character in group)
    return f"Metric('Group') == '{escaped}'"


def _parameters(comparison: Comparison) -> list[str]:
    """Return the keys of the runs' config on W&B that are swept, and those to see always."""
    config = next((run.config for run in comparison.runs if run.config), {})
    parameters = [
        f"{key}.name" if isinstance(config.get(key), dict) else key
        for key in dict.fromkeys([*LEADING_KEYS, *comparison.swept])
        if key.split(".")[0] in config  # not, say, experiment
    ]
    return [*parameters, "beta_elbo"]


def _metrics(comparison: Comparison) -> list[str]:
    return [summary_key(key) for key in dict.fromkeys([*METRICS, *comparison.objectives])]


def _panels(wr: ModuleType, comparison: Comparison) -> dict[str, list[Any]]:
    """Return the panels by section."""
    axes = [
        wr.ParallelCoordinatesPlotColumn(metric=wr.Config(key), log=key in LOGARITHMIC)
        for key in _parameters(comparison)
    ]
    axes += [
        wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(key))
        for key in _metrics(comparison)
    ]
    trade = wr.ScatterPlot(
        title="rate against distortion",
        x=wr.SummaryMetric(summary_key("val/distortion")),
        y=wr.SummaryMetric(summary_key("val/rate")),
    )
    wanted = map(summary_key, comparison.objectives)
    importances = [wr.ParameterImportancePlot(with_respect_to=key) for key in wanted]
    return {
        "Summary": [wr.MediaBrowser(title=key, media_keys=[key]) for key in FIGURES],
        "Runs": [wr.ParallelCoordinatesPlot(columns=axes), trade, *importances],
        "Curves": [
            wr.LinePlot(title=key, x="step", y=[key], max_runs_to_show=MAX_PANEL_RUNS)
            for key in CURVES
        ],
        "Faces": [
            wr.MediaBrowser(title=key, media_keys=[key], grid_x_axis="index", grid_y_axis="run")
            for key in FACES
        ],
        "Figures": [
            wr.MediaBrowser(title=key, media_keys=[key], gallery_axis="run") for key in RUN_FIGURES
        ],
    }


def _best_runs(comparison: Comparison) -> str:
    """Return Markdown: the sweep's command, and its best and infeasible points, as in report.md."""
    parts = [f"# {markdown_text(comparison.name)}"]
    if comparison.command:
        parts.append(markdown_block(comparison.command.splitlines(), "bash"))
    if constraint := constraint_sentence(comparison):
        parts.append(markdown_text(constraint))
    if not comparison.points:
        parts.append("No run has finished yet.")
    return "\n\n".join(
        [*parts, *best_section(comparison, None), *infeasible_section(comparison, None)]
    )
