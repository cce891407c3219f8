"""A sweep's workspace on W&B, as the package wandb-workspaces describes one.

The panels name keys as W&B keeps them: `loss.beta` in a run's config, a metric as it
ended in its summary (`summary_key` in vae/tracking.py), and what a line plot or a media
browser shows as it was logged.
"""

from __future__ import annotations

import re
from typing import Any

from vae.errors import UserError
from vae.sweeps.comparison import FIRST, Comparison
from vae.sweeps.wandb_summary import FIGURES
from vae.tracking import summary_key

METRICS = ("val/rate", "val/distortion", "val/active_units", "val/bpd")
CURVES = ("val/bpd", "val/rate")
FACES = ("figures/reconstructions", "figures/samples")  # of each run
LOGARITHMIC = ("loss.beta", "optimizer.lr")
SHOWN = 100  # runs in a panel; left alone, W&B stops at 10


def build_workspace(comparison: Comparison, entity: str, project: str, group: str) -> Any:
    """The workspace, a `wandb_workspaces.workspaces.Workspace`; calls nobody.

    Args:
        comparison: of one run or more.
        entity: whose project it is.
        project: the project of the sweep's runs.
        group: the W&B group of the sweep's runs; no others are shown.

    Raises:
        UserError: the package is not installed.
    """
    ws = _import_workspaces()
    parameters = [*_swept(comparison), "beta_elbo"]
    metrics = [summary_key(key) for key in dict.fromkeys([*METRICS, *comparison.objectives])]
    columns = [_config_column(key) for key in parameters] + [f"summary:{key}" for key in metrics]
    panels = {
        "Summary": [_media(key) for key in FIGURES],
        "Runs": _across_runs(parameters, metrics, comparison.objectives),
        "Curves": _curves(),
        "Faces": [_media(key, gallery_axis="run") for key in FACES],
    }
    return ws.Workspace(
        entity=entity,
        project=project,
        # The package takes all kinds of signs for emojis, `=` and `+` among them.
        name=re.sub(r"[^\w .,()-]", "_", f"Sweep {group}"),
        sections=[ws.Section(name=name, panels=of, is_open=True) for name, of in panels.items()],
        settings=ws.WorkspaceSettings(x_axis="step", max_runs=SHOWN),
        runset_settings=ws.RunsetSettings(filters=_of_group(group), pinned_columns=columns),
    )


def _across_runs(parameters: list[str], metrics: list[str], objectives: list[str]) -> list[Any]:
    """Panels in which each run is one line or one point."""
    import wandb_workspaces.reports.v2.interface as wr

    axes = [
        wr.ParallelCoordinatesPlotColumn(metric=wr.Config(key), log=key in LOGARITHMIC)
        for key in parameters
    ]
    axes += [wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(key)) for key in metrics]
    distortion, rate = map(summary_key, ("val/distortion", "val/rate"))
    return [
        wr.ParallelCoordinatesPlot(columns=axes),
        wr.ScatterPlot(
            title="rate against distortion",
            x=wr.SummaryMetric(distortion),
            y=wr.SummaryMetric(rate),
        ),
        *(wr.ParameterImportancePlot(with_respect_to=summary_key(key)) for key in objectives),
    ]


def _curves() -> list[Any]:
    import wandb_workspaces.reports.v2.interface as wr

    return [wr.LinePlot(title=key, x="step", y=[key]) for key in CURVES]


def _media(key: str, **how: Any) -> Any:
    import wandb_workspaces.reports.v2.interface as wr

    return wr.MediaBrowser(title=key, media_keys=[key], **how)


def _import_workspaces() -> Any:
    try:
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise UserError(
            f"vae dashboard needs the package wandb-workspaces ({error}). "
            "Run `pip install wandb-workspaces`."
        ) from error
    return ws


def _swept(comparison: Comparison) -> list[str]:
    """Beta, the latent size and what else was swept, as keys of a run's config."""
    config = next((run.config for run in comparison.runs if run.config), {})
    keys = dict.fromkeys([*FIRST, *comparison.swept])
    known = [key for key in keys if key.split(".")[0] in config]  # not, say, experiment
    return [f"{key}.name" if isinstance(config.get(key), dict) else key for key in known]


def _config_column(key: str) -> str:
    """`loss.beta` as a column of W&B's table of runs: each top-level key has a `value`."""
    top, dot, rest = key.partition(".")
    return f"config:{top}.value{dot}{rest}"


def _of_group(group: str) -> str:
    """The filter for the runs of a group, in the package's own language.

    Each character is written as its number: the package stumbles over quotes in a name,
    and makes two of each `=`.
    """
    escaped = "".join(f"\\U{ord(character):08x}" for character in group)
    return f"Metric('Group') == '{escaped}'"
