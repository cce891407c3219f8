"""The loss: a reconstruction term averaged over pixels plus β times a KL divergence.

The default is, to the letter,

    BCE(x̂, x) + beta * (-1/2) * mean(1 + logvar - mean² - exp(logvar))

with the first mean over all pixel values and the second over batch and latents. These
means make what beta does depend on the sizes: with D = 3·H·W values an image and L
latents, multiplying the loss by D gives the ELBO's distortion in nats per image plus
`beta_elbo` times its rate in nats per image (Higgins et al. 2017's β), where

    beta_elbo = beta · D / L    for kl_reduction = "latents" (the default)
    beta_elbo = beta            for kl_reduction = "pixels"

so at constant `beta` a model with fewer latents is regularised more. Every run logs
`beta_elbo`, and "pixels" makes beta = 1 the exact ELBO whatever the sizes.

The distortion is chosen by `loss=` (vae/losses/likelihoods.py), what beta multiplies by
`loss/regularizer=` (vae/losses/regularizers.py), and how beta grows by `loss/schedule=`
(vae/losses/schedules.py): they combine freely, except where refused here. docs/losses.md
has them side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from omegaconf import MISSING
from torch import Tensor

from vae.losses.likelihoods import bce, gaussian, laplace, mse
from vae.losses.regularizers import CapacityConfig, RegularizerConfig, penalty
from vae.losses.schedules import ScheduleConfig, beta_multiplier
from vae.models.posterior import Posterior
from vae.utils.errors import UserError, require

KL_REDUCTIONS = ("latents", "pixels")
Gather = Callable[[Tensor], Tensor]  # the rows (n, ...) of one process to those of all


@dataclass
class LossConfig:
    """Settings that every loss has (`conf/loss/*.yaml` holds the values)."""

    name: str = MISSING  # the likelihood; set by the YAML, not by hand
    beta: float = MISSING  # weight of the KL term; a number >= 0
    kl_reduction: str = MISSING  # divisor of the summed KL: latents or pixels
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    regularizer: RegularizerConfig = field(default_factory=RegularizerConfig)

    def __post_init__(self) -> None:
        finite = 0 <= self.beta < float("inf")  # false for a NaN, too
        require(finite, "loss.beta", self.beta, "a number >= 0")
        known = self.kl_reduction in KL_REDUCTIONS
        require(known, "loss.kl_reduction", self.kl_reduction, "latents or pixels")
        held, grows = isinstance(self.regularizer, CapacityConfig), self.schedule.name
        if held and grows != "constant":
            raise UserError(
                f"loss/schedule={grows} does not go with loss/regularizer=capacity, where the "
                "capacity grows, not beta: leave one of them out."
            )


@dataclass
class BernoulliConfig(LossConfig):
    """`loss=bce`."""


@dataclass
class MSEConfig(LossConfig):
    """`loss=mse`: a Gaussian of fixed σ."""

    sigma: float = 0.5**0.5  # its σ; a number > 0; at √½ it is the plain squared error

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.sigma < float("inf"), "loss.sigma", self.sigma, "a number > 0")


@dataclass
class GaussianConfig(LossConfig):
    """`loss=gaussian`: σ-VAE, a Gaussian of optimal σ."""


@dataclass
class LaplaceConfig(LossConfig):
    """`loss=laplace`: of fixed scale."""

    scale: float = MISSING  # its b; a number > 0; at 1 it is the plain absolute error

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.scale < float("inf"), "loss.scale", self.scale, "a number > 0")


class LossTerms(NamedTuple):
    """The loss of a batch and its terms, scalars of float32."""

    loss: Tensor  # the minimised sum
    distortion: Tensor  # nats per image: -log p(x|z), up to the likelihood's constant
    rate: Tensor  # nats per image: KL(q(z|x) || p(z)), summed over the latents
    penalty: Tensor  # nats per image: what beta multiplies; the rate, unless chosen otherwise


def kl_divisor(config: LossConfig, values: int, latent_dim: int) -> int:
    """Return the divisor of the summed KL: the number of latents, or of pixel values."""
    return latent_dim if config.kl_reduction == "latents" else values


def beta_elbo(config: LossConfig, image_size: int, latent_dim: int) -> float:
    """Return β relative to the ELBO: weight of the rate against the distortion, in nats."""
    values = 3 * image_size**2
    return config.beta * values / kl_divisor(config, values, latent_dim)


def beta_at(config: LossConfig, epoch: float) -> float:
    """Return beta by its schedule at an epoch; at infinity its final value."""
    return config.beta * beta_multiplier(config.schedule, epoch)


def distortion_of(config: LossConfig, logits: Tensor, images: Tensor, gather: Gather) -> Tensor:
    """Return -log p(x|z) averaged over the values of this process's images, a scalar."""
    if isinstance(config, MSEConfig):
        return mse(logits, images, config.sigma)
    if isinstance(config, LaplaceConfig):
        return laplace(logits, images, config.scale)
    if isinstance(config, GaussianConfig):  # one σ for the whole batch
        errors = F.mse_loss(logits.sigmoid(), images, reduction="none").flatten(1).mean(1)
        return gaussian(gather(errors).mean())
    return bce(logits, images)


def loss_terms(
    config: LossConfig,
    logits: Tensor,
    images: Tensor,
    posterior: Posterior,
    latents: Tensor,
    *,
    epoch: float = float("inf"),
    training_images: int = 0,
    gather: Gather = lambda rows: rows,
) -> LossTerms:
    """Compute the loss of a batch.

    Args:
        config: likelihood, regulariser, beta, its schedule and reduction.
        logits: (batch, 3, size, size), decoded from the latents.
        images: the encoded images, (batch, 3, size, size) in [0, 1].
        posterior: of the same batch.
        latents: (batch, latent_dim), the sample of it.
        epoch: passes over the training images so far; infinity for the end of the run, where
            every schedule has come to its final value.
        training_images: how many there are; 0 where that is not known.
        gather: concatenates the rows of all ranks (`vae.utils.distributed.all_gather`), for
            the terms that are no mean over images; by default the batch is already whole.
    """
    values = math.prod(images.shape[1:])
    distortion = distortion_of(config, logits, images, gather)
    rate = posterior.kl().sum(dim=1).mean()
    divisor = kl_divisor(config, values, posterior.mean.shape[1])
    paid = rate
    if config.regularizer.name != "kl":
        together = torch.cat([posterior.mean, posterior.logvar, latents], dim=1)
        mean, logvar, latents = gather(together).chunk(3, dim=1)
        whole = Posterior(mean, logvar)
        paid = penalty(config.regularizer, whole, latents, epoch, training_images)
    beta = beta_at(config, epoch)
    return LossTerms(distortion + beta * paid / divisor, distortion * values, rate, paid)
