"""The likelihood of 8-bit images under a Gaussian that is discretized to the 256 levels.

A pixel has a level k of 256. The levels lie 1 apart, and so do all distances here: the decoder's
value y in [0, 1] is 255 y levels, and σ = 1 is one level. The probability of a level is the
Gaussian's integral over [k - ½, k + ½]; level 0 also has the tail below, level 255 the tail above,
as in Salimans et al. (2017), section 2.1. So the probabilities sum to 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from vae.models.base import VAE

LEVELS = 255  # from 0 to this one
BINS_PER_LEVEL = 64  # of the histogram of distances
SIGMAS = (1 / 64, 1e4)  # in levels: the search lies between them
PRECISION = 1e-6  # of log σ


def level_log_probability(distance: Tensor, is_end: Tensor, sigma: float) -> Tensor:
    """Return log P(k) of levels k under a discretized Gaussian, finite also far in its tails.

    Args:
        distance: |k - 255 y| for the decoder's value y, in levels.
        is_end: whether k is 0 or 255; broadcasts with `distance`.
        sigma: in levels, > 0.

    Returns:
        float64, in the broadcast shape.
    """
    # P is Φ((½ - d) / σ) - Φ((-½ - d) / σ), and the first Φ alone at an end. From their logs it
    # keeps its digits where both underflow.
    near, far = (torch.special.log_ndtr((h - distance.double()) / sigma) for h in (0.5, -0.5))
    inner = near + torch.log(-torch.expm1(far - near))
    return torch.where(is_end, near, inner)


@torch.inference_mode()
def distance_histogram(model: VAE, batches: Iterable[Tensor], seed: int) -> tuple[Tensor, int]:
    """Count the pixel values by their distance from the decoder's value.

    Args:
        model: in evaluation mode.
        batches: (batch, 3, size, size) in [0, 1], multiples of 1/255.
        seed: of the posteriors' noise. In the same batches it is that of `evaluate_split`.

    Returns:
        The numbers of values, (2, bins) int64, and the number of images. Row 0 is of the inner
        levels, row 1 of the levels 0 and 255; bin b is of the distances nearest to
        b / BINS_PER_LEVEL.
    """
    bins = LEVELS * BINS_PER_LEVEL + 1
    counts = torch.zeros(2 * bins, dtype=torch.int64)
    generator = torch.Generator().manual_seed(seed)
    images = 0
    for batch in batches:
        noise = torch.randn(len(batch), model.latent_dim, generator=generator)
        decoded = model.decode(model.encode(batch).rsample(noise.to(batch.device)))
        bin_of = ((batch - decoded).abs() * (LEVELS * BINS_PER_LEVEL)).round().long()
        is_end = (batch == 0) | (batch == 1)
        counts += torch.bincount((bin_of + bins * is_end).flatten().cpu(), minlength=2 * bins)
        images += len(batch)
    return counts.view(2, bins), images


def discretized_distortion(
    model: VAE, batches: Iterable[Tensor], seed: int = 0
) -> tuple[float, float]:
    """Return -log P(x|z) in nats per image, z from the posterior, and the σ that minimises it.

    Args:
        model, batches, seed: as for `distance_histogram`.

    Returns:
        The distortion, >= 0, with one σ for all images; σ as a part of the range [0, 1].
    """
    from scipy.optimize import minimize_scalar

    counts, images = distance_histogram(model, batches, seed)
    distances = torch.arange(counts.shape[1]) / BINS_PER_LEVEL
    is_end = torch.tensor([[False], [True]])

    def nats(log_sigma: float) -> float:
        log_p = level_log_probability(distances, is_end, math.exp(log_sigma))
        return -(counts * log_p).sum().item() / images

    # One optimum: log P is concave in 1/σ, as the integral of a log-concave function (Prékopa
    # 1973).
    bounds = tuple(map(math.log, SIGMAS))
    best = minimize_scalar(nats, bounds=bounds, method="bounded", options={"xatol": PRECISION})
    return float(best.fun), math.exp(best.x) / LEVELS
