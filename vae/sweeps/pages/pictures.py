"""Pictures of a page: curves of metrics, and faces from the models."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from vae.sweeps.charts import DOTS_PER_INCH, draw_charts
from vae.sweeps.comparison import Comparison, is_log_scale, sort_key
from vae.sweeps.face_sheets import draw_face_sheets
from vae.sweeps.pages.tables import Row, best_row, format_figure
from vae.sweeps.results import parse_number
from vae.utils.errors import UserError
from vae.utils.files import write_atomically
from vae.utils.metric_registry import axis_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CAPTIONS = {
    "comparison": "Rate against distortion, and the effect of each swept value; all runs",
    "reconstructions": "The same validation faces through each model, the originals on top; "
    "the first seed",
    "samples": "Faces decoded from random latents; the first seed",
}
RUN_FIGURES = ("reconstructions", "samples", "interpolation", "traversal")  # in its figures/


def picture_links(found: Sequence[Row], names: Sequence[str], page: Path) -> str:
    """Return Markdown links to the pictures of a page, with captions.

    Args:
        found: the results.
        names: `comparison`, `reconstructions`, `samples` of the whole sweep;
            `traversal:best:val/mig`, `traversal:worst:val/mig` and so on, of one run;
            `curves:KEY:FIGURE,FIGURE`, drawn of the results alone.
        page: the pictures are in `figures/<page>/` beside it.
    """
    links = []
    for name in names:
        file = _file(page, name)
        link = file.relative_to(page.parent).as_posix()
        caption = _caption(found, name)
        links.append(f"![{caption}]({link})\n\n*{caption}.*")
    return "\n\n".join(links)


def draw_pictures(
    found: Sequence[Row], names: Sequence[str], page: Path, sweep: Comparison
) -> None:
    """Draw the pictures that a page names, from the run folders.

    Raises:
        UserError: a name is none of a picture, or a run has no such figure.
    """
    of_the_sweep = {name for name in names if ":" not in name}
    for name in names:
        if name.startswith("curves:"):
            draw_curves(found, name, _file(page, name))
        elif ":" in name:
            run = next(r for r in sweep.runs if r.name == _chosen(found, name)["run"])
            figure = run.folder / "figures" / f"{name.partition(':')[0]}.png"
            if not figure.exists():
                raise UserError(f"{name}: there is no {figure}.")
            write_atomically(_file(page, name), partial(shutil.copy, figure))
    if "comparison" in of_the_sweep:
        draw_charts(sweep, _file(page, "comparison"))
    if {"reconstructions", "samples"} & of_the_sweep:
        seeds = sorted({run.value("seed") for run in sweep.ranked}, key=sort_key)
        first = [run for run in sweep.runs if run.value("seed") == seeds[0]]
        keys = [key for key in sweep.swept if key != "seed"]
        folder = _file(page, "reconstructions").parent
        folder.mkdir(parents=True, exist_ok=True)
        draw_face_sheets(replace(sweep, runs=first, swept=keys), folder)
        for unwanted in {"reconstructions", "samples"} - of_the_sweep:
            _file(page, unwanted).unlink()


def draw_curves(found: Sequence[Row], name: str, path: Path) -> None:
    """Draw metrics against a setting: means and deviations over the runs of each value."""
    from matplotlib.figure import Figure

    _, key, listed = name.split(":")
    keys = listed.split(",")
    columns = min(len(keys), 3)
    lines = -(-len(keys) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * lines), layout="constrained")
    for place, metric in enumerate(keys):
        axes = figure.add_subplot(lines, columns, place + 1)
        _draw_curve(axes, found, key, metric)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=DOTS_PER_INCH))


def _draw_curve(axes: Axes, found: Sequence[Row], key: str, metric: str) -> None:
    values = sorted({row[key] for row in found}, key=sort_key)
    groups = [[float(r[metric]) for r in found if r[key] == value] for value in values]
    means = [fmean(group) for group in groups]
    spreads = [stdev(group) if len(group) > 1 else 0.0 for group in groups]
    places = [parse_number(value) for value in values]
    numbers = [place for place in places if place is not None]
    numeric = len(numbers) == len(values)
    xs = numbers if numeric else [float(i) for i in range(len(values))]
    axes.errorbar(xs, means, yerr=spreads, marker="o", capsize=3, linestyle="-" if numeric else "")
    if numeric and is_log_scale([x for x in xs if x > 0]):
        axes.set_xscale("log")
    labels = values if not numeric else [f"{x:g}" for x in xs]
    axes.set_xticks(xs, labels)
    axes.set_xticks([], minor=True)
    axes.set(xlabel=key, title=axis_label(metric))


def _caption(found: Sequence[Row], name: str) -> str:
    if name in CAPTIONS:
        return CAPTIONS[name]
    if name.startswith("curves:"):
        key = name.split(":")[1]
        return f"Against {key}: means over the seeds, and their standard deviation"
    picture, which, metric = name.split(":")
    run = _chosen(found, name)
    value = format_figure(metric, run[metric])
    return f"The {picture} of {run['run']}, the {which} by {metric} ({value})"


def _chosen(found: Sequence[Row], name: str) -> Row:
    """Return the run that a picture shows."""
    picture, which, metric = name.split(":")
    if picture not in RUN_FIGURES or which not in ("best", "worst"):
        raise UserError(f"{name}: is no picture; {', '.join(RUN_FIGURES)}:best:METRIC is.")
    return best_row(found, metric, which == "worst")


def _file(page: Path, name: str) -> Path:
    """Return a picture's file: `curves:loss.beta:val/bpd` is curves_loss.beta.png."""
    parts = name.split(":")[:2]
    return page.parent / "figures" / page.stem / f"{'_'.join(parts)}.png"
