"""Face sheets of a sweep: the same faces, and samples, through the model of each run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vae.sweeps.comparison import Comparison
from vae.sweeps.points import group_by_seed
from vae.sweeps.results import SweepRun
from vae.utils.errors import UserError
from vae.utils.registry import find_metric

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from vae.data import DataConfig
    from vae.runs.load import SavedRun

FACES = 8  # columns of a face sheet
MAX_RUNS_SHOWN = 12  # on a face sheet, each in a row: more are hard to compare
ONE_SEED = (
    "Of runs that differ in the seed alone, one is shown: the best run of the best point, the "
    "first seed of each other point."
)


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

    Of runs that differ in the seed alone one is shown: the best run of the best point, the first
    seed of each other point.
    """
    with_model = [r for r in comparison.runs if (r.folder / "checkpoints" / "last.pt").exists()]
    finished = [run for run in with_model if run.status == "finished"]
    candidates = finished or with_model  # the others while no run has finished
    best = comparison.best
    points = group_by_seed(candidates, comparison.swept)
    runs = [best if best in point.runs else point.runs[0] for point in points]
    notes = [ONE_SEED] * (len(runs) < len(candidates))
    if len(runs) <= MAX_RUNS_SHOWN:
        return runs, notes
    spread = MAX_RUNS_SHOWN - 1  # one row is for the best
    places = {round(i * (len(runs) - 1) / (spread - 1)) for i in range(spread)}
    if best in runs:
        places.add(runs.index(best))
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
    infeasible = "" if comparison.is_feasible(run) else "   infeasible"
    mark = "   best" if run is comparison.best else infeasible
    label = comparison.label(run).replace("β", "beta")  # the font of figures has no β
    return f"{label}{measured}{mark}"
