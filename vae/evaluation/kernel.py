"""The kernel distance between two sets of images, by the features of a network.

KID is this distance in the features of an Inception network (Bińkowski et al. 2018).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BLOCK = 1000  # images on each side of one estimate: a kernel matrix of 8 MB


def squared_mmd(first: Tensor, second: Tensor) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy; may be a little below 0.

    The kernel is k(x, y) = (x·y / dimensions + 1)³. Of each side with itself the mean is
    over pairs of different images (Gretton et al. 2012, eq. 3).

    Args:
        first, second: features (m, dimensions) and (n, dimensions), m and n >= 2.
    """
    first, second = first.double(), second.double()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: Tensor) -> Tensor:
        matrix = kernel(x, x)
        return (matrix.sum() - matrix.trace()) / (len(x) * (len(x) - 1))

    return (within(first) + within(second) - 2 * kernel(first, second).mean()).item()


class KernelDistance:
    """The mean of `squared_mmd` over disjoint blocks of images, and its standard error.

    The k-th block of one side is compared with the k-th of the other. A last block that
    is not full counts if it is at least half full, or the only one; what one side has
    beyond the other is not used. At most a block and a batch of each side is held where
    the sides come in step.
    """

    def __init__(self, dimensions: int, block: int = BLOCK) -> None:
        self._block = block
        self._waiting = [torch.zeros(0, dimensions)] * 2
        self._estimates: list[float] = []

    def update(self, first: Tensor, second: Tensor) -> None:
        """Take in features of either side, (m, dimensions) and (n, dimensions), m, n >= 0."""
        pairs = zip(self._waiting, (first, second), strict=True)
        self._waiting = [torch.cat([old, new.cpu()]) for old, new in pairs]
        while min(map(len, self._waiting)) >= self._block:
            self._estimates.append(squared_mmd(*(side[: self._block] for side in self._waiting)))
            self._waiting = [side[self._block :] for side in self._waiting]

    def result(self) -> tuple[float, float | None]:
        """The mean over blocks, and its standard error; None where there is only one block.

        Raises:
            ValueError: a side has fewer than two features.
        """
        estimates = list(self._estimates)
        left = min(map(len, self._waiting))
        if not estimates and left < 2:
            raise ValueError(f"a kernel distance needs at least 2 images a side; there are {left}")
        if not estimates or left >= max(2, self._block / 2):
            estimates.append(squared_mmd(*(side[:left] for side in self._waiting)))
        values = torch.tensor(estimates, dtype=torch.float64)
        if len(values) == 1:
            return values.item(), None
        return values.mean().item(), values.std().item() / math.sqrt(len(values))
