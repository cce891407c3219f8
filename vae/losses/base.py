"""The loss: settings that every likelihood has, and the sum of distortion and penalty."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from omegaconf import MISSING
from torch import Tensor

from vae.losses.perceptual import PerceptualConfig
from vae.losses.regularizers import RegularizerConfig
from vae.losses.schedules import ScheduleConfig
from vae.models.posterior import Posterior
from vae.utils.errors import UserError, require, require_ranges

KL_REDUCTIONS = ("latents", "pixels")
Gather = Callable[[Tensor], Tensor]  # the rows (n, ...) of one process to those of all


@dataclass
class LossConfig:
    """Settings that every loss has (`conf/loss/*.yaml` holds the values).

    A loss is a subclass with the method `distortion`, registered by its name.
    """

    name: str = MISSING  # the name it is registered by; loss=NAME fills it in
    beta: float = MISSING  # weight of the KL term; a number from 0 to 1e9
    kl_reduction: str = MISSING  # divisor of the summed KL: latents or pixels
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    regularizer: RegularizerConfig = field(default_factory=RegularizerConfig)
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)

    def __post_init__(self) -> None:
        require_ranges("loss", self, beta=(0, 1e9))
        known = self.kl_reduction in KL_REDUCTIONS
        require(known, "loss.kl_reduction", self.kl_reduction, "latents or pixels")
        regularizer, schedule = self.regularizer, self.schedule.name
        if regularizer.grows and schedule != "constant":
            raise UserError(
                f"loss/schedule={schedule} does not go with loss/regularizer={regularizer.name}, "
                "which grows in place of beta: leave one of them out."
            )

    def distortion(self, logits: Tensor, images: Tensor, gather: Gather) -> Tensor:
        """Return -log p(x|z) averaged over the values of this process's images, a scalar.

        Args:
            logits: (batch, 3, size, size), decoded.
            images: (batch, 3, size, size) in [0, 1].
            gather: as for `loss_terms`.
        """
        raise TypeError(f"{type(self).__name__} has no method `distortion`")


class LossTerms(NamedTuple):
    """The loss of a batch and its terms, scalars of float32."""

    loss: Tensor  # the minimised sum
    distortion: Tensor  # nats per image: -log p(x|z), up to the likelihood's constant (of
    # loss=ms_ssim, which is no likelihood, the same multiple of the mean over values)
    rate: Tensor  # nats per image: KL(q(z|x) || p(z)), summed over the latents
    penalty: Tensor  # nats per image: what beta multiplies; the rate, unless chosen otherwise
    perceptual: Tensor | None  # weighted, as it is added to the loss; None without such a term


def kl_divisor(config: LossConfig, values: int, latent_dim: int) -> int:
    """Return the divisor of the summed KL: the number of latents, or of pixel values."""
    return latent_dim if config.kl_reduction == "latents" else values


def beta_elbo(config: LossConfig, image_size: int, latent_dim: int) -> float:
    """Return β relative to the ELBO: weight of the rate against the distortion, in nats.

    At 1 the loss is the ELBO if the distortion is that of a likelihood, without a perceptual term.
    """
    values = 3 * image_size**2
    return config.beta * values / kl_divisor(config, values, latent_dim)


def beta_at(config: LossConfig, epoch: float) -> float:
    """Return beta by its schedule at an epoch; at infinity its final value."""
    return config.beta * config.schedule.multiplier(epoch)


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
    autocast: torch.autocast | None = None,
) -> LossTerms:
    """Compute the loss of a batch.

    Args:
        config: likelihood, regularizer, perceptual term, beta, its schedule and reduction.
        logits: (batch, 3, size, size), decoded from the latents.
        images: the encoded images, (batch, 3, size, size) in [0, 1].
        posterior: of the same batch.
        latents: (batch, latent_dim), the sample of it.
        epoch: passes over the training images so far; infinity for the end of the run, where
            every schedule has come to its final value.
        training_images: how many there are; 0 where that is not known.
        gather: concatenates the rows of all ranks (`vae.utils.distributed.all_gather`), for
            the terms that are not a mean over images; by default the batch is already whole.
        autocast: the precision of a perceptual term's network; float32 if None.
    """
    values = math.prod(images.shape[1:])
    per_value = config.distortion(logits, images, gather)
    rate = posterior.kl().sum(dim=1).mean()
    divisor = kl_divisor(config, values, posterior.mean.shape[1])
    whole = posterior
    if config.regularizer.needs_whole_batch:
        together = torch.cat([posterior.mean, posterior.logvar, latents], dim=1)
        mean, logvar, latents = gather(together).chunk(3, dim=1)
        whole = Posterior(mean, logvar)
    penalty = config.regularizer.penalty(whole, latents, epoch, training_images)
    beta = beta_at(config, epoch)
    loss = per_value + beta * penalty / divisor
    perceptual = config.perceptual.term(logits, images, autocast)
    if perceptual is not None:
        loss = loss + perceptual
    return LossTerms(loss, per_value * values, rate, penalty, perceptual)
