"""Reconstruction terms: -log p(x|z) of four families, or MS-SSIM; averaged over the values.

Each takes logits and images, (batch, 3, size, size), images in [0, 1], and returns a scalar:
times the number of values in an image it is the distortion in nats per image. Constants that do
not depend on the model, such as ½ log 2πσ² of a fixed σ, are left out, as is usual. So distortions
of different families do not compare; `val/distortion` and `val/bpd`, of one family, do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from omegaconf import MISSING
from torch import Tensor

from vae.losses.base import Gather, LossConfig
from vae.losses.ssim import ms_ssim
from vae.utils.errors import require_ranges
from vae.utils.registry import register

# The variance of rounding to k/255: a lower bound for any model.
LEAST_VARIANCE = 1 / (12 * 255**2)


@register("loss", "bce")
@dataclass
class BernoulliConfig(LossConfig):
    """`loss=bce`: binary cross-entropy of sigmoid(logits) and images.

    From the logits, so that a saturated pixel costs no precision. On pixels that are
    neither 0 nor 1 it is no normalised likelihood and its floor is the images' own
    entropy, not 0: compare runs by `val/bpd`, never by this.
    """

    def distortion(self, logits: Tensor, images: Tensor, gather: Gather) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, images)


@register("loss", "mse")
@dataclass
class MSEConfig(LossConfig):
    """`loss=mse`: squared error / 2σ², a Gaussian of fixed σ around sigmoid(logits)."""

    sigma: float = 0.5**0.5  # its σ; from 1e-6 to 1e6; at √½ it is the plain squared error

    def __post_init__(self) -> None:
        super().__post_init__()
        require_ranges("loss", self, sigma=(1e-6, 1e6))

    def distortion(self, logits: Tensor, images: Tensor, gather: Gather) -> Tensor:
        return F.mse_loss(logits.sigmoid(), images) / (2 * self.sigma**2)


@register("loss", "gaussian")
@dataclass
class GaussianConfig(LossConfig):
    """`loss=gaussian`: σ-VAE, a Gaussian with the σ² that is optimal for the batch.

    ½ (log 2πσ² + 1) with σ² the mean squared error of the whole batch (Rybkin et al. 2021,
    eq. 8); its gradient is that of the squared error / 2σ² at that σ. With beta = 1 over pixels
    it needs no weight to be set.
    """

    def distortion(self, logits: Tensor, images: Tensor, gather: Gather) -> Tensor:
        errors = F.mse_loss(logits.sigmoid(), images, reduction="none").flatten(1).mean(1)
        variance = gather(errors).mean().clamp(min=LEAST_VARIANCE)
        return 0.5 * (torch.log(2 * math.pi * variance) + 1)


@register("loss", "laplace")
@dataclass
class LaplaceConfig(LossConfig):
    """`loss=laplace`: absolute error / b, a Laplace distribution around sigmoid(logits)."""

    scale: float = MISSING  # its b; from 1e-6 to 1e6; at 1 it is the plain absolute error

    def __post_init__(self) -> None:
        super().__post_init__()
        require_ranges("loss", self, scale=(1e-6, 1e6))

    def distortion(self, logits: Tensor, images: Tensor, gather: Gather) -> Tensor:
        return F.l1_loss(logits.sigmoid(), images) / self.scale


@register("loss", "ms_ssim")
@dataclass
class MSSSIMConfig(LossConfig):
    """`loss=ms_ssim`: alpha · (1 - MS-SSIM) + (1 - alpha) · absolute error (Zhao et al. 2017).

    Their mixture, but for the Gaussian window that they weigh the absolute error by. It is the
    -log likelihood of no family: its beta compares with no other loss's.
    """

    alpha: float = MISSING  # share of MS-SSIM; the rest is that of the absolute error; 0 to 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_ranges("loss", self, alpha=(0, 1))

    def distortion(self, logits: Tensor, images: Tensor, gather: Gather) -> Tensor:
        reconstructions = logits.sigmoid()
        dissimilarity = 1 - ms_ssim(images, reconstructions).mean()
        return torch.lerp(F.l1_loss(reconstructions, images), dissimilarity, self.alpha)
