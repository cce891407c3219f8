"""Pictures of a page of docs/experiments, and their captions."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory

from vae.sweeps.chart_scales import literal
from vae.sweeps.charts import DOTS_PER_INCH, draw_charts
from vae.sweeps.comparison import Comparison, is_log_scale, sort_key
from vae.sweeps.face_sheets import draw_face_sheets
from vae.sweeps.pages.statistics import chosen_rows
from vae.sweeps.pages.tables import Row, cell, format_figure, ranked
from vae.sweeps.report import PICTURES
from vae.sweeps.results import parse_number
from vae.utils.errors import UserError
from vae.utils.files import write_atomically
from vae.utils.registry import find_metric
from vae.utils.text import markdown_text, safe_name

CAPTIONS = {name.removesuffix(".png"): what for name, what in PICTURES.items()}
SHEETS = ("reconstructions", "samples")  # a row per run
# Of a run, in figures/, or in figures/val/ from `vae evaluate`
TRAINING_FIGURES = ("reconstructions", "samples", "latents", "interpolation", "traversal")
RUN_FIGURES = {**{name: f"{name}.png" for name in TRAINING_FIGURES}, "edits": "val/edits.png"}


def make_pictures(
    found: Sequence[Row], names: Sequence[str], page: Path, sweep: Comparison | None
) -> str:
    """Return Markdown links to the pictures of a page, with captions; draw them from `sweep`.

    Args:
        found: the results.
        names: `comparison`, `reconstructions`, `samples` of the whole sweep;
            `samples:chosen:METRIC:KEY` of the best setting for each value of KEY;
            `traversal:best:val/mig`, `traversal:worst:val/mig` and so on, of one run;
            `curves:KEY:FIGURE,FIGURE`, drawn of the results alone; `curves:KEY:FIGURE:BY` has a
            curve for each value of the setting BY.
        page: the pictures are in `figures/<page>/` beside it; `curves:loss.beta:val/bpd` is
            curves_loss.beta.png.
        sweep: None: nothing is drawn.

    Raises:
        UserError: a name is none of a picture, or a run has no such figure.
    """
    links = []
    folder = page.parent / "figures" / page.stem
    for name in names:
        file = folder / f"{safe_name('_'.join(name.split(':')[:2]))}.png"
        match name.split(":"):
            case [picture] if picture in CAPTIONS:
                of = "all runs" if picture == "comparison" else "the first seed"
                caption = f"{CAPTIONS[picture]}; {of}"
                if sweep and picture == "comparison":
                    draw_charts(sweep, file)
            case ["curves", key, metrics, *by] if len(by) < 2:
                caption = f"Against {key}: means over the seeds, and their standard deviation"
                if sweep:
                    draw_curves(found, key, metrics.split(","), file, *by)
            case [sheet, "chosen", metric, *keys] if sheet in SHEETS and keys:
                of = f"each {', '.join(keys)} at its best {metric}, the first seed"
                caption = f"{CAPTIONS[sheet]}; {of}"
                if sweep:
                    names_of = {row["run"] for row in chosen_rows(found, keys, metric)}
                    runs = [run for run in sweep.runs if run.name in names_of]
                    _draw_sheets(replace(sweep, runs=runs), {sheet: file})
            case [picture, choice, metric]:
                if picture not in RUN_FIGURES or choice not in ("best", "worst"):
                    known = ", ".join(RUN_FIGURES)
                    raise UserError(f"{name}: is no picture; {known}:best:METRIC is.")
                run = ranked(found, [metric])[0 if choice == "best" else -1]
                value = format_figure(metric, cell(run, metric))
                caption = f"The {picture} of {cell(run, 'run')}, the {choice} by {metric} ({value})"
                if sweep:
                    folders = {one.name: one.folder for one in sweep.runs}
                    run_folder = folders.get(run["run"], sweep.folder)
                    figure = run_folder / "figures" / RUN_FIGURES[picture]
                    if not figure.is_file():
                        raise UserError(f"{name}: there is no {figure}.")
                    write_atomically(file, partial(shutil.copy, figure))
            case _:
                raise UserError(f"{name}: is no picture; {', '.join(CAPTIONS)} are.")
        link = file.relative_to(page.parent).as_posix()
        links.append(f"![{markdown_text(caption)}]({link})\n\n*{markdown_text(caption)}.*")
    if sweep and (sheets := {name: folder / f"{name}.png" for name in names if name in SHEETS}):
        _draw_sheets(sweep, sheets)
    return "\n\n".join(links)


def _draw_sheets(sweep: Comparison, sheets: Mapping[str, Path]) -> None:
    """Draw some of SHEETS for the runs of the first seed, and write each to its path."""
    seed = min((run.value("seed") for run in sweep.ranked), key=sort_key)
    first = [run for run in sweep.runs if run.value("seed") == seed]
    keys = [key for key in sweep.swept if key != "seed"]
    with TemporaryDirectory() as drawn:
        draw_face_sheets(replace(sweep, runs=first, swept=keys), Path(drawn))
        for sheet, path in sheets.items():
            write_atomically(path, partial(shutil.copy, Path(drawn, f"{sheet}.png")))


def draw_curves(
    found: Sequence[Row], key: str, metrics: Sequence[str], path: Path, by: str | None = None
) -> None:
    """Draw metrics against a setting: means and deviations over the runs of each value.

    Args:
        by: another setting, with a curve for each of its values; None: one curve of all runs.
    """
    from matplotlib.figure import Figure

    labels = sorted({cell(row, key) for row in found}, key=sort_key)
    numbers = [number for label in labels if (number := parse_number(label)) is not None]
    numeric = len(numbers) == len(labels)
    places = numbers if numeric else [*map(literal, labels)]
    kinds = sorted({cell(row, by) if by else "" for row in found}, key=sort_key)
    columns = min(len(metrics), 3)
    lines = -(-len(metrics) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * lines), layout="constrained")
    for panel, metric in enumerate(metrics, start=1):
        axes = figure.add_subplot(lines, columns, panel)
        for kind in kinds:
            rows = [row for row in found if not by or row[by] == kind]
            groups = [
                [float(cell(row, metric)) for row in rows if row[key] == label] for label in labels
            ]
            means = [fmean(group) if group else math.nan for group in groups]
            spreads = [stdev(group) if len(group) > 1 else 0.0 for group in groups]
            line = "-" if numeric else ""
            axes.errorbar(
                places, means, spreads, marker="o", capsize=3, linestyle=line, label=literal(kind)
            )
        if numeric:
            axes.set_xscale("log" if is_log_scale([x for x in numbers if x > 0]) else "linear")
            axes.set_xticks(numbers, [f"{number:g}" for number in numbers])
            axes.set_xticks([], minor=True)
        if by and panel == 1:
            axes.legend(title=literal(by), frameon=False)
        axes.set(xlabel=literal(key), title=literal(find_metric(metric).label))
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=DOTS_PER_INCH))
