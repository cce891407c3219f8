"""A face with one latent moved at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from vae import figures
from vae.errors import require
from vae.evaluation.aggregate import AggregatePosterior
from vae.evaluation.codes import posteriors
from vae.gallery import decode_strips
from vae.metrics import ACTIVE
from vae.photographs import file_stems, load_faces
from vae.saved import SavedRun

SEEN = 2000  # images of the split that the latents' order and ranges are measured on
REACH = 3.0  # standard deviations of the aggregate posterior, either side of its mean
STEPS = 9
FRAMES = 24  # of the animation, one way


@dataclass(frozen=True)
class Traversed:
    """What `traverse` made."""

    latents: list[int]  # by their KL, the largest first
    kl: list[float]  # of each, nats an image
    active: list[bool]  # whether its mean varies by more than ACTIVE
    files: list[Path]  # a PNG and a GIF


@torch.inference_mode()
def traverse(
    run: SavedRun,
    face: str = "0",
    count: int = 8,
    steps: int = STEPS,
    split: str = "val",
    crop: str = "auto",
    folder: Path | None = None,
) -> Traversed:
    """Move the `count` latents of most KL, each over the range of its aggregate posterior.

    Args:
        run: its model's device is where they are decoded.
        face: a file, or the number of a face of the split: the rest of its latents stay.
        count: how many latents, >= 1; at most all of them.
        steps: faces of a row, >= 2.
        split, crop: as `load_faces`; order and ranges are measured on SEEN images of the split.
        folder: figures/traverse_FACE.png and .gif go below it; the run's if None. The
            columns are labelled in standard deviations.

    Raises:
        UserError: as `load_faces`; a number is out of range; the split has one image alone.
    """
    require(count >= 1, "--latents", count, "an int >= 1")
    require(2 <= steps <= 100, "--steps", steps, "an int from 2 to 100")
    original, (label,) = load_faces([face], run, split, crop)
    kl, aggregate = _measure(run, split)
    latents = kl.argsort(descending=True, stable=True)[:count].tolist()
    base = run.model.encode(original.to(run.device)).mode[0]

    def strips(steps: int) -> Tensor:  # (latents, steps, latent_dim)
        return torch.stack([moved(base, latent, aggregate, steps) for latent in latents])

    def decoded(steps: int) -> Tensor:  # (latents, steps, 3, size, size)
        return torch.cat([decode_strips(run.model, strip[None]).cpu() for strip in strips(steps)])

    def frames() -> Iterator[Tensor]:  # one at a time, as there may be many latents
        for latents in tqdm(strips(FRAMES).transpose(0, 1), desc="animating", disable=None):
            yield run.model.decode(latents).cpu()

    spread = aggregate.means.covariance.diagonal()
    active = [bool(spread[latent] > ACTIVE) for latent in latents]
    rows = [
        f"z{latent}: {kl[latent]:.1f} nats{'' if is_active else ', inactive'}"
        for latent, is_active in zip(latents, active, strict=True)
    ]
    places = torch.linspace(-REACH, REACH, steps).tolist()
    (stem,) = file_stems([label])
    path = (folder or run.folder) / "figures" / f"traverse_{stem}.png"
    columns = [f"{place:+.3g}sd" if place else "mean" for place in places]
    sheet = figures.table(decoded(steps), path, columns=columns, rows=rows)
    names = [f"z{latent}" for latent in latents]
    animated = figures.animation(frames(), path.with_suffix(".gif"), labels=names)
    return Traversed(latents, kl[latents].tolist(), active, [sheet, animated])


def moved(base: Tensor, latent: int, aggregate: AggregatePosterior, steps: int) -> Tensor:
    """Latents `base` (latent_dim,) with one of them moved over REACH: (steps, latent_dim)."""
    centre, spread = aggregate.mean[latent], aggregate.covariance[latent, latent].sqrt()
    strip = base.repeat(steps, 1)
    strip[:, latent] = (centre + spread * torch.linspace(-REACH, REACH, steps)).to(strip)
    return strip


def _measure(run: SavedRun, split: str) -> tuple[Tensor, AggregatePosterior]:
    """KL of each latent in nats, (latent_dim,), and the aggregate posterior, over some images."""
    images = run.data.images[split][:SEEN]
    takes = "one with two images or more, as spreads are measured on it"
    require(len(images) > 1, "--split", split, takes)
    kl = torch.zeros(run.model.latent_dim, dtype=torch.float64)
    aggregate = AggregatePosterior(run.model.latent_dim)
    for posterior in posteriors(run.model, images, f"encoding {split}"):
        kl += posterior.kl().cpu().double().sum(0)
        aggregate.update(posterior)
    return kl / len(images), aggregate
