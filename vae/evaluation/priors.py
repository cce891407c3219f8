"""Priors to sample latents from: N(0, I), or a density fitted to the aggregate posterior.

With a small beta the aggregate posterior q(z) = E q(z|x) is far from N(0, I), and the decoder was
never trained on most samples of N(0, I). A density that is fitted to q(z) after training is nearer
(Ghosh et al. 2020, section 4: ex-post density estimation). The model stays unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from vae.data.loader import to_float
from vae.evaluation import PRIORS, TrainedModel
from vae.evaluation.distances import (
    Features,
    Images,
    Latents,
    comparison_size,
    measure_distances,
    sample_source,
)
from vae.evaluation.flow import fit_flow, flow_cache
from vae.evaluation.latents import aggregate_posterior, evenly_spaced_batches
from vae.evaluation.mixture import fit_mixture, gaussian_prior
from vae.models import VAE, Posterior
from vae.utils.errors import UserError, require

ALIASES = {"fitted": "mixture"}

MAX_LATENTS = 20_000  # posteriors that a density is fitted to: bounds memory and time
MAX_DIMENSIONS = 2048  # latents of a full covariance: 34 MB


class Prior(Protocol):
    """A density of latents."""

    def sample(self, count: int, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        """Return (count, latent_dim) float32 on the CPU.

        Args:
            count: >= 1.
            generator: on the CPU.
            temperature: >= 0; scales the noise about the means. Below 1 samples are more typical
                and vary less.
        """
        ...


class StandardPrior:
    """N(0, I), which the loss compares each posterior with."""

    def __init__(self, latent_dim: int) -> None:
        self.latent_dim = latent_dim

    def sample(self, count: int, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        return temperature * torch.randn(count, self.latent_dim, generator=generator)


@torch.inference_mode()
def encode_training(trained: TrainedModel) -> Posterior:
    """Return the posteriors of at most MAX_LATENTS training images, evenly spaced, on the CPU.

    Raises:
        UserError: the images are missing.
    """
    batches = evenly_spaced_batches(trained.data.images["train"], MAX_LATENTS)
    found = [
        trained.model.encode(to_float(batch, trained.device))
        for batch in tqdm(batches, desc="encoding train", unit=" batches", disable=None)
    ]
    return Posterior(
        torch.cat([posterior.mean.cpu() for posterior in found]),
        torch.cat([posterior.logvar.cpu() for posterior in found]),
    )


def fit_prior(
    trained: TrainedModel,
    name: str,
    seed: int = 0,
    posteriors: Posterior | None = None,
    flow_file: Path | None = None,
) -> Prior:
    """Return a prior for a model.

    Args:
        trained: its training images are encoded, unless `posteriors` are given.
        name: one of PRIORS or ALIASES. `standard` needs no images.
        seed: of the mixture's fit. That of the flow is always 0: commands of all seeds share it.
        posteriors: what `encode_training` returned for this model.
        flow_file: the file that keeps the flow, read and written; None: fit it and keep nothing.

    Raises:
        UserError: there is no such prior; the images are missing, or there is one; the model has
            more latents than MAX_DIMENSIONS.
    """
    require(name in (*PRIORS, *ALIASES), "--prior", name, " or ".join(PRIORS))
    name = ALIASES.get(name, name)
    latent_dim = trained.model.latent_dim
    if name == "standard":
        return StandardPrior(latent_dim)
    if latent_dim > MAX_DIMENSIONS:
        raise UserError(
            f"prior {name}: takes a model of at most {MAX_DIMENSIONS} latents; this one has "
            f"{latent_dim}. Take the prior standard."
        )

    def encoded() -> Posterior:
        found = posteriors or encode_training(trained)
        if len(found.mean) < 2:
            raise UserError(f"prior {name}: needs at least 2 training images; there is one.")
        return found

    if name == "flow":
        return flow_cache(latent_dim).get(flow_file, trained, lambda: fit_flow(encoded()))
    if name == "mixture":
        return fit_mixture(encoded(), seed)
    return gaussian_prior(aggregate_posterior(encoded()))


def latents_of(prior: Prior, seed: int, temperature: float = 1.0) -> Latents:
    """Return a function of a number that draws latents from a prior, one stream per seed."""
    generator = torch.Generator().manual_seed(seed)
    return lambda count: prior.sample(count, generator, temperature)


@dataclass(frozen=True)
class PriorErrors:
    """Fréchet distances of decoded samples from reconstructions of a split."""

    errors: dict[str, float]  # by prior
    ceiling: float  # of samples of the aggregate posterior itself: no prior is nearer


def measure_priors(
    trained: TrainedModel,
    split: str,
    latents: Mapping[str, Latents],
    features: Features,
    seed: int = 0,
) -> PriorErrors:
    """Measure how far samples of each prior are from reconstructions of a split.

    Both sides went through the same decoder. So its blur, most of the distance of samples from
    faces, is in neither, and what is left is the prior's error.

    Args:
        trained: decodes on its device.
        split: val or test. Its images are encoded, sampled from their posteriors and decoded; so
            are as many training images, for the ceiling.
        latents: what draws each prior's latents.
        features: of which network; there are more images than it has dimensions.
        seed: of the choice of images and the posteriors' noise.
    """
    kinds = {name: sample_source(trained.model, draw) for name, draw in latents.items()}
    resampled = _resampled(trained.model, seed)
    count = comparison_size(trained, split)
    found = measure_distances(trained, split, count, seed, features, kinds, resampled)
    ceiling = found.pop("floor").frechet
    return PriorErrors({name: distance.frechet for name, distance in found.items()}, ceiling)


def _resampled(model: VAE, seed: int) -> Images:
    """Return a function that decodes one sample of each image's posterior, one stream per seed."""
    generator = torch.Generator().manual_seed(seed)

    def resample(images: Tensor) -> Tensor:
        posterior = model.encode(images)
        noise = torch.randn(posterior.mean.shape, generator=generator)
        return model.decode(posterior.rsample(noise.to(posterior.mean)))

    return resample
