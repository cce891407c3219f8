"""Latents of a split: their statistics, the aggregate posterior, the importance-weighted bound."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vae.data.loader import evaluation_batches
from vae.models.base import VAE
from vae.models.posterior import Posterior
from vae.training.metrics import EVALUATION_BATCH
from vae.utils.errors import UserError

IMAGES_PER_LATENT = 4  # with fewer images the jackknife of `aggregate_kl` is far off
MAX_ENCODED = 10_000  # posterior means for the metrics that need them at once
DECODED_AT_ONCE = 256  # images: bounds the memory, and changes no figure


class RunningGaussian:
    """Running mean and covariance of features, in float64; no feature is kept.

    Deviations are taken from each batch's own mean and the batches joined as in Chan et al.
    (1979): sums of squares would lose every digit of a spread that is small beside its mean.
    """

    def __init__(self, dimensions: int) -> None:
        self.count = 0
        self.mean = torch.zeros(dimensions, dtype=torch.float64)
        self._scatter = torch.zeros(dimensions, dimensions, dtype=torch.float64)

    def update(self, features: Tensor) -> None:
        """Add features (n, dimensions), n >= 1."""
        added = len(features)
        batch = features.cpu().double()
        centre = batch.mean(0)
        shift = centre - self.mean
        total = self.count + added
        # Two groups about their joint mean: the scatter of each, and of one more row.
        between = shift * (self.count * added / total) ** 0.5
        rows = torch.cat([batch - centre, between[None]])
        self._scatter.addmm_(rows.T, rows)
        self.mean += shift * (added / total)
        self.count = total

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance (dimensions, dimensions): divided by count - 1; needs count > 1."""
        return self._scatter / (self.count - 1)


class AggregatePosterior:
    """Running mean and covariance of q(z) = 1/n Σ q(z|x_i).

    Its covariance is that of the means plus the mean of the variances.
    """

    def __init__(self, latent_dim: int) -> None:
        self.means = RunningGaussian(latent_dim)
        self._variances = torch.zeros(latent_dim, dtype=torch.float64)

    def update(self, posterior: Posterior) -> None:
        """Add the posteriors of a batch."""
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
        """Return KL(N(m, C) || N(0, I)) in nats, m and C being the mean and covariance of q(z).

        Measured on few images it is too large: `aggregate_kl` corrects that.
        """
        covariance = self.covariance
        excess = covariance.trace() + self.mean.square().sum() - len(self.mean)
        return 0.5 * (excess - torch.logdet(covariance)).item()


def aggregate_posterior(posteriors: Posterior) -> AggregatePosterior:
    """Return the moments of the mean of posteriors (n, latent_dim)."""
    aggregate = AggregatePosterior(posteriors.mean.shape[1])
    aggregate.update(posteriors)
    return aggregate


def aggregate_kl(posteriors: Posterior) -> float:
    """Estimate KL(N(m, C) || N(0, I)) in nats for the aggregate posterior q(z) of all images.

    m and C are the mean and covariance of q(z). Samples of the prior suffer from this KL, as the
    decoder was trained on q(z). The rate is the mutual information of x and z plus
    KL(q(z) || p(z)) (Hoffman & Johnson 2016). The latter is KL(q(z) || N(m, C)) + KL(N(m, C) ||
    p(z)), so this estimate is a lower bound of it in the limit of many images.

    The KL of the measured moments is too large by about latent_dim² / 4n nats. The jackknife on
    two halves of the images (Quenouille 1956) removes the bias of order 1/n, whatever the shape of
    q(z). The rest is of order 1/n²: -3 to 1 % of the KL at four images per latent, less than 1 %
    from ten on.

    Args:
        posteriors: of n images, (n, latent_dim).

    Raises:
        UserError: there are fewer images than IMAGES_PER_LATENT per latent.
    """
    count, latents = posteriors.mean.shape
    if count < (least := IMAGES_PER_LATENT * latents):
        raise UserError(
            f"aggregate_kl is left out: a model of {latents} latents needs {least:,} training "
            f"images; there are {count:,}."
        )
    halves = (Posterior(posteriors.mean[start::2], posteriors.logvar[start::2]) for start in (0, 1))
    of_halves = sum(aggregate_posterior(half).kl_to_prior() for half in halves) / 2
    return 2 * aggregate_posterior(posteriors).kl_to_prior() - of_halves


def progress_batches(images: np.ndarray, device: torch.device, doing: str) -> Iterator[Tensor]:
    """Yield all packed images (count, size, size, 3) once, in order, with a progress bar.

    Args:
        doing: text of the bar, "encoding train".

    Yields:
        (<= EVALUATION_BATCH, 3, size, size) in [0, 1] on the device.
    """
    with tqdm(total=len(images), desc=doing, unit=" images", disable=None) as bar:
        for batch in evaluation_batches(images, EVALUATION_BATCH, device):
            yield batch
            bar.update(len(batch))


def evenly_spaced_batches(images: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """Yield at most `most` packed images, evenly spaced over the split, equal in every call.

    Only a batch of them is in memory.

    Yields:
        (<= EVALUATION_BATCH, size, size, 3) uint8.
    """
    count = min(len(images), most)
    rows = np.arange(count) * len(images) // count
    for start in range(0, count, EVALUATION_BATCH):
        yield images[rows[start : start + EVALUATION_BATCH]]


@torch.inference_mode()
def encode_batches(model: VAE, images: np.ndarray, doing: str) -> Iterator[Posterior]:
    """Yield the posteriors of packed images (count, size, size, 3), in order, batch by batch.

    Args:
        model: in evaluation mode; its device is where they are encoded.
        doing: as `progress_batches`.
    """
    for batch in progress_batches(images, next(model.parameters()).device, doing):
        yield model.encode(batch)


def encode_means(model: VAE, images: np.ndarray, name: str) -> Tensor:
    """Return the posterior means of the first images, (<= MAX_ENCODED, latent_dim), on the CPU.

    Args:
        model: in evaluation mode; its device is where they are encoded.
        images: packed, (count, size, size, 3).
        name: of the split, for the progress bar.
    """
    batches = encode_batches(model, images[:MAX_ENCODED], f"encoding {name}")
    return torch.cat([posterior.mode.cpu() for posterior in batches])


@torch.inference_mode()
def importance_weighted_bounds(
    model: VAE,
    batches: Iterable[Tensor],
    samples: int,
    variance: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute two lower bounds of log p(x) per image, in nats: with one sample, and with many.

    log p(x) >= E log 1/k Σ p(x|z_i) p(z_i) / q(z_i|x) with z_i from q(z|x) (Burda et al.
    2016, eq. 8), which is the ELBO at k = 1 and grows towards log p(x) with k. The
    likelihood is a Gaussian around the decoded image, the one of `val/distortion`.

    Args:
        model: in evaluation mode.
        batches: (batch, 3, size, size) in [0, 1].
        samples: k >= 1.
        variance: of the likelihood, > 0.
        generator: of the noise, on the CPU; one stream, whatever the batches.

    Returns:
        (n,) float64 at k = 1, the mean over the same `samples` samples; (n,) at k = samples;
        and (n,) the effective number of the samples, (Σ w)² / Σ w² of the weights
        w = p(x|z) p(z) / q(z|x) (Kong 1992), from 1 to k. Near 1, one sample outweighs the
        others, and the bound is far from log p(x).
    """
    ones, many, effective = [], [], []
    for images in batches:
        constant = -0.5 * images[0].numel() * math.log(2 * math.pi * variance)
        encoded = model.encode(images)
        for image, *moments in zip(images, encoded.mean, encoded.logvar, strict=True):
            posterior = Posterior(*moments)
            noise = torch.randn(samples, model.latent_dim, generator=generator)
            parts = []
            for part in torch.split(noise, DECODED_AT_ONCE):
                latents = posterior.rsample(part.to(image.device))
                errors = (model.decode(latents) - image).cpu().double()  # MPS has no float64
                log_likelihood = constant - errors.square().flatten(1).sum(1) / (2 * variance)
                # log p(z) and log q(z|x), without the 2π that both have.
                log_p = -0.5 * latents.cpu().double().square().sum(1)
                log_q = -0.5 * (part.double().square() + posterior.logvar.cpu().double()).sum(1)
                parts.append(log_likelihood + (log_p - log_q))
            log_weights = torch.cat(parts)
            ones.append(log_weights.mean())
            log_sum = log_weights.logsumexp(0)
            many.append(log_sum - math.log(samples))
            effective.append((2 * log_sum - (2 * log_weights).logsumexp(0)).exp())
    return torch.stack(ones), torch.stack(many), torch.stack(effective)
