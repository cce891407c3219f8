"""Face sheets of a sweep: the same faces through every model, one row per run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vae.sweeps.comparison import Comparison
from vae.sweeps.results import SweepRun
from vae.utils.errors import UserError
from vae.utils.registry import format_metric

if TYPE_CHECKING:
    from vae.data import DataConfig
    from vae.runs.load import SavedRun

FACES = 8  # columns
MAX_ROWS = 12  # runs of a sweep that are shown: more cannot be taken in


def draw_face_sheets(comparison: Comparison, folder: Path) -> list[str]:
    """Write reconstructions.png and samples.png into `folder`: a row a run, in their order.

    The reconstructions are of the same validation faces, the originals on top; the samples
    are of the same latents wherever the latent size is the same. Both come from last.pt.

    Returns:
        Sentences on the runs that are not shown.

    Raises:
        UserError: there is no model to show yet, or its data are gone.
    """
    import torch

    from vae.data.loader import to_float
    from vae.generation.figures import grid, label_rows, prior_latents, save_png

    shown, notes = choose_runs(comparison)
    models = _load(shown, notes)
    faces = next(iter(models.values())).data.images["val"][:FACES]
    originals = to_float(faces.copy(), torch.device("cpu"))
    reconstructed, sampled = [originals], []
    with torch.inference_mode():
        for saved in models.values():
            means = saved.model.encode(originals).mode
            reconstructed.append(saved.model.decode(means))
            sampled.append(saved.model.decode(prior_latents(FACES, means)))
    labels = [_label(comparison, run) for run in shown if run.name in models]
    sheet = label_rows(grid(torch.cat(reconstructed), len(originals)), ["originals", *labels])
    save_png(sheet, folder / "reconstructions.png")
    save_png(label_rows(grid(torch.cat(sampled), FACES), labels), folder / "samples.png")
    return notes


def choose_runs(comparison: Comparison) -> tuple[list[SweepRun], list[str]]:
    """Choose at most MAX_ROWS runs, spread over all; add a note if some are left out."""
    with_model = [r for r in comparison.runs if (r.folder / "checkpoints" / "last.pt").exists()]
    finished = [run for run in with_model if run.status == "finished"]
    runs = finished or with_model  # while the first are at work, what there is
    if len(runs) <= MAX_ROWS:
        return runs, []
    places = {round(i * (len(runs) - 1) / (MAX_ROWS - 2)) for i in range(MAX_ROWS - 1)}
    if comparison.best in runs:
        places.add(runs.index(comparison.best))
    note = f"{len(places)} of the {len(runs)} runs are shown, evenly chosen along their order."
    return [runs[i] for i in sorted(places)], [note]


def _load(runs: list[SweepRun], notes: list[str]) -> dict[str, SavedRun]:
    """Load the models of the runs with the same data, by name; add a note on each other run."""
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
    measured = "" if bpd is None else f"   {format_metric('val/bpd', bpd)} bpd"
    mark = "   best" if run is comparison.best else ""
    label = comparison.label(run).replace("β", "beta")  # the font of figures has no β
    return f"{label}{measured}{mark}"
