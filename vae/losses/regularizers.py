"""Regularizers: the term that β multiplies, in nats per image.

Each choice is a function of the posteriors of a batch. A penalty that is no mean over images is
computed on the batch of all processes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from omegaconf import MISSING
from torch import Tensor

from vae.models.posterior import Posterior
from vae.utils.errors import require, require_ranges
from vae.utils.registry import register

ESTIMATORS = ("weighted", "stratified")
# Bandwidths of the kernel, as shares of the squared distance of two latents from the prior.
BANDWIDTHS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


@register("loss/regularizer", "kl")
@dataclass
class RegularizerConfig:
    """`loss/regularizer=kl`: KL(q(z|x) || p(z)) as it is (Higgins et al. 2017).

    The base of every regularizer.
    """

    name: str = "kl"  # the name it is registered by

    needs_whole_batch: ClassVar[bool] = False  # True for a penalty that is no mean over images
    grows: ClassVar[bool] = False  # whether it changes with the epoch, so that β must not

    def penalty(
        self, posterior: Posterior, latents: Tensor, epoch: float, training_images: int
    ) -> Tensor:
        """Return the term that β multiplies, a scalar in nats per image.

        Args:
            posterior: of the batch; where `needs_whole_batch`, of the batch of all processes.
            latents: (batch, latent_dim), a sample of it.
            epoch: passes over the training images so far; infinity for the end of the run.
            training_images: how many there are; 0 where that is not known.
        """
        return posterior.kl().sum(dim=1).mean()


@register("loss/regularizer", "free_bits")
@dataclass
class FreeBitsConfig(RegularizerConfig):
    """`loss/regularizer=free_bits`: the first nats of each latent are free (Kingma et al. 2016).

    Σ_j max(nats, KL_j), with KL_j a mean over the batch: eq. 15, each latent a group of its own.
    """

    nats: float = MISSING  # λ, free of charge, of each latent; a number from 0 to 1e9

    needs_whole_batch: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_ranges("loss.regularizer", self, nats=(0, 1e9))

    def penalty(
        self, posterior: Posterior, latents: Tensor, epoch: float, training_images: int
    ) -> Tensor:
        return posterior.kl().mean(0).clamp(min=self.nats).sum()


@register("loss/regularizer", "capacity")
@dataclass
class CapacityConfig(RegularizerConfig):
    """`loss/regularizer=capacity`: the KL is held at a value that grows (Burgess et al. 2018)."""

    nats: float = MISSING  # of an image, at the end; a number from 0 to 1e9
    epochs: float = MISSING  # in which it grows to there from 0; a number from 0 to 1e9

    needs_whole_batch: ClassVar[bool] = True
    grows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_ranges("loss.regularizer", self, nats=(0, 1e9), epochs=(0, 1e9))

    def penalty(
        self, posterior: Posterior, latents: Tensor, epoch: float, training_images: int
    ) -> Tensor:
        grown = min(1.0, epoch / self.epochs) if self.epochs else 1.0
        return (_rate(posterior) - self.nats * grown).abs()


@register("loss/regularizer", "tc")
@dataclass
class TotalCorrelationConfig(RegularizerConfig):
    """`loss/regularizer=tc`: dependence between latents costs more (Chen et al. 2018).

    Their MI + weight · TC + dimension-wise KL, whose sum at weight 1 is known without any
    estimate: the KL.
    """

    weight: float = MISSING  # of the total correlation; 1 is the plain KL; a number from 0 to 1e9
    estimator: str = MISSING  # of q(z) from a batch: weighted or stratified

    needs_whole_batch: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_ranges("loss.regularizer", self, weight=(0, 1e9))
        known = self.estimator in ESTIMATORS
        require(known, "loss.regularizer.estimator", self.estimator, " or ".join(ESTIMATORS))

    def penalty(
        self, posterior: Posterior, latents: Tensor, epoch: float, training_images: int
    ) -> Tensor:
        rate = _rate(posterior)
        stratified = self.estimator == "stratified"
        correlation = total_correlation(posterior, latents, training_images, stratified)
        return rate + (self.weight - 1) * correlation


@register("loss/regularizer", "dip_i")
@dataclass
class DIPConfig(RegularizerConfig):
    """`loss/regularizer=dip_i`: DIP-VAE-I, uncorrelated posterior means (Kumar et al. 2018).

    KL + off_diagonal · Σ_{i≠j} C_ij² + diagonal · Σ_i (C_ii - 1)², with C the covariance of the
    posterior means over the batch. Since β multiplies all of it, the weights λ of the paper are
    β relative to the ELBO (`beta_elbo`) times these.
    """

    off_diagonal: float = MISSING  # weight of covariances; a number from 0 to 1e9
    diagonal: float = MISSING  # weight of variances that are not 1; a number from 0 to 1e9

    needs_whole_batch: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_ranges("loss.regularizer", self, off_diagonal=(0, 1e9), diagonal=(0, 1e9))

    def penalty(
        self, posterior: Posterior, latents: Tensor, epoch: float, training_images: int
    ) -> Tensor:
        covariance = self.covariance(posterior)
        variances = covariance.diagonal()
        off_diagonal = covariance.square().sum() - variances.square().sum()
        diagonal = (variances - 1).square().sum()
        return _rate(posterior) + self.off_diagonal * off_diagonal + self.diagonal * diagonal

    def covariance(self, posterior: Posterior) -> Tensor:
        """Return the covariance that is to be the identity, (latent_dim, latent_dim)."""
        centred = posterior.mean - posterior.mean.mean(0)
        return centred.T @ centred / len(centred)


@register("loss/regularizer", "dip_ii")
@dataclass
class DIPIIConfig(DIPConfig):
    """`loss/regularizer=dip_ii`: DIP-VAE-II, uncorrelated latents (Kumar et al. 2018).

    As DIP-VAE-I, but C is the covariance of q(z), the mean posterior of the batch: that of the
    means plus the mean variance.
    """

    def covariance(self, posterior: Posterior) -> Tensor:
        return super().covariance(posterior) + posterior.logvar.exp().mean(0).diag()


@register("loss/regularizer", "mmd")
@dataclass
class MMDConfig(RegularizerConfig):
    """`loss/regularizer=mmd`: all latents together are to be as the prior (Zhao et al. 2017)."""

    alpha: float = MISSING  # 1 - alpha is the weight of the KL; from -1e9 to 1
    weight: float = MISSING  # alpha + weight - 1 is that of the discrepancy; a number from 0 to 1e9

    needs_whole_batch: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_ranges("loss.regularizer", self, alpha=(-1e9, 1), weight=(0, 1e9))
        fits = self.alpha + self.weight >= 1
        require(fits, "loss.regularizer.weight", self.weight, "a number >= 1 - alpha")

    def penalty(
        self, posterior: Posterior, latents: Tensor, epoch: float, training_images: int
    ) -> Tensor:
        discrepancy = prior_discrepancy(latents)
        rate = _rate(posterior)
        return (1 - self.alpha) * rate + (self.alpha + self.weight - 1) * discrepancy


def _rate(posterior: Posterior) -> Tensor:
    """Return the KL of an image, the sum over the latents of their means over the batch."""
    return posterior.kl().mean(0).sum()


def total_correlation(
    posterior: Posterior, latents: Tensor, training_images: int, stratified: bool
) -> Tensor:
    """Return KL(q(z) || Π q(z_j)) in nats, with q(z) the mean posterior of the training set.

    Estimated from the batch (Chen et al. 2018, appendix C), log q(z_i) for each i by the
    log of Σ_j w_ij q(z_i|x_j), with weights of `batch_weights`. Neither is unbiased. With L
    latents in a batch of B the weighted one is too high, by (L - 1) · log N where posteriors
    overlap in all latents together, and by L · log N - log B where they overlap in each latent
    alone, but in all together each image's own dominates. The stratified one
    estimates q(z) without bias, its log with a little (docs/losses.md has figures of both).
    And q(z) is that of a finite number of images: where latents are many, it is a sum of
    spikes, of a large total correlation even if they are independent.

    Args:
        posterior: of the whole batch, (batch, latent_dim).
        latents: a sample of it.
        training_images: N; the batch's, where that is more.
        stratified: which weights.
    """
    mean, logvar = posterior.mean, posterior.logvar
    # log q(z_ik | x_j) of sample i, image j, latent k: (batch, batch, latent_dim)
    errors = (latents.unsqueeze(1) - mean) * torch.exp(-0.5 * logvar)
    log_q = -0.5 * (errors.square() + logvar + math.log(2 * math.pi))
    images = max(training_images, len(latents))
    log_weights = batch_weights(len(latents), images, stratified, latents.device).log()
    together = torch.logsumexp(log_q.sum(2) + log_weights, dim=1)
    alone = torch.logsumexp(log_q + log_weights.unsqueeze(2), dim=1).sum(1)
    return (together - alone).mean()


def batch_weights(
    batch: int, images: int, stratified: bool, device: torch.device | None = None
) -> Tensor:
    """Return the weight of q(z_i|x_j) in the estimate of q(z_i), (batch, batch).

    Args:
        batch: B, of the images.
        images: N >= B.
        stratified: 1/N for the image's own, (N-1) / (N·(B-1)) for each other: unbiased. It is
            the paper's estimator averaged over which of the others it singles out. False:
            1 / (B·N) for all, the paper's minibatch-weighted one, whose rows add up to 1/N.
        device: where to make them; None: the CPU.
    """
    if not stratified or batch == 1:
        return torch.full((batch, batch), 1 / (batch * images), device=device)
    others = (images - 1) / (images * (batch - 1))
    weights = torch.full((batch, batch), others, device=device)
    return weights.fill_diagonal_(1 / images)


def prior_discrepancy(latents: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy of latents and N(0, I) (Gretton et al. 2012).

    E k(z, z') - 2 E k(z, p) + E k(p, p') with p from the prior and a sum of Gaussian kernels
    exp(-|a - b|² / 2s²), s² in BANDWIDTHS · latent_dim. The first term is over pairs of
    different samples (unbiased: it may come out below 0); the two with the prior are
    integrated exactly, so no noise of the prior's samples is in it.

    Args:
        latents: (batch, latent_dim), samples of q(z). A single one gives 0.
    """
    count, size = latents.shape
    if count < 2:
        return latents.sum() * 0.0
    distances = (latents.unsqueeze(1) - latents).square().sum(2)
    norms = latents.square().sum(1)
    total = torch.zeros((), device=latents.device)
    for share in BANDWIDTHS:
        square = share * size
        kernel = torch.exp(-distances / (2 * square))
        pairs = (kernel.sum() - count) / (count * (count - 1))
        to_prior = torch.exp(-norms / (2 * (square + 1))).mean()
        to_prior = to_prior * (square / (square + 1)) ** (size / 2)
        total = total + pairs - 2 * to_prior + (square / (square + 2)) ** (size / 2)
    return total
