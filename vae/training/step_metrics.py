"""Per-step values between two rows of metrics, and the guard against non-finite updates."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from vae.losses import LossTerms
from vae.utils.errors import UserError

STEP_VALUES = len(LossTerms._fields) + 1  # of a step: its terms, and the norm of its gradient

REMEDY = "Try a smaller optimizer.lr, or trainer.grad_clip=1."
# Of a step, in the order of its values.
VALUE_NAMES = ("loss", "distortion", "rate", "penalty", "gradient norm")


class MetricAccumulator:
    """Values and time of the steps since the last logged row, kept on the device.

    Args:
        before: values of steps that an earlier process has done since then; None for none.
    """

    def __init__(self, before: Tensor | None = None) -> None:
        self.reset()
        if before is not None and before.shape[1:] == (STEP_VALUES,):  # else an older version's
            self.before = before

    def reset(self) -> None:
        """Restart after a logged row."""
        self.before = torch.empty(0, STEP_VALUES, dtype=torch.float64)
        self.rows: list[Tensor] = []  # of steps of this process, whose time is known
        self.restart()

    def restart(self) -> None:
        """Restart the clock."""
        self.data_seconds = 0.0
        self.began = time.perf_counter()

    @property
    def steps(self) -> int:
        return len(self.before) + len(self.rows)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def timed(self, batches: Iterator[Tensor]) -> Iterator[Tensor]:
        """Yield the batches and measure the time to load each."""
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
        """Return terms and gradient norm of each step, (steps, STEP_VALUES) float64 on the CPU."""
        if not self.rows:
            return self.before
        return torch.cat([self.before, torch.stack(self.rows).cpu().double()])


class NotFiniteError(UserError):
    """Losses, gradients or metrics are infinite or NaN, repeatedly."""


class NonFiniteGuard:
    """Counts non-finite updates and ends a run with too many in a row.

    Args:
        limit: how many in a row are too many; int >= 1.
        total, in_a_row: the counts so far; those of a run that is gone on with.
    """

    def __init__(self, limit: int, total: int = 0, in_a_row: int = 0) -> None:
        self.limit = limit
        self.total = total
        self.in_a_row = in_a_row

    def state(self) -> dict[str, int]:
        """Return the counts, for a checkpoint."""
        return {"total": self.total, "in_a_row": self.in_a_row}

    def count(self, values: np.ndarray, step: int, batches: int) -> np.ndarray:
        """Return which of the last steps were finite.

        Args:
            values: what `VALUE_NAMES` says of each, (steps, 5).
            step: the number of the first.
            batches: of an epoch.

        Returns:
            (steps,) of booleans.

        Raises:
            NotFiniteError: too many in a row were not; says from which step on.
        """
        finite: np.ndarray = np.isfinite(values).all(axis=1)
        for i, good in enumerate(finite):
            self.total += not good
            self.in_a_row = 0 if good else self.in_a_row + 1
            if self.in_a_row == self.limit:
                raise NotFiniteError(self._message(values[i], step + i - self.limit + 1, batches))
        return finite

    def _message(self, values: np.ndarray, step: int, batches: int) -> str:
        bad = [
            f"{name} = {value}"
            for name, value in zip(VALUE_NAMES, values, strict=True)
            if not math.isfinite(value)
        ]
        epoch, batch = divmod(step, batches)
        times = "" if self.limit == 1 else f", and so {self.limit} times in a row"
        return (
            f"training stopped at step {step} (epoch {epoch}, batch {batch}): {', '.join(bad)}"
            f"{times}. {REMEDY}"
        )
