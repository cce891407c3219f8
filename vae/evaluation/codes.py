"""A split as the encoder sees it: its codes and the aggregate posterior."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vae.data.loader import evaluation_batches
from vae.evaluation.aggregate import AggregatePosterior
from vae.metrics import EVALUATION_BATCH
from vae.models.posterior import Posterior
from vae.models.vae import VAE


@dataclass(frozen=True)
class Codes:
    """What the encoder makes of a split's images."""

    means: np.ndarray  # (n, latent_dim) float32, of the split's first images
    aggregate: AggregatePosterior  # of all images


def batches(images: np.ndarray, device: torch.device, doing: str) -> Iterator[Tensor]:
    """All packed images (count, size, size, 3) once, in order, with a progress bar.

    Args:
        doing: what the bar says, "encoding train".

    Yields:
        (<= EVALUATION_BATCH, 3, size, size) in [0, 1] on the device.
    """
    with tqdm(total=len(images), desc=doing, unit=" images", disable=None) as bar:
        for batch in evaluation_batches(images, EVALUATION_BATCH, device):
            yield batch
            bar.update(len(batch))


@torch.inference_mode()
def posteriors(model: VAE, images: np.ndarray, doing: str) -> Iterator[Posterior]:
    """The posteriors of packed images (count, size, size, 3), in order, a batch at a time.

    Args:
        model: in evaluation mode; its device is where they are encoded.
        doing: as `batches`.
    """
    for batch in batches(images, next(model.parameters()).device, doing):
        yield model.encode(batch)


def encode_split(model: VAE, images: np.ndarray, most: int, name: str) -> Codes:
    """Encode packed images (count, size, size, 3) in one pass, in batches.

    Args:
        model: in evaluation mode; its device is where they are encoded.
        most: posterior means that are kept, so that memory does not grow with the split.
        name: of the split, for the progress bar.
    """
    aggregate = AggregatePosterior(model.latent_dim)
    means: list[np.ndarray] = []
    room = most
    for posterior in posteriors(model, images, f"encoding {name}"):
        aggregate.update(posterior)
        if room > 0:
            means.append(posterior.mode[:room].cpu().numpy())
            room -= len(means[-1])
    return Codes(np.concatenate(means), aggregate)
