"""The aggregate posterior q(z), the mixture of all images' posteriors, against the prior."""

from __future__ import annotations

import torch
from torch import Tensor

from vae.models.posterior import Posterior
from vae.moments import Gaussian


class AggregatePosterior:
    """Mean and covariance of q(z) = 1/n Σ q(z|x_i), as posteriors come in.

    Its covariance is that of the means plus the mean of the variances.
    """

    def __init__(self, latent_dim: int) -> None:
        self.means = Gaussian(latent_dim)
        self._variances = torch.zeros(latent_dim, dtype=torch.float64)

    def update(self, posterior: Posterior) -> None:
        """Take in the posteriors of a batch."""
        self.means.update(posterior.mean)
        self._variances += posterior.logvar.cpu().double().exp().sum(0)

    @property
    def mean(self) -> Tensor:
        """(latent_dim,) float64."""
        return self.means.mean

    @property
    def covariance(self) -> Tensor:
        """(latent_dim, latent_dim) float64; needs two images."""
        return self.means.covariance + torch.diag(self._variances / self.means.count)

    def kl_to_prior(self) -> float:
        """KL(N(m, C) || N(0, I)) in nats, m and C being the mean and covariance of q(z).

        What the samples of the prior suffer from: the decoder was trained on q(z). The
        rate is the information that z has of x plus KL(q(z) || p(z)) (Hoffman & Johnson
        2016), and this is the part of that KL that a Gaussian can have: a lower bound, as
        KL(q(z) || p(z)) = KL(q(z) || N(m, C)) + KL(N(m, C) || p(z)).
        """
        covariance = self.covariance
        excess = covariance.trace() + self.mean.square().sum() - len(self.mean)
        return 0.5 * (excess - torch.logdet(covariance)).item()
