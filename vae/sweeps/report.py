"""The report of a sweep: a table, charts, the same faces through every model, and a page."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from vae.sweeps.charts import draw_charts
from vae.sweeps.comparison import Comparison, format_value, read_sweep, rows
from vae.sweeps.face_sheets import draw_face_sheets
from vae.sweeps.points import Point
from vae.sweeps.results import SweepRun
from vae.sweeps.sentences import constraint_sentence, describe_violations, lead_sentences
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
    printable,
    truncate,
)

BEST_RUNS = 5
MAX_POINTS = 30  # of a Pareto front, and lines on the terminal
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
    if constraint := constraint_sentence(comparison):
        parts.append(markdown_text(constraint))
    parts += best_section(comparison, out)
    parts += infeasible_section(comparison, out)
    there = [(name, what) for name, what in PICTURES.items() if (out / name).exists()]
    parts += [f"## {what}\n\n![{what}]({name})" for name, what in there]
    parts += [markdown_text(note) for note in notes]
    parts += ["## All runs", runs_table(comparison, comparison.runs, out)]
    parts += _unfinished(comparison)
    return "\n\n".join(parts) + "\n"


def overview(comparison: Comparison) -> str:
    """Format a line per point for the terminal, the best (or the Pareto front) starred.

    At most MAX_POINTS lines, the best ones, in the order of the swept values; below them
    sentences on the constraints and on the lead of the best point.
    """
    points = comparison.points
    finished = {run.folder for point in points for run in point.runs}
    others = [Point([run]) for run in comparison.runs if run.folder not in finished]
    places = {run.folder: place for place, run in enumerate(comparison.runs)}
    shown = sorted([*points, *others][:MAX_POINTS], key=lambda p: places[p.runs[0].folder])
    starred = set(map(id, comparison.front_points))  # the best, where there is one objective
    metrics = list(dict.fromkeys(["val/rate", "val/psnr", "val/bpd", *comparison.objectives]))
    seeds = ["seeds"] * _has_seeds(comparison)
    heads = [key.removeprefix("val/") for key in metrics]
    lines = [["", "point" if seeds else "run", "status", *seeds, "beta_elbo", *heads]]
    for point in shown:
        run = point.runs[0]
        kept = run.folder not in finished or comparison.is_feasible(point)
        lines.append(
            [
                "*" * (id(point) in starred),
                comparison.label(point),
                truncate(run.status, 40) if kept else "infeasible",
                *[str(point.n) if run.folder in finished else "" for _ in seeds],
                "" if run.beta_elbo is None else f"{run.beta_elbo:.4g}",
                *_figures(point, metrics),
            ]
        )
    said = [constraint_sentence(comparison), *lead_sentences(comparison)]
    if more := len(points) + len(others) - len(shown):
        said.insert(0, f"{more:,} more are in report.md.")
    return "\n".join([format_table(lines, left=3), *(printable(text) for text in said if text)])


def repeat_command(again: SweepRun | Point) -> str:
    """Return the command that repeats a run, or all seeds of a point, outside of the sweep.

    It uploads nothing that the run did not.
    """
    run = again.runs[0] if isinstance(again, Point) else again
    apart = ("sweep=", "sweep.", "hydra.", "hydra/", "wandb.", "resume=")
    private = ("wandb.mode=offline", "wandb.mode=disabled")
    own = [a for a in run.arguments if a in private or not a.lstrip("+~").startswith(apart)]
    if isinstance(again, Point) and again.n > 1:
        seeds = dict.fromkeys(str(run.value("seed")) for run in again.runs)
        own = ["-m", *(a for a in own if not a.startswith("seed=")), f"seed={','.join(seeds)}"]
    return shlex.join(["python", "train.py", *own])


def _has_seeds(comparison: Comparison) -> bool:
    return any(point.n > 1 for point in comparison.points)


def best_section(comparison: Comparison, out: Path | None) -> list[str]:
    """Return the section of the best points, or of the Pareto front, with their commands.

    Args:
        out: the folder from which run folders are linked; None: no links.
    """
    feasible = [point for point in comparison.points if comparison.is_feasible(point)]
    if not feasible:
        return []
    better = {True: "higher", False: "lower"}
    ways = [
        f"{markdown_code(key)}, {better[find_metric(key).higher_is_better]}"
        for key in comparison.objectives
    ]
    seeds = _has_seeds(comparison)
    noun = "point" if seeds else "run"
    if len(ways) > 1:
        front = comparison.front_points
        chosen = front[:MAX_POINTS]
        title = f"## The {plural(len(front), 'best trade-off')}"
        what = f"No other {noun} is better in one of {' and '.join(ways)} and as good in the rest."
        what += f" The first {len(chosen)}:" * (len(chosen) < len(front))
    else:
        chosen = feasible[:BEST_RUNS]
        title = f"## The best by {ways[0]} is better"
        state = "keep the constraint" if comparison.constraints else "finished"
        what = f"The first {len(chosen)} of {plural(len(feasible), noun)} that {state}:"
    parts = [title, what, _points_table(comparison, chosen, out)]
    if seeds:
        parts.append("Figures of a point are means over its seeds ± their standard deviations.")
    if said := lead_sentences(comparison):
        parts.append("\n".join(map(markdown_text, said)))
    runs = [comparison.best_run(point) for point in chosen]
    if seeds:
        parts += _commands("These points again, each with all its seeds", chosen)
        return parts + _commands("The best run of each, by itself", runs)
    return parts + _commands("These again, each by itself", runs)


def _commands(title: str, again: Sequence[SweepRun | Point]) -> list[str]:
    return [f"{title}:", markdown_block([*map(repeat_command, again)], "bash")]


def infeasible_section(comparison: Comparison, out: Path | None) -> list[str]:
    """Return the section of the points that break a constraint, the least infeasible first."""
    broken = [point for point in comparison.points if not comparison.is_feasible(point)]
    if not broken:
        return []
    shown = broken[:BEST_RUNS]
    what = f"The first {len(shown)} of {len(broken)}, by how far they break the constraint:"
    return ["## Infeasible", what, _points_table(comparison, shown, out)]


def _unfinished(comparison: Comparison) -> list[str]:
    """List each unfinished run with the reason."""
    lines = []
    for run in comparison.runs:
        at = f"at step {run.step}" + f" of {run.total_steps}" * bool(run.total_steps)
        resumes = f"interrupted {at}; resumes when the sweep is started again"
        said = {
            "failed": f"failed {at}: {run.error or 'the reason is in its train.log'}",
            "pruned": f"stopped early by the search {at}",
            "running": f"is running, {at}",
            "interrupted": resumes,
            "cut": resumes,
        }.get(run.status)
        if said:
            lines.append(f"- **{markdown_text(run.name)}** {markdown_text(said)}")
    return ["## Runs that did not finish", "\n".join(lines)] if lines else []


def _points_table(comparison: Comparison, points: Sequence[Point], out: Path | None) -> str:
    """Return a table of points: means and standard deviations, where there are seeds."""
    if not _has_seeds(comparison):
        return runs_table(comparison, [point.runs[0] for point in points], out)
    keys = [key for key in comparison.swept if key != "seed"]
    metrics = _columns(comparison)
    broken = [describe_violations(comparison.violations(point)) for point in points]
    last = ["constraint"] * any(broken)
    lines = []
    for point, breaks in zip(points, broken, strict=True):
        best = comparison.best_run(point)
        cells = [*_settings(best, keys), str(point.n), *_figures(point, metrics)]
        lines.append([*cells, _link(comparison, best, out), *[breaks for _ in last]])
    heads = [*keys, "beta_elbo", "seeds", *metrics, "best run", *last]
    return markdown_table(heads, lines)


def runs_table(comparison: Comparison, runs: Iterable[SweepRun], out: Path | None) -> str:
    """Return a Markdown table of runs, with links from `out`; without links for None."""
    metrics = _columns(comparison)
    lines = []
    for run in runs:
        status = run.status + f" (trial {run.trial})" * (run.trial is not None)
        breaks = describe_violations(comparison.violations(run))
        if breaks and run.status == "finished":
            status += f", {breaks}"
        cells = [*_settings(run, comparison.swept), *_figures(run, metrics)]
        lines.append([_link(comparison, run, out), *cells, str(run.step), status])
    heads = ["run", *comparison.swept, "beta_elbo", *metrics, "step", "status"]
    return markdown_table(heads, lines)


def _columns(comparison: Comparison) -> list[str]:
    bounded = (constraint.metric for constraint in comparison.constraints)
    return list(dict.fromkeys([*TABLE, *comparison.objectives, *bounded]))


def _settings(run: SweepRun, keys: Iterable[str]) -> list[str]:
    """Return the cells of swept values and of beta_elbo."""
    values = [*map(run.value, keys), run.beta_elbo]
    return ["" if value is None else format_value(value) for value in values]


def _link(comparison: Comparison, run: SweepRun, out: Path | None) -> Markdown:
    """Return a link from `out` to a run's folder, bold for the best run; None: the name alone."""
    bold = "**" if run is comparison.best else ""
    if out is None:
        return Markdown(f"{bold}{markdown_text(run.name)}{bold}")
    relative = Path(os.path.relpath(run.folder, out)).as_posix()
    target = quote(relative, "/=,+", errors="surrogateescape")
    return Markdown(f"{bold}[{markdown_text(run.name)}](<{target}>){bold}")


def _figures(at: SweepRun | Point, keys: Iterable[str]) -> list[str]:
    """Return the cells of metrics: of several seeds, the mean ± the standard deviation."""
    found, cells = at.metrics, []
    for key in keys:
        metric = find_metric(key)
        text = metric.format(found[key]) if key in found else ""
        if text and isinstance(at, Point) and (sd := at.sd(key)) is not None:
            text += f" ± {metric.format(sd)}"
        cells.append(text)
    return cells


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
