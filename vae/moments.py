"""Mean and covariance of numbers as they come in."""

from __future__ import annotations

import torch
from torch import Tensor


class Gaussian:
    """Mean and covariance of features as they come in, in float64; no feature is kept.

    Deviations are taken from each batch's own mean and the batches joined as in Chan et al.
    (1979): sums of squares would lose every digit of a spread that is small beside its mean.
    """

    def __init__(self, dimensions: int) -> None:
        self.count = 0
        self.mean = torch.zeros(dimensions, dtype=torch.float64)
        self._scatter = torch.zeros(dimensions, dimensions, dtype=torch.float64)

    def update(self, features: Tensor) -> None:
        """Take in features (n, dimensions), n >= 0."""
        added = len(features)
        if added == 0:
            return
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
        """(dimensions, dimensions), the unbiased one: divided by count - 1.

        Raises:
            ValueError: there are fewer than two features.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 features; there are {self.count}")
        return self._scatter / (self.count - 1)
