"""Measure the error of total correlation estimates, by batch size and latents.

    python -m tests.profiling.total_correlation

The latents are independent by construction: each image's posterior has a variance of 0.1
around a mean drawn from N(0, 0.9), so that all together are N(0, I) and the total correlation
is that of the finite set of images alone, which its exact q(z) gives.
"""

from __future__ import annotations

import math

import torch

from vae.losses.regularizers import total_correlation
from vae.models import Posterior

IMAGES = 9600  # of the default training split


def estimates(latent_dim: int) -> list[tuple[str, list[float]]]:
    """Rows of a table: exact, then by batch size the weighted and the stratified estimate."""
    generator = torch.Generator().manual_seed(0)
    mean = math.sqrt(0.9) * torch.randn(IMAGES, latent_dim, generator=generator)
    posterior = Posterior(mean, torch.full_like(mean, math.log(0.1)))
    latents = posterior.sample(generator)
    rows = [("exact", [exact(posterior, latents)])]
    for batch in (32, 128, 512):
        found: list[float] = []
        for stratified in (False, True):
            parts = [
                total_correlation(of(posterior, rows), latents[rows], IMAGES, stratified).item()
                for rows in torch.arange(IMAGES).split(batch)[:20]
                if len(rows) == batch
            ]
            found.append(sum(parts) / len(parts))
        rows.append((str(batch), found))
    return rows


def of(posterior: Posterior, rows: torch.Tensor) -> Posterior:
    return Posterior(posterior.mean[rows], posterior.logvar[rows])


def exact(posterior: Posterior, latents: torch.Tensor) -> float:
    """From the q(z) of all images, at some of the samples."""
    total = 0.0
    for z in latents[:200]:
        log_q = -0.5 * ((z - posterior.mean).square() / posterior.logvar.exp() + posterior.logvar)
        log_q = log_q - 0.5 * math.log(2 * math.pi)
        together = log_q.sum(1).logsumexp(0) - math.log(IMAGES)
        total += (together - (log_q.logsumexp(0) - math.log(IMAGES)).sum()).item()
    return total / 200


def main() -> None:
    for latent_dim in (2, 10, 32, 128):
        for batch, found in estimates(latent_dim):
            values = "  ".join(f"{value:8.2f}" for value in found)
            print(f"{latent_dim:4} latents, batch {batch:>5}: {values}")


if __name__ == "__main__":
    main()
