"""A density fitted to a trained model's latents, to sample from in place of the prior.

The prior is what the latents were meant to follow. With a small beta they do not, and its
samples decode to what the decoder has never seen. A Gaussian mixture fitted afterwards is
nearer to where the latents are (Ghosh et al. 2020, section 4: ex-post density estimation).
The model stays as it is.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vae.errors import UserError
from vae.evaluation.codes import posteriors
from vae.evaluation.distances import Latents, choose
from vae.models.vae import VAE

COMPONENTS = 10  # as in the paper
PER_COMPONENT = 10  # latents that a component needs: with fewer images there are fewer of them
MOST_LATENTS = 20_000  # that it is fitted to: bounds memory and time, and is enough
FLOOR = 1e-6  # added to the variances, as some latents may not vary


@dataclass(frozen=True)
class Density:
    """A mixture of Gaussians over the latents, float64."""

    weights: Tensor  # (components,), sum to 1
    means: Tensor  # (components, latent_dim)
    roots: Tensor  # (components, latent_dim, latent_dim), lower: roots · rootsᵀ is the covariance

    def sampler(self, seed: int) -> Latents:
        """Samples, one stream for a seed: a function of their number."""
        generator = torch.Generator().manual_seed(seed)

        def draw(count: int) -> Tensor:
            which = torch.multinomial(self.weights, count, replacement=True, generator=generator)
            shape = (count, self.means.shape[1])
            noise = torch.randn(shape, generator=generator, dtype=torch.float64)
            moved = torch.einsum("nij,nj->ni", self.roots[which], noise)
            return (self.means[which] + moved).float()

        return draw


def fit_density(model: VAE, images: np.ndarray, seed: int) -> Density:
    """Fit a mixture of at most COMPONENTS Gaussians to the latents of a training split.

    To one sample of each image's posterior, not to its mean: such samples are what the
    decoder was trained on, and their density is the aggregate posterior.

    Args:
        model: in evaluation mode.
        images: (n, size, size, 3) uint8; at most MOST_LATENTS of them are used.
        seed: of the samples, the choice of images and the start of the fit.

    Raises:
        UserError: there are too few images for one component.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    latents = _sample_latents(model, choose(images, min(MOST_LATENTS, len(images)), seed), seed)
    components = min(COMPONENTS, len(latents) // PER_COMPONENT)
    if components < 1:
        raise UserError(
            f"--prior fitted: needs at least {PER_COMPONENT} training images; there are "
            f"{len(latents)}."
        )
    mixture = GaussianMixture(components, reg_covar=FLOOR, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a hundred steps are near enough
        mixture.fit(latents)
    covariances = torch.from_numpy(mixture.covariances_)
    return Density(
        torch.from_numpy(mixture.weights_),
        torch.from_numpy(mixture.means_),
        torch.linalg.cholesky(covariances),
    )


@torch.inference_mode()
def _sample_latents(model: VAE, images: np.ndarray, seed: int) -> np.ndarray:
    """One latent of each image's posterior, (n, latent_dim) float64."""
    generator = torch.Generator().manual_seed(seed)
    latents = []
    for posterior in posteriors(model, images, "encoding train"):
        noise = torch.randn(posterior.mode.shape, generator=generator)
        latents.append(posterior.at(noise.to(posterior.mode)).cpu().double())
    return torch.cat(latents).numpy()
