"""Faces through a model: reconstructions, interpolations, traversals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from vae.evaluation import TrainedModel
from vae.evaluation.latents import AggregatePosterior, encode_batches
from vae.evaluation.refine import refine_posterior
from vae.generation import figures
from vae.generation.latent_paths import COLUMNS, lerp, move_latent, slerp, traversal_columns
from vae.generation.photos import file_stems, load_faces
from vae.training.metrics import ACTIVE_VARIANCE, EVALUATION_BATCH
from vae.utils.errors import require
from vae.utils.registry import run_metrics

DEFAULT_FACES = 16  # faces of the split to reconstruct, where none are given
MAX_SHOWN = 256  # faces on a sheet of reconstructions
METHODS = {"linear": lerp, "spherical": slerp}
STEPS = 9  # faces in a row
FRAMES = 24  # of an animation, one way
RANKING_IMAGES = 2000  # images of the split that the latents' order and ranges are measured on


@dataclass(frozen=True)
class ReconstructionResult:
    """The result of `reconstruct`."""

    images: Tensor  # (faces, 3, size, size) in [0, 1], from the posteriors' means
    metrics: list[dict[str, float]]  # of each: mse, and image metrics: psnr in dB, ssim
    labels: list[str]
    sheet: Path
    refined: ReconstructionResult | None = None  # the same from optimised posteriors

    @property
    def faces(self) -> dict[str, dict[str, float]]:
        """The metrics of each face by its label."""
        return dict(zip(self.labels, self.metrics, strict=True))

    @property
    def mean(self) -> dict[str, float]:
        """Each metric's mean over the faces."""
        return {
            name: sum(face[name] for face in self.metrics) / len(self.metrics)
            for name in self.metrics[0]
        }


@torch.inference_mode()
def reconstruct(
    trained: TrainedModel,
    faces: Sequence[str] = (),
    split: str = "val",
    crop: str = "auto",
    *,
    refine: int = 0,
    seed: int = 0,
    folder: Path,
) -> ReconstructionResult:
    """Encode faces to their posterior's mean and decode it.

    Args:
        trained: computes on its device.
        faces, split, crop: as `load_faces`; without any, the first of the split.
        refine: steps in which each face's posterior is optimised, too (`refine_posterior`).
        seed: of the noise in them.
        folder: the file is figures/reconstruct.png below it, or reconstruct_refine-STEPS.png,
            with the first MAX_SHOWN faces.
    """
    if not faces:
        faces = [str(i) for i in range(min(DEFAULT_FACES, len(trained.data.images[split])))]
    originals, labels = load_faces(faces, trained, split, crop)
    model, batches = trained.model, torch.split(originals, EVALUATION_BATCH)
    latents = [torch.cat([model.encode(batch.to(trained.device)).mode for batch in batches])]
    if refine:
        noise = torch.Generator().manual_seed(seed)
        latents += [refine_posterior(model, originals, refine, generator=noise).mode]
    made = [_decode_and_measure(trained, each, originals) for each in latents]
    name = f"reconstruct_refine-{refine}.png" if refine else "reconstruct.png"
    sheet = folder / "figures" / name
    shown, *more = (_whole_rows(images) for images, _ in made)
    figures.write_reconstructions(_whole_rows(originals), shown, sheet, *more)
    result, *refined = (ReconstructionResult(*each, labels, sheet) for each in made)
    return replace(result, refined=refined[0]) if refined else result


def _decode_and_measure(
    trained: TrainedModel, latents: Tensor, originals: Tensor
) -> tuple[Tensor, list[dict[str, float]]]:
    """Return the decoded images on the CPU, and the metrics of each."""
    functions = {m.name: m.function for m in run_metrics().values() if m.function}
    made: list[Tensor] = []
    metrics: list[dict[str, float]] = []
    batches = (torch.split(each, EVALUATION_BATCH) for each in (originals, latents))
    for batch, codes in zip(*batches, strict=True):
        made += [trained.model.decode(codes).cpu()]
        columns = {"mse": F.mse_loss(made[-1], batch, reduction="none").flatten(1).mean(1)}
        columns |= {name: function(batch, made[-1]) for name, function in functions.items()}
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        metrics += [dict(zip(columns, row, strict=True)) for row in rows]
    return torch.cat(made), metrics


def _whole_rows(images: Tensor) -> Tensor:
    """Pad the images of a sheet with blank ones to whole rows."""
    shown = images[:MAX_SHOWN]
    missing = -len(shown) % min(COLUMNS, len(shown))
    return torch.cat([shown, shown.new_ones(missing, *shown.shape[1:])])


@torch.inference_mode()
def interpolate(
    trained: TrainedModel,
    faces: Sequence[str] = ("0", "1"),
    steps: int = STEPS,
    split: str = "val",
    crop: str = "auto",
    method: str = "both",
    *,
    folder: Path,
) -> list[Path]:
    """Write strips and animations between two faces, linear and spherical.

    Args:
        trained: decodes on its device.
        faces: two files, or numbers of faces of the split.
        steps: faces of a strip, >= 2.
        split, crop: as `load_faces`.
        method: linear, spherical or both.
        folder: the files go into its subfolder figures/.

    Returns:
        interpolate_A_B.png with a row for each way, and a GIF for each.
    """
    require(len(faces) == 2, "A B", list(faces), "two faces")
    require(method in ("both", *METHODS), "--method", method, f"{', '.join(METHODS)} or both")
    ways = {name: way for name, way in METHODS.items() if method in (name, "both")}
    originals, labels = load_faces(faces, trained, split, crop)
    start, end = trained.model.encode(originals.to(trained.device)).mode

    def decoded(steps: int) -> Tensor:  # (ways, steps, 3, size, size)
        strips = torch.stack([way(start, end, steps) for way in ways.values()])
        images = trained.model.decode(strips.flatten(0, 1)).cpu()
        return images.view(*strips.shape[:2], *images.shape[1:])

    pairs = originals.expand(len(ways), -1, -1, -1, -1)
    name = "_".join(["interpolate", *file_stems(labels)])
    path = folder / "figures" / f"{name}.png"
    rows = list(ways)
    files = [figures.write_interpolations(pairs, decoded(steps), path, names=labels, rows=rows)]
    for way, frames in zip(ways, decoded(FRAMES), strict=True):
        animated = path.with_name(f"{name}_{way}.gif")
        files.append(figures.write_animation(frames[:, None], animated))
    return files


@dataclass(frozen=True)
class TraversalResult:
    """The result of `traverse`."""

    files: list[Path]  # a PNG and a GIF
    latents: list[int]  # by their KL, the largest first
    kl: list[float]  # of each, nats per image
    active: list[bool]  # whether its mean varies by more than ACTIVE_VARIANCE


@torch.inference_mode()
def traverse(
    trained: TrainedModel,
    face: str = "0",
    count: int = 8,
    steps: int = STEPS,
    split: str = "val",
    crop: str = "auto",
    *,
    folder: Path,
) -> TraversalResult:
    """Move the `count` latents of most KL, each over the range of its aggregate posterior.

    Args:
        trained: decodes on its device.
        face: a file, or the number of a face of the split: the rest of its latents stay.
        count: how many latents, >= 1; at most all of them.
        steps: faces of a row, >= 2.
        split, crop: as `load_faces`; order and ranges are measured on at most
            RANKING_IMAGES of the split.
        folder: the files are figures/traverse_FACE.png and .gif below it. The columns are
            labelled in standard deviations.

    Raises:
        UserError: as `load_faces`; the split has one image alone.
    """
    original, (label,) = load_faces([face], trained, split, crop)
    kl, aggregate = rank_latents(trained, split)
    latents = kl.argsort(descending=True, stable=True)[:count].tolist()
    base = trained.model.encode(original.to(trained.device)).mode[0]
    centre, spread = aggregate.mean, aggregate.covariance.diagonal().sqrt()

    def strips(steps: int) -> Tensor:  # (latents, steps, latent_dim)
        return torch.stack([move_latent(base, k, centre[k], spread[k], steps) for k in latents])

    def decoded(parts: Iterable[Tensor]) -> Iterator[Tensor]:  # in parts: latents may be many
        return (trained.model.decode(part).cpu() for part in parts)

    variance = aggregate.means.covariance.diagonal()
    active = [bool(variance[latent] > ACTIVE_VARIANCE) for latent in latents]
    rows = [
        f"z{latent}: {kl[latent]:.1f} nats{'' if is_active else ', inactive'}"
        for latent, is_active in zip(latents, active, strict=True)
    ]
    (stem,) = file_stems([label])
    path = folder / "figures" / f"traverse_{stem}.png"
    faces = torch.stack([*decoded(strips(steps))])
    sheet = figures.write_table(faces, path, columns=traversal_columns(steps), rows=rows)
    names = [f"z{latent}" for latent in latents]
    frames = decoded(tqdm(strips(FRAMES).transpose(0, 1), desc="animating", disable=None))
    animated = figures.write_animation(frames, path.with_suffix(".gif"), labels=names)
    return TraversalResult([sheet, animated], latents, kl[latents].tolist(), active)


def rank_latents(trained: TrainedModel, split: str) -> tuple[Tensor, AggregatePosterior]:
    """Return the mean KL of each latent in nats, (latent_dim,), and the aggregate posterior.

    Of at most RANKING_IMAGES images of the split.

    Raises:
        UserError: the split has one image alone.
    """
    images = trained.data.images[split][:RANKING_IMAGES]
    takes = "one with two images or more, as spreads are measured on it"
    require(len(images) > 1, "--split", split, takes)
    kl = torch.zeros(trained.model.latent_dim, dtype=torch.float64)
    aggregate = AggregatePosterior(trained.model.latent_dim)
    for posterior in encode_batches(trained.model, images, f"encoding {split}"):
        kl += posterior.kl().cpu().double().sum(0)
        aggregate.update(posterior)
    return kl / len(images), aggregate
