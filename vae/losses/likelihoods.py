"""Likelihoods: -log p(x|z) of four families, averaged over the values.

Each takes logits and images, (batch, 3, size, size), images in [0, 1], and gives a scalar:
times the number of values in an image it is the distortion in nats per image. The constants
that a family's density has are left out where they do not depend on the model, as they are
by everybody else: a fixed σ has no say in `½ log 2πσ²`. So distortions of different families
do not compare; `val/distortion` and `val/bpd` do, which are of one family for all runs.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# The variance that rounding to k/255 has: no model knows a pixel better than its pixels do.
LEAST_VARIANCE = 1 / (12 * 255**2)


def bce(logits: Tensor, images: Tensor) -> Tensor:
    """Return the binary cross-entropy of sigmoid(logits) and images.

    From the logits, so that a saturated pixel costs no precision. On pixels that are
    neither 0 nor 1 it is no normalised likelihood and its floor is the images' own
    entropy, not 0: compare runs by `val/bpd`, never by this.
    """
    return F.binary_cross_entropy_with_logits(logits, images)


def mse(logits: Tensor, images: Tensor, sigma: float) -> Tensor:
    """Return squared error / 2σ²: a Gaussian of fixed σ around sigmoid(logits).

    At σ = √½ it is the plain squared error.
    """
    return F.mse_loss(logits.sigmoid(), images) / (2 * sigma**2)


def gaussian(squared_error: Tensor) -> Tensor:
    """Return the loss of a Gaussian with the optimal σ² of the batch, its mean squared error.

    ½ (log 2πσ² + 1), the σ-VAE (Rybkin et al. 2021, eq. 8), whose gradient is that of the
    squared error / 2σ² at that σ. With beta = 1 over pixels it needs no weight to be set.

    Args:
        squared_error: mean over all values of the whole batch.
    """
    variance = squared_error.clamp(min=LEAST_VARIANCE)
    return 0.5 * (torch.log(2 * math.pi * variance) + 1)


def laplace(logits: Tensor, images: Tensor, scale: float) -> Tensor:
    """Return absolute error / b: a Laplace distribution of scale b around sigmoid(logits)."""
    return F.l1_loss(logits.sigmoid(), images) / scale
