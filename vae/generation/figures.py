"""Figures: tensors to PNG and GIF, and the five standard figures of a model."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vae.data.loader import to_float
from vae.evaluation.latents import AggregatePosterior
from vae.evaluation.mixture import gaussian_prior
from vae.generation.labels import add_caption, label_columns, label_rows, stack
from vae.generation.latent_figure import choose_latents, encode_evenly, write_latents
from vae.generation.latent_paths import COLUMNS, lerp, move_latent, traversal_columns
from vae.models.base import VAE
from vae.training.metrics import Evaluation
from vae.utils.files import write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

GAP = 2  # white pixels between the images of a grid
ANIMATION_MS = 4000  # there and back

FACES_SHOWN = 16  # faces in the standard figures
FACES_LISTED = 8  # faces of a kind that are shown one by one
SAMPLES_SHOWN = 32  # samples of the better prior; of N(0, I) half as many beside them
PRIOR_CAPTION = "decoded from the prior, N(0, I)"
GAUSSIAN_CAPTION = "decoded from a Gaussian fitted to the latents of training images"
SAMPLE_SEED = 0  # the same latents in every run and at every step


def grid(images: Tensor, columns: int) -> Image:
    """Arrange images (count, 3, size, size) in [0, 1] in rows of `columns`; enlarge small ones."""
    from PIL import Image

    scale = max(1, round(96 / images.shape[-1]))  # a face of 32 px is hard to see
    images = images.detach().float().cpu().clamp(0, 1)
    images = images.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    rows = -(-len(images) // columns)
    tiles = F.pad(images, (GAP, 0, GAP, 0, 0, 0, 0, rows * columns - len(images)), value=1.0)
    # rows, y, columns, x, rgb
    sheet = tiles.view(rows, columns, *tiles.shape[1:]).permute(0, 3, 1, 4, 2)
    sheet = F.pad(sheet.flatten(2, 3).flatten(0, 1), (0, 0, 0, GAP, 0, GAP), value=1.0)
    return Image.fromarray((sheet * 255).round().byte().numpy())


def to_pil(image: Tensor) -> Image:
    """Convert an image (3, size, size) in [0, 1] to a PIL image."""
    from PIL import Image

    pixels = image.detach().float().cpu().clamp(0, 1).permute(1, 2, 0)
    return Image.fromarray((pixels * 255).round().byte().numpy())


def save_png(picture: Image, path: Path) -> Path:
    """Write a PNG atomically."""
    write_atomically(path, lambda file: picture.save(file, format="PNG"))
    return path


def write_reconstructions(
    originals: Tensor, reconstructed: Tensor, path: Path, refined: Tensor | None = None
) -> Path:
    """Write each original with its reconstructions below it, in groups of full rows of COLUMNS.

    Args:
        originals, reconstructed: (count, 3, size, size) in [0, 1].
        path: the PNG to write.
        refined: as `reconstructed`, from optimised posteriors; a third row of each group.
    """
    kinds = {"original": originals, "model": reconstructed}
    if refined is not None:
        kinds["refined"] = refined
    columns = min(COLUMNS, len(originals))
    rows = len(originals) // columns
    stacked = torch.stack([*kinds.values()])[:, : rows * columns]
    groups = stacked.view(len(kinds), rows, columns, *originals.shape[1:]).transpose(0, 1)
    picture = grid(groups.flatten(0, 2), columns)
    return save_png(label_rows(picture, [*kinds] * rows), path)


def write_samples(samples: Mapping[str, Tensor], path: Path) -> Path:
    """Write images (count, 3, size, size) in [0, 1] in rows of COLUMNS, below their captions."""
    sheets = [
        add_caption(grid(images, min(COLUMNS, len(images))), caption)
        for caption, images in samples.items()
    ]
    return save_png(stack(sheets), path)


def write_interpolations(
    pairs: Tensor,
    strips: Tensor,
    path: Path,
    *,
    names: Sequence[str] = ("original", "original"),
    rows: Sequence[str] | None = None,
) -> Path:
    """Write strips of faces, each between the two originals that it leads between.

    Args:
        pairs: (rows, 2, 3, size, size) in [0, 1].
        strips: (rows, steps, 3, size, size) in [0, 1].
        names: of the first and the last column.
        rows: names of the rows.
    """
    between = [f"{share:.0%}" for share in torch.linspace(0, 1, strips.shape[1]).tolist()]
    images = torch.cat([pairs[:, :1], strips, pairs[:, 1:]], dim=1)
    return write_table(images, path, columns=[names[0], *between, names[1]], rows=rows)


def write_table(
    images: Tensor, path: Path, *, columns: Sequence[str], rows: Sequence[str] | None = None
) -> Path:
    """Write a labelled table of images (rows, columns, 3, size, size) in [0, 1]."""
    faces = grid(images.flatten(0, 1), images.shape[1])
    sheet = label_rows(faces, rows) if rows else faces
    return save_png(label_columns(sheet, columns, sheet.width - faces.width), path)


def write_animation(
    frames: Iterable[Tensor], path: Path, labels: Sequence[str] | None = None
) -> Path:
    """Write the GIF of `animation_bytes`, and return its path."""
    content = animation_bytes(frames, labels)
    write_atomically(path, lambda file: file.write_bytes(content))
    return path


def animation_bytes(frames: Iterable[Tensor], labels: Sequence[str] | None = None) -> bytes:
    """Return the bytes of a GIF that loops through frames and back.

    Each frame has a palette of its own, without dithering: faces are smooth, so that 256
    colours are nearly enough for one, and dots that change from frame to frame are seen first.

    Args:
        frames: two or more, each (count, 3, size, size) in [0, 1], its faces in rows of
            about half as many rows as columns. One is held at a time.
        labels: of the faces of a frame, above each.
    """
    there = [_frame(frame, labels).quantize(256) for frame in frames]
    first, *others = there + there[-2:0:-1]
    duration = max(20, round(ANIMATION_MS / (1 + len(others))))  # viewers slow below 20 ms
    gif = io.BytesIO()
    first.save(gif, format="GIF", save_all=True, append_images=others, duration=duration, loop=0)
    return gif.getvalue()


def _frame(images: Tensor, labels: Sequence[str] | None) -> Image:
    """Arrange images (count, 3, size, size) about twice as wide as high, each with a label."""
    from PIL import Image

    columns = min(len(images), math.ceil(math.sqrt(2 * len(images))))
    if labels is None:
        return grid(images, columns)
    rows = []
    for start in range(0, len(images), columns):
        named = list(labels[start : start + columns])
        named += [""] * (columns - len(named))
        rows.append(label_columns(grid(images[start : start + columns], columns), named))
    return Image.fromarray(np.concatenate([np.asarray(row) for row in rows]))


@dataclass(frozen=True)
class Figures:
    """The standard figures of a model."""

    files: dict[str, Path]  # figures/reconstructions, samples, latents, interpolation, traversal
    # Single faces by kind, each with a caption. The i-th of a kind is of the same image, or the
    # same noise, in every run on the same data.
    faces: dict[str, list[tuple[str, Image]]]


@torch.inference_mode()
def draw_figures(
    model: VAE, images: np.ndarray, training: np.ndarray, evaluation: Evaluation, folder: Path
) -> Figures:
    """Write the five standard figures, in the model's evaluation mode.

    Args:
        images: packed, (count >= 1, size, size, 3) uint8; the first FACES_SHOWN are shown.
        training: packed training images, one or more; a limited number of them is encoded.
        evaluation: of the same model, for the latents' ranges and order.
        folder: where the PNGs go, under names that stay the same.

    Returns:
        The files and the first faces of them, by their keys on W&B.
    """
    was_training = model.training
    model.eval()
    faces = to_float(images[:FACES_SHOWN].copy(), next(model.parameters()).device)
    means = model.encode(faces).mode
    kl, centre, spread = evaluation.kl_per_latent, evaluation.mean_of_means, evaluation.std_of_means
    aggregate, latents = encode_evenly(model, training, choose_latents(kl))
    reconstructions, samples = model.decode(means), {}
    fitted = gaussian_latents(SAMPLES_SHOWN, aggregate)
    if fitted is not None:
        samples[GAUSSIAN_CAPTION] = model.decode(fitted.to(means))
    samples[PRIOR_CAPTION] = model.decode(prior_latents(SAMPLES_SHOWN // (1 + len(samples)), means))
    files = [
        write_reconstructions(faces, reconstructions, folder / "reconstructions.png"),
        write_samples(samples, folder / "samples.png"),
        write_latents(latents, evaluation, folder / "latents.png"),
    ]
    count = max(1, min(4, len(means) // 2))
    ends = means.repeat(2, 1)[: 2 * count].view(count, 2, -1)  # a lone face: to itself
    strips = torch.stack([model.decode(lerp(*pair)) for pair in ends])
    pairs = faces.repeat(2, 1, 1, 1)[: 2 * count].view(count, 2, *faces.shape[1:])
    files += [write_interpolations(pairs, strips, folder / "interpolation.png")]

    most = kl.argsort(descending=True)[:8].tolist()
    moved = [move_latent(means[0], k, centre[k], spread[k]) for k in most]
    traversal = torch.stack([model.decode(strip) for strip in moved])
    labels = [f"z{latent}: {kl[latent]:.1f} nats" for latent in most]
    path = folder / "traversal.png"
    files += [write_table(traversal, path, columns=traversal_columns(), rows=labels)]
    model.train(was_training)
    singles = {
        "original": faces,
        "reconstruction": reconstructions,
        "sample": samples[PRIOR_CAPTION],
        "fitted_sample": samples.get(GAUSSIAN_CAPTION, faces[:0]),
        "interpolation": torch.stack([strip.movedim(0, 2).flatten(2) for strip in strips]),
    }
    listed = {
        f"faces/{kind}s": [
            (f"{number} {kind.replace('_', ' ')}", to_pil(image))
            for number, image in enumerate(shown[:FACES_LISTED])
        ]
        for kind, shown in singles.items()
        if len(shown)
    }
    return Figures({f"figures/{file.stem}": file for file in files}, listed)


def prior_latents(count: int, like: Tensor) -> Tensor:
    """Return latents from N(0, I), (count, latent_dim), equal in every call."""
    generator = torch.Generator().manual_seed(SAMPLE_SEED)
    return torch.randn(count, like.shape[1], generator=generator).to(like.device)


def gaussian_latents(count: int, aggregate: AggregatePosterior | None) -> Tensor | None:
    """Return latents from the Gaussian fitted to an aggregate posterior, equal in every call.

    Returns:
        (count, latent_dim) float32 on the CPU; None if no Gaussian can be fitted: there is no
        aggregate, it is of one image, or its covariance is numerically singular (a warning).
    """
    if aggregate is None or aggregate.means.count < 2:
        return None
    try:
        prior = gaussian_prior(aggregate)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        log.warning("no samples of a Gaussian fitted to the latents: %s", error)
        return None
    return prior.sample(count, torch.Generator().manual_seed(SAMPLE_SEED))
