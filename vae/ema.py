"""The exponential moving average of a model's weights, which is often better than the last ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from vae.models.vae import VAE


class Average(AveragedModel):
    """Averages the weights of a model, and its buffers: BatchNorm's statistics are to fit them.

    average += (1 - decay) · (weights - average) after each update, where decay is at most
    (1 + n) / (10 + n) after n updates: else the weights that training began with would be
    in the average of a short run for good.

    Args:
        model: whose; the average begins as a copy of it.
        decay: in (0, 1); the average is over the last 1 / (1 - decay) updates or so.
    """

    module: VAE
    n_averaged: Tensor

    def __init__(self, model: VAE, decay: float) -> None:
        super().__init__(model, multi_avg_fn=self._blend, use_buffers=True)
        self.requires_grad_(False)
        self.decay = decay
        self.keep: Tensor | float = 1.0

    def update(self, model: VAE, keep: Tensor | float) -> None:
        """Take in the weights of a model after an update.

        Args:
            model: the one that is trained.
            keep: 1; or 0 where the update was skipped and nothing is to change. A tensor
                of a GPU is not waited for.
        """
        self.keep = keep
        self.update_parameters(model)

    @torch.no_grad()
    def _blend(self, averages: Sequence[Tensor], values: Sequence[Tensor], _: object) -> None:
        """In place; torch calls it for the tensors of each dtype."""
        count = int(self.n_averaged)  # on the CPU, whatever the model is on
        share = (1 - min(self.decay, (1 + count) / (10 + count))) * self.keep
        for average, value in zip(averages, values, strict=True):
            if average.is_floating_point():
                average.lerp_(value, torch.as_tensor(share, device=average.device).to(average))
            else:  # a count of batches
                average.copy_(value)
