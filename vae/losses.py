"""What is minimised: a distortion, averaged over the pixels, and β times a KL divergence.

The default is, to the letter,

    BCE(x̂, x) + beta * (-1/2) * mean(1 + logvar - mean² - exp(logvar))

with the first mean over all pixel values and the second over batch and latents. These
means make what beta does depend on the sizes: with D = 3·H·W values an image and L
latents, multiplying the loss by D gives the ELBO's distortion in nats an image plus
`beta_elbo` times its rate in nats an image (Higgins et al. 2017's β), where

    beta_elbo = beta · D / L    for kl_reduction = "latents" (the default)
    beta_elbo = beta            for kl_reduction = "pixels"

so at constant `beta` a model with fewer latents is regularised more. Every run logs
`beta_elbo`, and "pixels" makes beta = 1 the exact ELBO whatever the sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch.nn.functional as F
from omegaconf import MISSING
from torch import Tensor

from vae.errors import require
from vae.models.posterior import Posterior

KL_REDUCTIONS = ("latents", "pixels")


@dataclass
class LossConfig:
    """Settings of a loss (`conf/loss/*.yaml` holds the values)."""

    name: str = MISSING  # the distortion: bce or mse; set by the YAML, not by hand
    beta: float = MISSING  # weight of the KL term; a number >= 0
    kl_reduction: str = MISSING  # what the KL summed over latents is divided by: latents or pixels

    def __post_init__(self) -> None:
        require(
            self.name in DISTORTIONS, "loss.name", self.name, f"one of {', '.join(DISTORTIONS)}"
        )
        finite = 0 <= self.beta < float("inf")  # false for a NaN, too
        require(finite, "loss.beta", self.beta, "a number >= 0")
        known = self.kl_reduction in KL_REDUCTIONS
        require(known, "loss.kl_reduction", self.kl_reduction, "latents or pixels")


class LossTerms(NamedTuple):
    """A batch's loss and the two terms that it trades, all scalars of float32."""

    loss: Tensor  # what is minimised
    distortion: Tensor  # nats an image: -log p(x|z), up to the likelihood's constant
    rate: Tensor  # nats an image: KL(q(z|x) || p(z)), summed over the latents


def bce(logits: Tensor, images: Tensor) -> Tensor:
    """Binary cross-entropy of sigmoid(logits) and images in [0, 1], averaged over values.

    From the logits, so that a saturated pixel costs no precision. On pixels that are
    neither 0 nor 1 it is no normalised likelihood and its floor is the images' own
    entropy, not 0: compare runs by `val/bpd`, never by this.
    """
    return F.binary_cross_entropy_with_logits(logits, images)


def mse(logits: Tensor, images: Tensor) -> Tensor:
    """Squared error of sigmoid(logits) and images in [0, 1], averaged over values.

    Summed over the values it is -log p(x|z) of a Gaussian with variance 1/2, up to a
    constant: so `beta_elbo` is the same function of beta as for `bce`.
    """
    return F.mse_loss(logits.sigmoid(), images)


DISTORTIONS = {"bce": bce, "mse": mse}


def kl_divisor(config: LossConfig, values: int, latent_dim: int) -> int:
    """What the summed KL is divided by: the number of latents, or of pixel values."""
    return latent_dim if config.kl_reduction == "latents" else values


def beta_elbo(config: LossConfig, image_size: int, latent_dim: int) -> float:
    """The weight of the rate in nats against the distortion in nats; 1 is the ELBO."""
    values = 3 * image_size**2
    return config.beta * values / kl_divisor(config, values, latent_dim)


def loss_terms(
    config: LossConfig, logits: Tensor, images: Tensor, posterior: Posterior
) -> LossTerms:
    """The loss of a batch.

    Args:
        config: which distortion, beta and its reduction.
        logits: (batch, 3, size, size), decoded from a sample of the posterior.
        images: (batch, 3, size, size) in [0, 1], what was encoded.
        posterior: of the same batch.
    """
    values = images[0].numel()
    distortion = DISTORTIONS[config.name](logits, images)
    rate = posterior.kl().sum(dim=1).mean()
    divisor = kl_divisor(config, values, posterior.mean.shape[1])
    loss = distortion + config.beta * rate / divisor
    return LossTerms(loss, distortion * values, rate)
