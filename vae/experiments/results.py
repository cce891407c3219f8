"""What the runs of an experiment came to: one row a run, in a small CSV file beside its page."""

from __future__ import annotations

import csv
import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from vae.errors import UserError
from vae.evaluation.record import FILE as EVALUATED
from vae.evaluation.record import evaluate_and_record
from vae.evaluation.settings import PARTS
from vae.files import read_json, write_atomically
from vae.saved import load_run
from vae.summary import read_summary
from vae.sweeps.comparison import Comparison, rows
from vae.sweeps.runs import SweepRun

log = logging.getLogger(__name__)

Row: TypeAlias = dict[str, str]  # of a run: each of its settings and figures, as CSV has it

NOT_KEPT = ("folder", "error", "status", "val/loss")  # of this machine; or the same in each row
SET_UP = (  # what a page says of all its runs together
    *("data.name", "data.preset", "data.num_images", "data.image_size", "data.batch_size"),
    "optimizer.name",
)


def collect(comparison: Comparison, figures: Collection[str]) -> list[Row]:
    """The finished runs of a sweep, one row each, in their order.

    Args:
        comparison: of the sweep.
        figures: keys that each row is to have. What a run has not measured while it was
            trained (`val/mig`, say), `vae evaluate` measures now, unless it has done so before.

    Raises:
        UserError: no run has finished, or a key is none of what a run is measured by.
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
        row |= evaluated(run, missing)
        found.append({key: text(row[key]) for key in row if key not in NOT_KEPT})
    return found


def evaluated(run: SweepRun, figures: Collection[str]) -> dict[str, float]:
    """Those figures of a run that training does not measure, by key, from its metrics.json.

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
            parts = ",".join(parts_of(figures))
            saved = load_run(run.folder, overrides=[f"metrics.parts=[{parts}]"])
            quiet = replace(saved.config.wandb, mode="disabled")
            evaluate_and_record(replace(saved, config=replace(saved.config, wandb=quiet)))
        except UserError as error:
            raise UserError(f"{wanted} cannot be measured: {error}") from error
        known = _measured(run.folder)
    for key in sorted(set(figures) - known.keys()):
        raise UserError(f"{key}: {run.folder} has no such figure, nor such a setting.")
    return {key: known[key] for key in figures}


def parts_of(figures: Collection[str]) -> list[str]:
    """Which parts of an evaluation measure them: the others need not be done."""
    names = [key.partition("/")[2] for key in figures]
    return [part for part, starts in PARTS.items() if any(n.startswith(starts) for n in names)]


def _measured(folder: Path) -> dict[str, float]:
    """What the metrics.json of a run holds, by key, if it is of the run as it ended."""
    record = read_json(folder / EVALUATED)
    if record.get("checkpoint") != "last" or record.get("step") != read_summary(folder).get("step"):
        return {}
    return {key: figure["value"] for key, figure in record.get("metrics", {}).items()}


def text(value: Any) -> str:
    """A value as CSV has it: six digits say all that a figure has to say."""
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def write_results(found: Sequence[Row], path: Path) -> None:
    """Write rows as CSV, atomically: UTF-8, a header, empty where there is no value."""
    keys = list(dict.fromkeys(key for row in found for key in row))

    def write(file: Path) -> None:
        with open(file, "w", newline="", encoding="utf-8") as opened:
            writer = csv.DictWriter(opened, keys, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(found)

    write_atomically(path, write)


def read_results(path: Path) -> list[Row]:
    """The rows that `write_results` wrote.

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
