"""The report of a sweep: a table, charts, the same faces through every model, and a page."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from vae.sweeps.charts import draw_charts
from vae.sweeps.comparison import Comparison, format_value, read_sweep, rows
from vae.sweeps.results import SweepRun
from vae.utils.errors import UserError
from vae.utils.files import write_text_atomically
from vae.utils.registry import find_metric
from vae.utils.tables import format_table, markdown_table, write_csv
from vae.utils.text import (
    Markdown,
    markdown_block,
    markdown_code,
    markdown_text,
    plural,
    truncate,
)

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from vae.data import DataConfig
    from vae.runs.load import SavedRun

BEST_RUNS = 5
FACES = 8  # columns of a face sheet
MAX_RUNS_SHOWN = 12  # on a face sheet, each in a row: more are hard to compare
TABLE = ("val/bpd", "val/rate", "val/mse", "val/psnr", "val/active_units")
PICTURES = {
    "comparison.png": "Rate against distortion, and the effect of each swept value",
    "reconstructions.png": "The same validation faces through each model, the originals on top",
    "samples.png": "Samples of a Gaussian fitted to each model's latents, and of the prior",
}

REPORT_FILES = ("comparison.csv", *PICTURES, "report.md")


def write_report(folder: Path | str, out: Path | str | None = None) -> Comparison:
    """Write comparison.csv, the pictures and report.md of a sweep, at any time.

    Args:
        folder: `multirun/<sweep>`; runs may be at work in it.
        out: where to write; None: into the sweep's folder.

    Raises:
        UserError: it is no sweep's folder.
        OSError: `out` cannot be written to.
    """
    comparison = read_sweep(folder)
    out = Path(out or folder)
    out.mkdir(parents=True, exist_ok=True)
    write_csv(rows(comparison), out / "comparison.csv")
    notes: list[str] = []
    try:
        draw_charts(comparison, out / "comparison.png")
    except Exception as error:  # the table is worth having without charts
        notes.append(f"No new charts: {_why(error)}")
    try:
        notes += draw_face_sheets(comparison, out)
    except Exception as error:
        notes.append(f"No new faces: {_why(error)}")
    write_text_atomically(out / "report.md", report_markdown(comparison, out, notes))
    return comparison


def report_markdown(comparison: Comparison, out: Path, notes: Sequence[str] = ()) -> str:
    """Return report.md; `notes` say which pictures of `out` are missing, and why."""
    counts = Counter(run.status for run in comparison.runs)
    started = (comparison.started or "").replace("T", " ")[:19]
    when = f", started {started}" if started else ""
    states = ", ".join(f"{number} {status}" for status, number in counts.items())
    parts = [
        f"# {markdown_text(comparison.name)}",
        markdown_text(f"{plural(len(comparison.runs), 'run')} ({states}){when}."),
    ]
    if comparison.command:
        parts.append(markdown_block(comparison.command.splitlines(), "bash"))
    parts += _best(comparison, out)
    there = [(name, what) for name, what in PICTURES.items() if (out / name).exists()]
    parts += [f"## {what}\n\n![{what}]({name})" for name, what in there]
    parts += [markdown_text(note) for note in notes]
    parts += ["## All runs", _table(comparison, comparison.runs, out)]
    parts += _unfinished(comparison)
    return "\n\n".join(parts) + "\n"


def overview(comparison: Comparison) -> str:
    """Format a line per run for the terminal, the best (or the Pareto front) starred."""
    front = comparison.front  # the best, where there is one objective
    metrics = list(dict.fromkeys(["val/rate", "val/psnr", "val/bpd", *comparison.objectives]))
    heads = [key.removeprefix("val/") for key in metrics]
    lines = [["", "run", "status", "beta_elbo", *heads]]
    for run in comparison.runs:
        star = "*" if run in front else ""
        weight = "" if run.beta_elbo is None else f"{run.beta_elbo:.4g}"
        figures = _figures(run, metrics)
        lines.append([star, comparison.label(run), truncate(run.status, 40), weight, *figures])
    return format_table(lines, left=3)


def repeat_command(run: SweepRun) -> str:
    """Return the command that repeats a run by itself, and uploads nothing that the run did not."""
    apart = ("sweep=", "sweep.", "hydra.", "hydra/", "wandb.", "resume=")
    private = ("wandb.mode=offline", "wandb.mode=disabled")
    own = [a for a in run.arguments if a in private or not a.lstrip("+~").startswith(apart)]
    return shlex.join(["python", "train.py", *own])


def _best(comparison: Comparison, out: Path) -> list[str]:
    if not comparison.ranked:
        return []
    better = {True: "higher", False: "lower"}
    ways = [
        f"{markdown_code(key)}, {better[find_metric(key).higher_is_better]}"
        for key in comparison.objectives
    ]
    if len(comparison.objectives) > 1:
        chosen = comparison.front
        title = f"## The {plural(len(chosen), 'best trade-off')}"
        what = f"No other run is better in one of {' and '.join(ways)} and as good in the rest."
    else:
        chosen = comparison.ranked[:BEST_RUNS]
        title = f"## The best by {ways[0]} is better"
        what = f"The first {len(chosen)} of {len(comparison.ranked)} that finished:"
    commands = markdown_block([repeat_command(run) for run in chosen], "bash")
    again = f"These again, each by itself:\n\n{commands}"
    return [title, what, _table(comparison, chosen, out), again]


def _unfinished(comparison: Comparison) -> list[str]:
    """List each unfinished run with the reason."""
    lines = []
    for run in comparison.runs:
        at = f"at step {run.step}" + f" of {run.total_steps}" * bool(run.total_steps)
        resumes = f"interrupted {at}; resumes when the sweep is started again"
        said = {
            "failed": f"failed {at}: {run.error or 'the reason is in its train.log'}",
            "pruned": f"pruned by Optuna {at}",
            "running": f"is running, {at}",
            "interrupted": resumes,
            "cut": resumes,
        }.get(run.status)
        if said:
            lines.append(f"- **{markdown_text(run.name)}** {markdown_text(said)}")
    return ["## Runs that did not finish", "\n".join(lines)] if lines else []


def _table(comparison: Comparison, runs: Iterable[SweepRun], out: Path) -> str:
    metrics = list(dict.fromkeys([*TABLE, *comparison.objectives]))
    heads = ["run", *comparison.swept, "beta_elbo", *metrics, "step", "status"]
    lines = []
    for run in runs:
        bold = "**" if run is comparison.best else ""
        target = quote(
            Path(os.path.relpath(run.folder, out)).as_posix(), "/=,+", errors="surrogateescape"
        )
        link = Markdown(f"{bold}[{markdown_text(run.name)}](<{target}>){bold}")
        values = [run.value(key) for key in comparison.swept] + [run.beta_elbo]
        status = run.status + f" (trial {run.trial})" * (run.trial is not None)
        cells = ["" if value is None else format_value(value) for value in values]
        lines.append([link, *cells, *_figures(run, metrics), str(run.step), status])
    return markdown_table(heads, lines)


def _figures(run: SweepRun, keys: Iterable[str]) -> list[str]:
    found = run.metrics
    return [find_metric(key).format(found[key]) if key in found else "" for key in keys]


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def draw_face_sheets(comparison: Comparison, folder: Path) -> list[str]:
    """Write reconstructions.png and samples.png into `folder`: a row per run, in their order.

    The reconstructions are of the same validation faces, the originals on top. The samples are
    of a Gaussian fitted to the latents of training images and, below, of N(0, I), from the same
    noise wherever the latent size is the same. All come from last.pt.

    Returns:
        Sentences on the runs that are not shown.

    Raises:
        UserError: there is no model to show yet, or its data are gone.
    """
    import torch

    from vae.data.loader import to_float
    from vae.generation import figures
    from vae.generation.labels import add_caption, label_rows, stack
    from vae.generation.latent_figure import encode_evenly

    shown, notes = choose_runs(comparison)
    models = load_models(shown, notes)
    images = next(iter(models.values())).data.images
    originals = to_float(images["val"][:FACES].copy(), torch.device("cpu"))
    labels = {run.name: _label(comparison, run) for run in shown}
    reconstructed, fitted, standard = [("originals", originals)], [], []
    with torch.inference_mode():
        for name, saved in models.items():
            model, label = saved.model, labels[name]
            means = model.encode(originals).mode
            reconstructed.append((label, model.decode(means)))
            standard.append((label, model.decode(figures.prior_latents(FACES, means))))
            aggregate, _ = encode_evenly(model, images["train"])
            latents = figures.gaussian_latents(FACES, aggregate)
            if latents is None:
                notes.append(f"{name} has no samples of a fitted Gaussian: none can be fitted.")
            else:
                fitted.append((label, model.decode(latents)))

    def sheet(rows: list[tuple[str, Tensor]]) -> Image:
        names, faces = zip(*rows, strict=True)
        return label_rows(figures.grid(torch.cat(faces), len(faces[0])), names)

    figures.save_png(sheet(reconstructed), folder / "reconstructions.png")
    blocks = {figures.GAUSSIAN_CAPTION: fitted, figures.PRIOR_CAPTION: standard}
    sheets = [add_caption(sheet(rows), caption) for caption, rows in blocks.items() if rows]
    figures.save_png(stack(sheets), folder / "samples.png")
    return notes


def choose_runs(comparison: Comparison) -> tuple[list[SweepRun], list[str]]:
    """Choose at most MAX_RUNS_SHOWN runs, spread over all; add a note if some are left out.

    Of runs that differ in the seed alone one is shown: the best run, or the first.
    """
    with_model = [r for r in comparison.runs if (r.folder / "checkpoints" / "last.pt").exists()]
    finished = [run for run in with_model if run.status == "finished"]
    seeds = finished or with_model  # the others while no run has finished
    keys = [key for key in comparison.swept if key != "seed"]
    by_values: dict[tuple[str, ...], SweepRun] = {}
    for run in seeds if keys else ():
        values = tuple(str(run.value(key)) for key in keys)
        by_values[values] = run if run is comparison.best else by_values.get(values, run)
    runs = [*by_values.values()] or seeds
    notes = ["Of runs that differ in the seed alone, one is shown."] * (len(runs) < len(seeds))
    if len(runs) <= MAX_RUNS_SHOWN:
        return runs, notes
    spread = MAX_RUNS_SHOWN - 1  # one row is for the best
    places = {round(i * (len(runs) - 1) / (spread - 1)) for i in range(spread)}
    if comparison.best in runs:
        places.add(runs.index(comparison.best))
    note = f"{len(places)} of the {len(runs)} runs are shown, evenly chosen along their order."
    return [runs[i] for i in sorted(places)], [*notes, note]


def load_models(runs: list[SweepRun], notes: list[str]) -> dict[str, SavedRun]:
    """Load the models of the runs with the same data, by name; add a note on each other run.

    Raises:
        UserError: there is none, and why.
    """
    from vae.runs.load import load_run

    models: dict[str, SavedRun] = {}
    for run in runs:
        try:
            saved = load_run(run.folder)
        except UserError as error:
            notes.append(f"{run.name} is left out: {error}")
            continue
        first = next(iter(models.values()), saved)
        if _images_of(saved.config.data) == _images_of(first.config.data):
            models[run.name] = saved
        else:
            notes.append(f"{run.name} is left out: it has other data than {first.folder.name}.")
    if not models:
        raise UserError(" ".join(notes) or "no run has a checkpoint yet.")
    return models


def _images_of(data: DataConfig) -> DataConfig:
    """Return the settings that determine the images, and no others."""
    return replace(data, root="", num_workers=None, batch_size=2, flip=False)


def _label(comparison: Comparison, run: SweepRun) -> str:
    bpd = run.metrics.get("val/bpd")
    measured = "" if bpd is None else f"   {find_metric('val/bpd').format(bpd)} bpd"
    mark = "   best" if run is comparison.best else ""
    label = comparison.label(run).replace("β", "beta")  # the font of figures has no β
    return f"{label}{measured}{mark}"
