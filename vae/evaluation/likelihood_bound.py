"""The importance-weighted bound on log p(x), tighter than the ELBO (Burda et al. 2016)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from vae.models.base import VAE
from vae.models.posterior import Posterior

DECODED_AT_ONCE = 256  # images: bounds the memory, and changes no figure


@torch.inference_mode()
def importance_weighted_bounds(
    model: VAE,
    batches: Iterable[Tensor],
    samples: int,
    variance: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
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
        (n,) float64 at k = 1, the mean over the same `samples` samples, and (n,) at
        k = samples.
    """
    ones, many = [], []
    for images in batches:
        posterior = model.encode(images)
        for index, image in enumerate(images):
            noise = torch.randn(samples, model.latent_dim, generator=generator)
            of_image = Posterior(posterior.mean[index], posterior.logvar[index])
            log_weights = _log_weights(model, image, of_image, noise, variance)
            ones.append(log_weights.mean())
            many.append(log_weights.logsumexp(0) - math.log(samples))
    return torch.stack(ones), torch.stack(many)


def _log_weights(
    model: VAE, image: Tensor, posterior: Posterior, noise: Tensor, variance: float
) -> Tensor:
    """Return log p(x|z) p(z) / q(z|x) for each row of noise, (samples,) float64, on the CPU."""
    errors, ratios = [], []
    for part in torch.split(noise, DECODED_AT_ONCE):
        latents = posterior.rsample(part.to(image.device))
        differences = (model.decode(latents) - image).cpu().double()  # MPS has no float64
        errors.append(differences.square().flatten(1).sum(1))
        # log p(z) - log q(z|x); what both have of 2π cancels.
        log_q = -0.5 * (part.double().square() + posterior.logvar.cpu().double()).sum(1)
        ratios.append(-0.5 * latents.cpu().double().square().sum(1) - log_q)
    constant = -0.5 * image.numel() * math.log(2 * math.pi * variance)
    return constant - torch.cat(errors) / (2 * variance) + torch.cat(ratios)
