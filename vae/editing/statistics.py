"""What directions are computed from: sums over the latents and attributes of a split.

Streaming, in float64: memory is (attributes + latents) · latents numbers, however many
faces there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vae.moments import Gaussian


@dataclass(frozen=True)
class ClassMeans:
    """Of each attribute: where the faces with it and those without it lie, and how many."""

    having: Tensor  # (attributes, latents) float64
    lacking: Tensor  # (attributes, latents) float64
    count: Tensor  # (attributes,) float64, faces that have it
    together: Tensor  # (attributes, attributes) float64, faces that have both

    def of(self, rows: Tensor) -> ClassMeans:
        """The same of some of the attributes."""
        together = self.together[rows][:, rows]
        return ClassMeans(self.having[rows], self.lacking[rows], self.count[rows], together)


class LatentStatistics:
    """Covariance of all latents and the mean of each attribute's classes, as faces come in.

    Args:
        latent_dim: size of z.
        attributes: how many there are.
    """

    def __init__(self, latent_dim: int, attributes: int) -> None:
        self.all = Gaussian(latent_dim)
        self._sums = torch.zeros(attributes, latent_dim, dtype=torch.float64)
        self._together = torch.zeros(attributes, attributes, dtype=torch.float64)

    def update(self, latents: Tensor, attributes: Tensor) -> None:
        """Take in latents (n, latent_dim) and 0/1 attributes (n, attributes) of n faces."""
        self.all.update(latents)
        rows = attributes.double()
        self._sums += rows.T @ latents.cpu().double()
        self._together += rows.T @ rows

    def classes(self) -> ClassMeans:
        """The means of the classes; NaN for one that no face is in."""
        count = self._together.diagonal()[:, None]
        total = self.all.mean * self.all.count
        lacking = (total - self._sums) / (self.all.count - count)
        return ClassMeans(self._sums / count, lacking, count[:, 0], self._together)
