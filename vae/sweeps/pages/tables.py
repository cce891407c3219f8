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
from vae.evaluation import parts_of
from vae.runs.load import METRICS_FILE, evaluate_and_record, load_run
from vae.runs.run_dir import read_summary
from vae.sweeps.comparison import Comparison, format_value, pareto_front, rows, sort_key
from vae.sweeps.results import SweepRun, parse_number
from vae.utils.errors import UserError
from vae.utils.files import read_json
from vae.utils.registry import choices, find_metric
from vae.utils.tables import markdown_table, read_csv
from vae.utils.text import markdown_code, markdown_text, plural

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
    """Return one row per finished run of a sweep, in order, floats with six digits.

    Args:
        comparison: of the sweep.
        figures: keys that each row is to have. What a run has not measured while it was
            trained (`val/mig`, say), `vae evaluate` measures now, unless it has done so before.

    Raises:
        UserError: no run has finished, or a key is no metric of a run.
    """
    finished = comparison.ranked
    if not finished:
        raise UserError(f"{comparison.folder}: no run in it has finished.")
    found = []
    for run, row in zip(comparison.runs, rows(comparison), strict=True):
        if run not in finished:
            continue
        summary = read_summary(run.folder)
        row |= {key: run.value(key) for key in SET_UP}
        row |= {key: summary.get(key) for key in ("precision", "machine")}
        best = summary.get("best")  # of best.pt
        best = best if isinstance(best, dict) else {}
        row |= {f"best/{key}": best.get(key) for key in ("step", "val/bpd")}
        row |= evaluation_metrics(run, [key for key in figures if row.get(key) is None])
        found.append(
            {key: _csv_text(value) for key, value in row.items() if key not in OMITTED_COLUMNS}
        )
    return found


def _csv_text(value: object) -> str:
    """Return a value as the results file has it."""
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def evaluation_metrics(run: SweepRun, figures: Collection[str]) -> dict[str, float]:
    """Return metrics that training does not measure, from a run's metrics.json.

    Where it lacks one, or is not of the last checkpoint, the run is evaluated.

    Args:
        run: of a sweep.
        figures: keys of one split, `val/mig` or `test/bpd`.

    Raises:
        UserError: there is a figure that `vae evaluate` does not measure either.
    """
    record = read_json(run.folder / METRICS_FILE)
    is_last = (record.get("checkpoint"), record.get("step")) == ("last", run.step)
    known = _values(record.get("metrics")) if is_last else {}
    if not set(figures) <= known.keys():
        wanted = ", ".join(sorted(figures))
        log.info("%s: vae evaluate, for %s", run.folder, wanted)
        try:
            saved = load_run(run.folder, overrides=required_settings(figures))
            quiet = replace(saved.config.wandb, mode="disabled")
            saved = replace(saved, config=replace(saved.config, wandb=quiet))
            split = next(iter(figures)).partition("/")[0]
            known |= _values(evaluate_and_record(saved, split)[0].figures)
        except UserError as error:
            raise UserError(f"{wanted} cannot be measured: {error}") from error
    for key in sorted(set(figures) - known.keys()):
        raise UserError(f"{key}: {run.folder} has no such figure, nor such a setting.")
    return {key: known[key] for key in figures}


def _values(figures: Any) -> dict[str, float]:
    """Return the numbers among the metrics of a metrics.json."""
    pairs = figures.items() if isinstance(figures, dict) else ()
    found = {key: parse_number(of.get("value")) for key, of in pairs if isinstance(of, dict)}
    return {key: value for key, value in found.items() if value is not None}


def required_settings(figures: Collection[str]) -> list[str]:
    """Return overrides for an evaluation that measures these metrics, and as little else."""
    parts, priors = parts_of(figures)
    return [f"metrics.parts=[{','.join(parts)}]", f"metrics.priors=[{','.join(priors)}]"]


def read_results(path: Path) -> list[Row]:
    """Read the rows of a page's CSV file.

    Raises:
        UserError: there is no such file, or there is nothing in it.
    """
    try:
        found = read_csv(path) if path.exists() else []
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: not a valid results file ({error}). Make it again.") from error
    if not found:
        raise UserError(
            f"{path}: there are no results. Give the sweep's folder, multirun/NAME, after the page."
        )
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
    lines = [
        [*map(format_setting, values), *(_mean(rows, key) for key in figures)]
        for values, rows in by_settings(found, keys)
    ]
    return _markdown([*keys, *figures], lines)


def by_settings(
    found: Sequence[Row], keys: Sequence[str]
) -> list[tuple[tuple[str, ...], list[Row]]]:
    """Return each combination of the keys' values in order, with its runs.

    Raises:
        UserError: the rows lack a key.
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in found:
        groups.setdefault(tuple(cell(row, key) for key in keys), []).append(row)
    return sorted(groups.items(), key=lambda group: [sort_key(value) for value in group[0]])


def runs_table(found: Sequence[Row], columns: Sequence[str]) -> str:
    """Return a Markdown table with one line per run."""
    lines = [
        [
            format_figure(key, cell(row, key)) if "/" in key else format_setting(cell(row, key))
            for key in columns
        ]
        for row in found
    ]
    return _markdown(columns, lines)


def ranked(found: Sequence[Row], objectives: Sequence[str]) -> list[Row]:
    """Return the runs in order of the first objective, the best first."""
    return sorted(found, key=lambda row: _costs(row, objectives))


def front(found: Sequence[Row], objectives: Sequence[str]) -> list[Row]:
    """Return the Pareto front, in order of the first objective."""
    ordered = ranked(found, objectives)
    return [ordered[i] for i in pareto_front([_costs(row, objectives) for row in ordered])]


def describe_set_up(found: Sequence[Row]) -> str:
    """Describe the common settings of all runs in one paragraph: data, steps, machine, time."""

    def values(key: str) -> list[str]:
        return sorted({row.get(key, "") for row in found} - {""}, key=sort_key)

    def one_of(key: str) -> str:
        found = values(key)
        return markdown_text(f"{found[0]} to {found[-1]}" if len(found) > 3 else " or ".join(found))

    sources = [choices("data").get(name, DataConfig) for name in values("data.name")]
    images = int(parse_number(found[0].get("data.num_images")) or 0)
    what = f"{images:,} " if images else ""
    what += " and ".join(source.images for source in sources) or DataConfig.images
    if values("data.preset"):
        what += f" ({markdown_code(' or '.join(values('data.preset')))})"
    minutes = sum(parse_number(row.get("seconds")) or 0.0 for row in found) / 60
    seeds = ("seeds " if len(values("seed")) > 1 else "seed ") + ", ".join(values("seed"))
    runs = plural(len(found), "run") if len(found) > 1 else "One run"
    return (
        f"{what[0].upper()}{what[1:]} at {one_of('data.image_size')} px, {one_of('step')} steps of "
        f"{one_of('data.batch_size')} images by {one_of('optimizer.name')}, "
        f"{markdown_text(seeds)}. {runs}, {minutes:.0f} minutes of "
        f"training in all, in {one_of('precision')} on {one_of('machine')}."
    )


def _markdown(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return markdown_table([*map(markdown_code, heads)], lines)


def _mean(rows: Sequence[Row], key: str) -> str:
    values = [float(text) for row in rows if (text := cell(row, key))]
    if not values:
        return ""
    mean = format_figure(key, fmean(values))
    return mean if len(set(values)) == 1 else f"{mean} ± {format_figure(key, stdev(values))}"


def format_figure(key: str, value: float | str) -> str:
    """Format a metric, or another value of a run, with its number of digits."""
    found = float(value)
    if key in DIGITS:
        return f"{found:.{DIGITS[key]}f}"
    metric = find_metric(key)
    if metric.digits is not None:
        return metric.format(found)
    return f"{found:.3f}" if "/" in key and abs(found) < 10 else f"{found:.4g}"


def format_setting(value: str) -> str:
    """Format the value of a setting: numbers short."""
    found = parse_number(value)
    return value if found is None or value.isdigit() else format_value(found)


def _costs(row: Row, objectives: Sequence[str]) -> list[float]:
    return [find_metric(key).cost(float(cell(row, key))) for key in objectives]


def cell(row: Row, key: str) -> str:
    """Return a run's value.

    Raises:
        UserError: the rows have no such column.
    """
    if key not in row:
        raise UserError(f"{key}: the results have no such column; they have {', '.join(row)}.")
    return row[key]
