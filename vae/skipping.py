"""Updates that are skipped, because their loss or gradient is infinite or NaN."""

from __future__ import annotations

import math

import numpy as np

from vae.errors import UserError

REMEDY = "Try a smaller optimizer.lr, or trainer.grad_clip=1."
# Of a step, in the order of its values.
NAMES = ("loss", "distortion", "rate", "penalty", "gradient norm")


class NotFiniteError(UserError):
    """Losses, gradients or metrics are infinite or NaN, and not by chance."""


class Skipped:
    """Counts them, and ends a run in which they come one after another.

    Args:
        limit: how many in a row are too many; int >= 1.
        total, in_a_row: the counts so far; those of a run that is gone on with.
    """

    def __init__(self, limit: int, total: int = 0, in_a_row: int = 0) -> None:
        self.limit = limit
        self.total = total
        self.in_a_row = in_a_row

    def state(self) -> dict[str, int]:
        """The counts, for a checkpoint: the arguments of a new one."""
        return {"total": self.total, "in_a_row": self.in_a_row}

    def count(self, values: np.ndarray, step: int, batches: int) -> np.ndarray:
        """Which of the last steps were finite.

        Args:
            values: what `NAMES` says of each, (steps, 5).
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
            for name, value in zip(NAMES, values, strict=True)
            if not math.isfinite(value)
        ]
        epoch, batch = divmod(step, batches)
        times = "" if self.limit == 1 else f", and so {self.limit} times in a row"
        return (
            f"training stopped at step {step} (epoch {epoch}, batch {batch}): {', '.join(bad)}"
            f"{times}. {REMEDY}"
        )
