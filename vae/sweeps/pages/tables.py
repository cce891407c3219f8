"""Results of an experiment: one CSV row per run, and Markdown tables of means over seeds."""

from __future__ import annotations

import csv
import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, TypeAlias

from vae.data.base import DataConfig
from vae.evaluation import PARTS
from vae.runs.evaluation_report import METRICS_FILE as EVALUATED
from vae.runs.evaluation_report import evaluate_and_record
from vae.runs.load import load_run
from vae.runs.run_dir import read_summary
from vae.sweeps.comparison import Comparison, format_value, pareto_front, rows, sort_key
from vae.sweeps.results import SweepRun, parse_number
from vae.utils.errors import UserError
from vae.utils.files import read_json
from vae.utils.metric_registry import cost, find_metric, format_metric
from vae.utils.registry import choices
from vae.utils.tables import markdown_table

log = logging.getLogger(__name__)

Row: TypeAlias = dict[str, str]  # of a run: each of its settings and figures, as CSV has it

# Of this machine, or equal in each row.
OMITTED_COLUMNS = ("folder", "error", "status", "val/loss")
SET_UP = (  # settings that a page states for all its runs
    *("data.name", "data.preset", "data.num_images", "data.image_size", "data.batch_size"),
    "optimizer.name",
)

# Decimals of what is no metric, and of means of a count.
DIGITS = {"best/step": 0, "seconds": 0, "val/active_units": 1}


def collect_results(comparison: Comparison, figures: Collection[str]) -> list[Row]:
    """Return one row per finished run of a sweep, in order.

    Args:
        comparison: of the sweep.
        figures: keys that each row is to have. What a run has not measured while it was
            trained (`val/mig`, say), `vae evaluate` measures now, unless it has done so before.

    Raises:
        UserError: no run has finished, or a key is no metric of a run.
    """
    by_folder = {str(run.folder): run for run in comparison.ranked}
    if not by_folder:
        raise UserError(f"{comparison.folder}: no run in it has finished.")
    found = []
    for row in rows(comparison):
        run = by_folder.get(row["folder"])
        if run is None:
            continue
        summary = read_summary(run.folder)
        row |= {key: run.value(key) for key in SET_UP}
        row |= {key: summary.get(key) for key in ("precision", "machine")}
        best = summary.get("best") or {}
        row |= {f"best/{key}": best.get(key) for key in ("step", "val/bpd")}  # of best.pt
        missing = [key for key in figures if row.get(key) is None]
        row |= evaluation_metrics(run, missing)
        found.append({key: format_csv(row[key]) for key in row if key not in OMITTED_COLUMNS})
    return found


def evaluation_metrics(run: SweepRun, figures: Collection[str]) -> dict[str, float]:
    """Return a run's metrics that training does not measure, from its metrics.json.

    Raises:
        UserError: there is a figure that `vae evaluate` does not measure either.
    """
    if not figures:
        return {}
    known = _measured(run.folder)
    if not set(figures) <= known.keys():
        wanted = ", ".join(sorted(figures))
        log.info("%s: vae evaluate, for %s", run.folder, wanted)
        try:
            parts = ",".join(required_parts(figures))
            saved = load_run(run.folder, overrides=[f"metrics.parts=[{parts}]"])
            quiet = replace(saved.config.wandb, mode="disabled")
            evaluate_and_record(replace(saved, config=replace(saved.config, wandb=quiet)))
        except UserError as error:
            raise UserError(f"{wanted} cannot be measured: {error}") from error
        known = _measured(run.folder)
    for key in sorted(set(figures) - known.keys()):
        raise UserError(f"{key}: {run.folder} has no such figure, nor such a setting.")
    return {key: known[key] for key in figures}


def required_parts(figures: Collection[str]) -> list[str]:
    """Return the parts of an evaluation that measure these metrics."""
    names = [key.partition("/")[2] for key in figures]
    return [part for part, starts in PARTS.items() if any(n.startswith(starts) for n in names)]


def _measured(folder: Path) -> dict[str, float]:
    """Return the metrics in a run's metrics.json, if it is of the final checkpoint."""
    record = read_json(folder / EVALUATED)
    if record.get("checkpoint") != "last" or record.get("step") != read_summary(folder).get("step"):
        return {}
    return {key: figure["value"] for key, figure in record.get("metrics", {}).items()}


def format_csv(value: Any) -> str:
    """Format a value for CSV, floats with six digits."""
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def read_results(path: Path) -> list[Row]:
    """Read the rows of a page's CSV file.

    Raises:
        UserError: there is no such file, or there is nothing in it.
    """
    try:
        with open(path, newline="", encoding="utf-8") as opened:
            found = list(csv.DictReader(opened))
    except OSError as error:
        raise UserError(
            f"{path}: there are no results ({error.strerror}). Give the sweep's folder, "
            "multirun/NAME, after the page."
        ) from error
    if not found:
        raise UserError(f"{path}: there are no rows in it.")
    return found


def means_table(found: Sequence[Row], keys: Sequence[str], figures: Sequence[str]) -> str:
    """Return a Markdown table: one line per combination of settings, means over its runs.

    Where a line is of several runs, a mean has beside it their standard deviation.

    Args:
        found: one row a run.
        keys: the settings whose values are told apart.
        figures: the columns.

    Raises:
        UserError: the rows lack one of these.
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in sorted(found, key=lambda row: [sort_key(_of(row, key)) for key in keys]):
        groups.setdefault(tuple(_of(row, key) for key in keys), []).append(row)
    lines = [
        [*(_setting(value) for value in values), *(_mean(rows, key) for key in figures)]
        for values, rows in groups.items()
    ]
    return markdown_table([f"`{key}`" for key in (*keys, *figures)], lines)


def front_table(found: Sequence[Row], objectives: Sequence[str], columns: Sequence[str]) -> str:
    """Return a Markdown table of the Pareto front, sorted by the first objective."""
    costs = [[_cost(row, key) for key in objectives] for row in found]
    chosen = sorted(pareto_front(costs), key=lambda place: costs[place])
    return _runs([found[place] for place in chosen], columns)


def best_table(found: Sequence[Row], objective: str, count: int, columns: Sequence[str]) -> str:
    """Return a Markdown table of the best runs by one objective."""
    ordered = sorted(found, key=lambda row: _cost(row, objective))
    return _runs(ordered[:count], columns)


def best_row(found: Sequence[Row], objective: str, worst: bool = False) -> Row:
    """Return the best run by one objective, or the worst."""
    return sorted(found, key=lambda row: _cost(row, objective))[-1 if worst else 0]


def describe_set_up(found: Sequence[Row]) -> str:
    """Describe the common settings of all runs in one paragraph: data, steps, machine, time."""

    def values(key: str) -> list[str]:
        return sorted({row.get(key, "") for row in found} - {""}, key=sort_key)

    def one_of(key: str) -> str:
        return " or ".join(values(key))

    sources = [choices("data").get(name, DataConfig) for name in values("data.name")]
    faces = " and ".join(source.images for source in sources)
    preset = f" (`{one_of('data.preset')}`)" if values("data.preset") else ""
    images = int(found[0]["data.num_images"] or 0)
    count = f"{images:,} " if images else ""
    minutes = sum(float(row["seconds"]) for row in found) / 60
    seeds = values("seed")
    runs = (
        f"{len(found)} runs, {minutes:.0f} minutes of training"
        if len(found) > 1
        else (f"One run, {minutes:.0f} minutes of training")
    )
    what = f"{count}{faces}{preset} at {one_of('data.image_size')} px"
    return (
        f"{what[0].upper()}{what[1:]}, {one_of('step')} steps of "
        f"{one_of('data.batch_size')} images by {one_of('optimizer.name')}, "
        f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}. {runs} in all, in "
        f"{one_of('precision')} on {one_of('machine')}."
    )


def _runs(chosen: Iterable[Row], columns: Sequence[str]) -> str:
    """Return a Markdown table with one line per run."""
    lines = [
        [format_figure(key, row[key]) if "/" in key else _setting(_of(row, key)) for key in columns]
        for row in chosen
    ]
    return markdown_table([f"`{key}`" for key in columns], lines)


def _mean(rows: Sequence[Row], key: str) -> str:
    values = [float(_of(row, key)) for row in rows if _of(row, key)]
    if not values:
        return ""
    mean = format_figure(key, fmean(values))
    alike = len(values) == 1 or max(values) == min(values)
    return mean if alike else f"{mean} ± {format_figure(key, stdev(values))}"


def format_figure(key: str, value: float | str) -> str:
    """Format a metric, or another value of a run, with its number of digits."""
    found = float(value)
    if key in DIGITS:
        return f"{found:.{DIGITS[key]}f}"
    if find_metric(key):
        return format_metric(key, found)
    return f"{found:.3f}" if "/" in key and abs(found) < 10 else f"{found:.4g}"


def _setting(value: str) -> str:
    found = parse_number(value)
    return value if found is None or value.isdigit() else format_value(found)


def _cost(row: Row, key: str) -> float:
    return cost(key, float(_of(row, key)))


def _of(row: Row, key: str) -> str:
    if key not in row:
        raise UserError(f"{key}: the results have no such column; they have {', '.join(row)}.")
    return row[key]
