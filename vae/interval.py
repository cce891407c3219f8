"""What happened since the last row of metrics, without making a GPU wait."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from vae.losses import LossTerms


class Interval:
    """The steps since the last row: their terms, still on the device, and their time."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.rows: list[Tensor] = []
        self.data_seconds = 0.0
        self.began = time.perf_counter()

    @property
    def steps(self) -> int:
        return len(self.rows)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def timed(self, batches: Iterator[Tensor]) -> Iterator[Tensor]:
        """The batches, with the time that each took to come counted."""
        while True:
            asked = time.perf_counter()
            images = next(batches, None)
            if images is None:
                return
            self.data_seconds += time.perf_counter() - asked
            yield images

    def add(self, terms: LossTerms, norm: Tensor) -> None:
        self.rows.append(torch.stack([*(term.detach() for term in terms), norm]))

    def values(self) -> np.ndarray:
        """Loss, distortion, rate and gradient norm of each step: (steps, 4) float64."""
        values: np.ndarray = torch.stack(self.rows).cpu().double().numpy()
        return values
