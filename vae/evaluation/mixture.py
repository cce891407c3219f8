"""Gaussians and mixtures of Gaussians, fitted to the aggregate posterior."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from vae.evaluation.latents import AggregatePosterior, aggregate_posterior
from vae.models import Posterior

COMPONENTS = 10  # as in Ghosh et al. 2020
PER_COMPONENT = 10  # images that a component needs: with fewer images there are fewer components
MAX_ENTRIES = 1 << 22  # of all covariances: with more latents there are fewer components
EM_STEPS = 12  # more bring the samples no nearer
VARIANCE_FLOOR = 1e-6  # added to the variances, as some latents may not vary


@dataclass(frozen=True)
class MixturePrior:
    """A mixture of Gaussians with full covariances."""

    weights: Tensor  # (components,)
    means: Tensor  # (components, latent_dim)
    roots: Tensor  # (components, latent_dim, latent_dim), lower triangular: R Rᵀ is the covariance

    def sample(self, count: int, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        which = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        shape = (count, self.means.shape[1])
        noise = temperature * torch.randn(shape, generator=generator, dtype=self.means.dtype)
        latents = self.means[which]
        for component, root in enumerate(self.roots):
            rows = which == component
            latents[rows] += noise[rows] @ root.T
        return latents.float()


def gaussian_prior(aggregate: AggregatePosterior) -> MixturePrior:
    """Return the Gaussian with the mean and the full covariance of an aggregate posterior.

    It is the most likely Gaussian for infinitely many samples of two or more posteriors.
    """
    covariance = aggregate.covariance
    covariance.diagonal().add_(VARIANCE_FLOOR)
    root = torch.linalg.cholesky(covariance)
    return MixturePrior(torch.ones(1, dtype=torch.float64), aggregate.mean[None], root[None])


def fit_mixture(posteriors: Posterior, seed: int = 0) -> MixturePrior:
    """Fit a mixture of at most COMPONENTS Gaussians to one sample of each posterior.

    It is `gaussian_prior` where the images are too few, or the latents too many, for two.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    count, latent_dim = posteriors.mean.shape
    components = min(COMPONENTS, count // PER_COMPONENT, MAX_ENTRIES // latent_dim**2)
    if components < 2:
        return gaussian_prior(aggregate_posterior(posteriors))
    latents = posteriors.sample(torch.Generator().manual_seed(seed)).double().numpy()
    mixture = GaussianMixture(
        components, reg_covar=VARIANCE_FLOOR, max_iter=EM_STEPS, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(latents)
    weights, means, covariances = (
        torch.from_numpy(value).double()
        for value in (mixture.weights_, mixture.means_, mixture.covariances_)
    )
    return MixturePrior(weights, means, torch.linalg.cholesky(covariances))
