"""Batches of packed images, in an order that is a pure function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return a permutation of range(count), int64 (count,), that depends on (seed, epoch) alone."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def to_float(images: np.ndarray, device: torch.device) -> Tensor:
    """Convert packed uint8 (batch, size, size, 3) to float32 (batch, 3, size, size) in [0, 1].

    The bytes travel to the device and become floats there: a quarter of the traffic.
    The result is channels-last in memory, as the packed array is.
    """
    batch = torch.from_numpy(images)
    if device.type == "cuda":
        batch = batch.pin_memory()
    return batch.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)


@dataclass(eq=False, repr=False)
class TrainingBatches:
    """Shuffled batches of a split, for training.

    The last, incomplete batch of an epoch is left out: BatchNorm on two or three images
    would be noise.
    """

    images: np.ndarray  # (count, size, size, 3) uint8, memory-mapped or not
    batch_size: int
    seed: int  # with the epoch, decides order and flips
    flip: bool  # mirror each image with probability 1/2
    device: torch.device  # where the batches go
    rows: slice | None = None  # the part of each batch that is served; None: all of it

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return len(self.images) // self.batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """Yield the batches of an epoch from `start` on: (rows, 3, size, size) in [0, 1]."""
        order = epoch_order(self.seed, epoch, len(self.images))
        mirrored = np.zeros(len(order), dtype=bool)
        if self.flip:  # a stream of its own (the 1), so that flips do not change the order
            mirrored = np.random.default_rng([self.seed, epoch, 1]).random(len(order)) < 0.5
        for batch in range(start, len(self)):
            first = batch * self.batch_size
            rows = np.arange(first, first + self.batch_size)[self.rows or slice(None)]
            images = self.images[order[rows]]
            images[mirrored[rows]] = images[mirrored[rows], :, ::-1]
            yield to_float(images, self.device)


def evaluation_batches(
    images: np.ndarray, batch_size: int, device: torch.device
) -> Iterator[Tensor]:
    """Yield all images once, in order: (<= batch_size, 3, size, size) in [0, 1]."""
    for start in range(0, len(images), batch_size):
        yield to_float(np.array(images[start : start + batch_size]), device)
