"""What happened since the last row of metrics, without making a GPU wait."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from vae.losses import LossTerms

VALUES = len(LossTerms._fields) + 1  # of a step: its terms, and the norm of its gradient


class Interval:
    """The steps since the last row: their terms, still on the device, and their time.

    Args:
        before: values of steps that an earlier process has done since then; None for none.
    """

    def __init__(self, before: Tensor | None = None) -> None:
        self.reset()
        if before is not None and before.shape[1:] == (VALUES,):  # else by an older version
            self.before = before

    def reset(self) -> None:
        """A row has been written."""
        self.before = torch.empty(0, VALUES, dtype=torch.float64)
        self.rows: list[Tensor] = []  # of steps of this process, whose time is known
        self.restart()

    def restart(self) -> None:
        """Count time from now on."""
        self.data_seconds = 0.0
        self.began = time.perf_counter()

    @property
    def steps(self) -> int:
        return len(self.before) + len(self.rows)

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

    def values(self) -> Tensor:
        """Loss terms and gradient norm of each step: (steps, VALUES) float64, on the CPU."""
        if not self.rows:
            return self.before
        return torch.cat([self.before, torch.stack(self.rows).cpu().double()])
