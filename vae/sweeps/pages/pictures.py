"""Pictures of a page: curves of metrics, and faces from the models."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev

from vae.sweeps.charts import DOTS_PER_INCH, draw_charts
from vae.sweeps.comparison import Comparison, is_log_scale, sort_key
from vae.sweeps.face_sheets import draw_face_sheets
from vae.sweeps.pages.tables import Row, cell, format_figure, ranked
from vae.sweeps.results import parse_number
from vae.utils.errors import UserError
from vae.utils.files import write_atomically
from vae.utils.registry import axis_label

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

    Raises:
        UserError: a name is none of a picture.
    """
    links = []
    for name in names:
        match name.split(":"):
            case [picture] if picture in CAPTIONS:
                caption = CAPTIONS[picture]
            case ["curves", key, _]:
                caption = f"Against {key}: means over the seeds, and their standard deviation"
            case [picture, choice, metric]:
                run = _chosen(found, name)
                value = format_figure(metric, cell(run, metric))
                caption = f"The {picture} of {run['run']}, the {choice} by {metric} ({value})"
            case _:
                raise UserError(f"{name}: is no picture; {', '.join(CAPTIONS)} are.")
        link = _file(page, name).relative_to(page.parent).as_posix()
        links.append(f"![{caption}]({link})\n\n*{caption}.*")
    return "\n\n".join(links)


def draw_pictures(
    found: Sequence[Row], names: Sequence[str], page: Path, sweep: Comparison
) -> None:
    """Draw the pictures that a page names, from the run folders.

    Raises:
        UserError: a name is none of a picture, or a run has no such figure.
    """
    for name in names:
        match name.split(":"):
            case ["comparison"]:
                draw_charts(sweep, _file(page, name))
            case ["curves", key, metrics]:
                draw_curves(found, key, metrics.split(","), _file(page, name))
            case [picture, _, _]:
                chosen = _chosen(found, name)["run"]
                run = next(run for run in sweep.runs if run.name == chosen)
                figure = run.folder / "figures" / f"{picture}.png"
                if not figure.exists():
                    raise UserError(f"{name}: there is no {figure}.")
                write_atomically(_file(page, name), partial(shutil.copy, figure))
    sheets = {"reconstructions", "samples"}
    if sheets.intersection(names):
        seed = min((run.value("seed") for run in sweep.ranked), key=sort_key)
        first = [run for run in sweep.runs if run.value("seed") == seed]
        keys = [key for key in sweep.swept if key != "seed"]
        folder = _file(page, "samples").parent
        folder.mkdir(parents=True, exist_ok=True)
        draw_face_sheets(replace(sweep, runs=first, swept=keys), folder)
        for unwanted in sheets.difference(names):
            _file(page, unwanted).unlink()


def draw_curves(found: Sequence[Row], key: str, metrics: Sequence[str], path: Path) -> None:
    """Draw metrics against a setting: means and deviations over the runs of each value."""
    from matplotlib.figure import Figure

    labels = sorted({cell(row, key) for row in found}, key=sort_key)
    numbers = [number for label in labels if (number := parse_number(label)) is not None]
    numeric = len(numbers) == len(labels)
    places = numbers if numeric else labels
    columns = min(len(metrics), 3)
    lines = -(-len(metrics) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * lines), layout="constrained")
    for panel, metric in enumerate(metrics, start=1):
        axes = figure.add_subplot(lines, columns, panel)
        groups = [[float(row[metric]) for row in found if row[key] == label] for label in labels]
        means = [fmean(group) for group in groups]
        spreads = [stdev(group) if len(group) > 1 else 0.0 for group in groups]
        line = "-" if numeric else ""
        axes.errorbar(places, means, yerr=spreads, marker="o", capsize=3, linestyle=line)
        if numeric:
            axes.set_xscale("log" if is_log_scale([x for x in numbers if x > 0]) else "linear")
            axes.set_xticks(numbers, [f"{number:g}" for number in numbers])
            axes.set_xticks([], minor=True)
        axes.set(xlabel=key, title=axis_label(metric))
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=DOTS_PER_INCH))


def _chosen(found: Sequence[Row], name: str) -> Row:
    """Return the run that a picture shows."""
    picture, choice, metric = name.split(":")
    if picture not in RUN_FIGURES or choice not in ("best", "worst"):
        raise UserError(f"{name}: is no picture; {', '.join(RUN_FIGURES)}:best:METRIC is.")
    return ranked(found, [metric])[0 if choice == "best" else -1]


def _file(page: Path, name: str) -> Path:
    """Return a picture's file: `curves:loss.beta:val/bpd` is curves_loss.beta.png."""
    parts = name.split(":")[:2]
    return page.parent / "figures" / page.stem / f"{'_'.join(parts)}.png"
