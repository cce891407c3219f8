"""How far samples and reconstructions are from images, by the features of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vae.data.loader import evaluation_batches
from vae.evaluation.codes import batches
from vae.evaluation.features import Features
from vae.evaluation.frechet import frechet_distance
from vae.evaluation.kernel import KernelDistance
from vae.metrics import EVALUATION_BATCH
from vae.models.vae import VAE
from vae.moments import Gaussian

Images = Callable[[Tensor], Tensor]  # a batch of images -> as many that are compared with them
Latents = Callable[[int], Tensor]  # how many -> latents (n, latent_dim), the next of a stream


@dataclass(frozen=True)
class Distance:
    """How far images of a kind are from the reference."""

    frechet: float
    kernel: float  # about 0 for the same distribution, and may be a little below
    kernel_error: float | None  # standard error over blocks; None where there is one block
    pairwise: float  # mean distance between the features of an image and of its counterpart


def measure_distances(
    images: np.ndarray, features: Features, device: torch.device, kinds: Mapping[str, Images]
) -> dict[str, Distance]:
    """Distances of several kinds of images from the same reference, in one pass.

    No features are kept: of each kind a mean, a covariance and a block of the kernel.

    Args:
        images: the reference, (n, size, size, 3) uint8, n > features.dimensions.
        features: of which network.
        device: where the reference's batches go.
        kinds: what to compare; called with each of its batches in turn.
    """
    reference = Gaussian(features.dimensions)
    comparisons = {name: _Comparison(features.dimensions) for name in kinds}
    for batch in batches(images, device, f"distances ({features.name})"):
        real = features(batch)
        reference.update(real)
        for kind, make in kinds.items():
            with torch.inference_mode():
                made = make(batch)
            # In steps of 1/255, as the images that they are compared with.
            comparisons[kind].update(real, features((made * 255).round() / 255))
    return {kind: found.result(reference) for kind, found in comparisons.items()}


class _Comparison:
    def __init__(self, dimensions: int) -> None:
        self.made = Gaussian(dimensions)
        self.kernel = KernelDistance(dimensions)
        self.apart = 0.0

    def update(self, real: Tensor, made: Tensor) -> None:
        self.made.update(made)
        self.kernel.update(real, made)
        self.apart += (real - made).double().norm(dim=1).sum().item()

    def result(self, reference: Gaussian) -> Distance:
        kernel, error = self.kernel.result()
        frechet = frechet_distance(reference, self.made)
        return Distance(frechet, kernel, error, self.apart / self.made.count)


def reconstructions(model: VAE) -> Images:
    """Each image's reconstruction from its posterior's mean."""
    return lambda images: model.decode(model.encode(images).mode)


def decoded(model: VAE, latents: Latents) -> Images:
    """As many samples as there are images."""
    return lambda images: model.decode(latents(len(images)).to(images.device))


def others(images: np.ndarray, device: torch.device) -> Images:
    """Images of the same source: the floor under all distances, as nothing real is closer."""
    in_turn = evaluation_batches(images, EVALUATION_BATCH, device)
    return lambda _: next(in_turn)


def standard_normal(latent_dim: int, seed: int) -> Latents:
    """Samples of the prior N(0, I), one stream for a seed."""
    generator = torch.Generator().manual_seed(seed)
    return lambda count: torch.randn(count, latent_dim, generator=generator)


def choose(images: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`count` of the packed images, chosen at random, in their order."""
    rows = np.random.default_rng(seed).choice(len(images), count, replace=False)
    return images[np.sort(rows)] if count < len(images) else images
