"""Per-step values between two rows of metrics, and the guard against non-finite updates."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from vae.utils.errors import UserError

REMEDY = "Try a smaller optimizer.lr, or trainer.grad_clip=1."
SKIPPED = "skipped"  # the value of a step that is 1 where its update was not finite, else 0


class MetricAccumulator:
    """Named values and time of the steps since the last logged row, kept on the device."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Restart after a logged row."""
        self.before: dict[str, Tensor] = {}  # of steps of an interrupted run, since its last row
        self.steps: list[dict[str, Tensor]] = []  # of this process, whose time is known
        self.restart()

    def restart(self) -> None:
        """Restart the clock."""
        self.data_seconds = 0.0
        self.began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the clock was restarted."""
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

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add the values of a step, scalars by name; the same names at every step."""
        self.steps.append(dict(values))

    def values(self) -> dict[str, Tensor]:
        """Return each value of all steps since the last row, (steps,) float64 on the CPU by name.

        Waits for the device.
        """
        if not self.steps:
            return dict(self.before)
        names = list(self.steps[0])
        rows = torch.stack([torch.stack([step[name] for name in names]) for step in self.steps])
        columns = dict(zip(names, rows.cpu().double().unbind(1), strict=True))
        if self.before.keys() != columns.keys():  # nothing, or those of another version
            return columns
        return {name: torch.cat([self.before[name], columns[name]]) for name in names}


class BufferRollback:
    """Restores a model's buffers (BatchNorm statistics) where an update is skipped.

    A forward pass in training changes them, before the gradient can be looked at.
    """

    def __init__(self, model: nn.Module) -> None:
        self.buffers = list(model.buffers())
        self.before: list[Tensor] = []

    def save(self) -> None:
        """Keep a copy of the buffers, before a forward pass."""
        self.before = [buffer.clone() for buffer in self.buffers]

    def restore(self, skipped: Tensor) -> None:
        """Restore the copy where `skipped`, a boolean scalar on the device, is true."""
        for buffer, before in zip(self.buffers, self.before, strict=True):
            buffer.copy_(torch.where(skipped, before, buffer))


class NotFiniteError(UserError):
    """Losses, gradients or metrics are infinite or NaN, repeatedly."""


@dataclass
class NonFiniteGuard:
    """Counts non-finite updates and ends a run with too many in a row."""

    limit: int  # how many in a row are too many; int >= 1
    total: int = 0  # in the whole run
    in_a_row: int = 0

    def state(self) -> dict[str, int]:
        """Return the counts, for a checkpoint."""
        counts = asdict(self)
        del counts["limit"]
        return counts

    def count(self, values: Mapping[str, Tensor], step: int, batches: int) -> Tensor:
        """Return the steps whose update was finite, (steps,) of booleans.

        Args:
            values: of the last steps, (steps,) by name, SKIPPED among them.
            step: the number of the first.
            batches: of an epoch.

        Raises:
            NotFiniteError: too many in a row were not; says from which step on.
        """
        finite = values[SKIPPED] == 0
        for i, good in enumerate(finite.tolist()):
            self.total += not good
            self.in_a_row = 0 if good else self.in_a_row + 1
            if self.in_a_row == self.limit:
                of_step = {name: column[i].item() for name, column in values.items()}
                raise NotFiniteError(self._message(of_step, step + i - self.limit + 1, batches))
        return finite

    def _message(self, values: Mapping[str, float], step: int, batches: int) -> str:
        bad = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
        epoch, batch = divmod(step, batches)
        times = "" if self.limit == 1 else f", and so {self.limit} times in a row"
        return (
            f"training stopped at step {step} (epoch {epoch}, batch {batch}): {', '.join(bad)}"
            f"{times}. {REMEDY}"
        )
