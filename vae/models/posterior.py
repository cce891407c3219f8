"""The approximate posterior q(z|x), a diagonal Gaussian."""

from __future__ import annotations

import torch
from torch import Tensor

# exp(logvar) neither vanishes nor overflows in float32 between these, and no
# posterior of use lies outside: a variance of 1e-13 is a point, one of 5e8 is noise.
LOGVAR_RANGE = (-30.0, 20.0)


class Posterior:
    """N(mean, diag(exp(logvar))) for each image of a batch (Kingma & Welling 2014).

    Computes in float32 whatever the network ran in: a sum of squares loses
    digits in bfloat16.

    Args:
        mean: (batch, latent_dim).
        logvar: (batch, latent_dim), log of the variance; clamped to LOGVAR_RANGE.
    """

    def __init__(self, mean: Tensor, logvar: Tensor) -> None:
        self.mean = mean.float()
        self.logvar = logvar.float().clamp(*LOGVAR_RANGE)
        self._kl: Tensor | None = None  # computed once

    @property
    def std(self) -> Tensor:
        """Standard deviation, (batch, latent_dim)."""
        return torch.exp(0.5 * self.logvar)

    @property
    def mode(self) -> Tensor:
        """The most probable latents, (batch, latent_dim): the deterministic encoding."""
        return self.mean

    def rsample(self, noise: Tensor) -> Tensor:
        """Return mean + std * noise, (batch, latent_dim): the reparametrisation trick.

        With standard normal `noise` this is a sample whose gradient reaches the encoder.
        """
        return self.mean + self.std * noise

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Sample latents from the posterior, (batch, latent_dim)."""
        noise = torch.randn(
            self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype
        )
        return self.rsample(noise)

    def kl(self) -> Tensor:
        """Return KL(q(z|x) || N(0, I)) of each latent in nats, (batch, latent_dim), all >= 0.

        -1/2 (1 + logvar - mean² - exp(logvar)): Kingma & Welling 2014, appendix B.
        """
        if self._kl is None:
            self._kl = -0.5 * (1 + self.logvar - self.mean.square() - self.logvar.exp())
        return self._kl
