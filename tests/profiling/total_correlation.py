"""Measure the error of total correlation estimates, by batch size and latents.

    python -m tests.profiling.total_correlation

The latents are independent by construction: each image's posterior has a variance of 0.1
around a mean drawn from N(0, 0.9), so that all together are N(0, I) and the total correlation
is that of the finite set of images alone, which its exact q(z) gives.
"""

from __future__ import annotations

import math
from statistics import fmean

import torch
from torch.distributions import Normal

from vae.losses.regularizers import total_correlation
from vae.models import Posterior

IMAGES = 9600  # of the default training split


def estimate(posterior: Posterior, latents: torch.Tensor, batch: int, stratified: bool) -> float:
    """From batches, of which 20 are enough: weighted or stratified."""
    return fmean(
        total_correlation(
            Posterior(posterior.mean[rows], posterior.logvar[rows]),
            latents[rows],
            IMAGES,
            stratified,
        ).item()
        for rows in torch.arange(IMAGES).split(batch)[:20]
        if len(rows) == batch
    )


def exact(posterior: Posterior, latents: torch.Tensor) -> float:
    """From the q(z) of all images, at some of the samples."""
    parts = Normal(posterior.mean, torch.exp(posterior.logvar / 2))
    found = []
    for z in latents[:200]:
        log_q = parts.log_prob(z)
        together = log_q.sum(1).logsumexp(0) - math.log(IMAGES)
        found.append((together - (log_q.logsumexp(0) - math.log(IMAGES)).sum()).item())
    return fmean(found)


def main() -> None:
    """Print a row per batch size: the exact value, or the weighted and the stratified estimate."""
    for latent_dim in (2, 10, 32, 128):
        generator = torch.Generator().manual_seed(0)
        mean = math.sqrt(0.9) * torch.randn(IMAGES, latent_dim, generator=generator)
        posterior = Posterior(mean, torch.full_like(mean, math.log(0.1)))
        latents = posterior.sample(generator)
        print(f"{latent_dim:4} latents, exact:     {exact(posterior, latents):8.2f}")
        for batch in (32, 128, 512):
            found = [
                estimate(posterior, latents, batch, stratified) for stratified in (False, True)
            ]
            print(f"{latent_dim:4} latents, batch {batch:3}: {found[0]:8.2f}  {found[1]:8.2f}")


if __name__ == "__main__":
    main()
