"""The exponential moving average of a model's weights, which is often better than the last ones."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from itertools import chain

import torch
from torch import Tensor

from vae.models.vae import VAE


class Average:
    """Averages the weights of a model, and its buffers: BatchNorm's statistics are to fit them.

    average += (1 - decay) · (weights - average) after each update, where decay is at most
    (1 + n) / (10 + n) after n updates: else the weights that training began with would be
    in the average of a short run for good. (torch's AveragedModel sends its count of updates
    to a GPU at each of them, and waits until it is there.)

    Args:
        model: whose; the average begins as a copy of it.
        decay: in (0, 1); the average is over the last 1 / (1 - decay) updates or so.
    """

    def __init__(self, model: VAE, decay: float) -> None:
        self.module = deepcopy(model).requires_grad_(False)
        self.decay = decay
        self.n_averaged = 0  # updates so far

    @torch.no_grad()
    def update(self, model: VAE, keep: Tensor) -> None:
        """Take in the weights of a model after an update.

        Args:
            model: the one that is trained.
            keep: on its device, 1; or 0 where the update was skipped and nothing is to
                change. It is not waited for.
        """
        n = self.n_averaged
        share = (1 - min(self.decay, (1 + n) / (10 + n)) if n else 1.0) * keep
        for average, value in zip(_tensors(self.module), _tensors(model), strict=True):
            if average.is_floating_point():
                average.lerp_(value, share)
            else:  # a count of batches
                average.copy_(value)
        self.n_averaged += 1


def _tensors(model: VAE) -> Iterator[Tensor]:
    return chain(model.parameters(), model.buffers())
