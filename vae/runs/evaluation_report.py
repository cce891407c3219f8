"""Record an evaluation: metrics.json and figures in the run folder, and W&B."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vae.data.loader import to_float
from vae.evaluation.evaluate import Report, evaluate_model
from vae.generation.figures import draw_figures
from vae.runs.load import SavedRun
from vae.runs.wandb_run import WandbRun
from vae.utils.files import read_json, write_json

METRICS_FILE = "metrics.json"
FACES_SHOWN = 16  # of the split, in the figures


def evaluate_and_record(
    run: SavedRun, split: str = "val", seed: int = 0, out: Path | None = None
) -> tuple[Report, dict[str, Path]]:
    """Evaluate a run and write metrics.json and the split's figures; report it to W&B.

    On W&B it is a run of its own, of the job type `evaluate`, in the group of the one that
    it measures and by that one's `wandb.mode`.

    Args:
        run, split, seed: as `evaluate_model`.
        out: the folder to write to; the run's own if None.

    Returns:
        The report, and the figures by their keys on W&B.
    """
    report, evaluation = evaluate_model(run, split, seed, run.directions_file)
    folder = out or run.folder
    write_metrics(run, report, folder / METRICS_FILE)
    faces = to_float(run.data.images[split][:FACES_SHOWN].copy(), run.device)
    pictures = draw_figures(run.model, faces, evaluation, folder / "figures" / split)
    _report_to_wandb(run, report, pictures, folder)
    return report, pictures


def write_metrics(run: SavedRun, report: Report, file: Path) -> None:
    """Write metrics.json; keep the entries of the same checkpoint on other splits."""
    about: dict[str, Any] = {"checkpoint": run.checkpoint, "step": run.step}
    before = read_json(file)
    same = all(before.get(key) == value for key, value in about.items())
    parts: dict[str, Any] = {
        "metrics": report.figures,
        "kl_per_latent": {report.split: report.kl_per_latent},
        "attributes": {report.split: report.separability},
        "notes": {report.split: report.notes},
    }
    if same:
        parts = {key: _others(before.get(key), report.split) | new for key, new in parts.items()}
    write_json(file, about | {key: dict(sorted(part.items())) for key, part in parts.items()})


def _others(before: Any, split: str) -> dict[str, Any]:
    """Return the entries of other splits."""
    entries = before if isinstance(before, dict) else {}
    return {key: value for key, value in entries.items() if key.partition("/")[0] != split}


def _report_to_wandb(
    run: SavedRun, report: Report, pictures: Mapping[str, Path], folder: Path
) -> None:
    settings = run.config.wandb
    named = replace(settings, name=f"{settings.name or run.folder.name} {report.split}")
    config = {**asdict(run.config), "checkpoint": run.checkpoint, "evaluated": str(run.folder)}
    with WandbRun(folder, named, config, job_type="evaluate") as wandb_run:
        row = {name: figure["value"] for name, figure in report.figures.items()}
        wandb_run.report({"step": run.step, **row})
        keyed = {f"{report.split}/{key}": path for key, path in pictures.items()}
        wandb_run.report({"step": run.step}, keyed)
