"""Settings of the trainer, values of its steps, and the guard against non-finite updates."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from omegaconf import MISSING
from torch import Tensor

from vae.utils.devices import DEVICES, PRECISIONS
from vae.utils.errors import UserError, require, require_ranges

# The number of digits is limited: Python refuses to parse thousands of them.
INTERVAL_PATTERN = re.compile(r"(?P<steps>[1-9]\d{0,17})|(?P<minutes>\d{1,17}(\.\d{1,17})?) ?min")
REMEDY = "Try a smaller optimizer.lr, or trainer.grad_clip=1."
SKIPPED = "skipped"  # the value of a step that is 1 where its update was not finite, else 0


class CheckpointTrigger:
    """Decides when a checkpoint is due: `trainer.checkpoint_every`, in steps or minutes.

    Args:
        every: `"500"` (steps), `"10min"`; None: never.

    Raises:
        UserError: it is neither.
    """

    def __init__(self, every: str | None) -> None:
        found = INTERVAL_PATTERN.fullmatch(every or "")
        takes = "null, an int >= 1 (steps) or minutes as 10min"
        require(every is None or found is not None, "trainer.checkpoint_every", every, takes)
        self.steps = int(found["steps"]) if found and found["steps"] else None
        self.seconds = 60 * float(found["minutes"]) if found and found["minutes"] else None
        self.saved()

    def saved(self) -> None:
        """Restart the interval."""
        self._last = time.monotonic()

    def is_due(self, step: int) -> bool:
        """Return whether a checkpoint is due after this step."""
        if self.steps:
            return step % self.steps == 0
        return self.seconds is not None and time.monotonic() - self._last >= self.seconds


@dataclass
class TrainerConfig:
    """Settings of training: length, device, precision, intervals (`conf/trainer/*.yaml`)."""

    epochs: int | None = MISSING  # passes over the training images; null or int from 1 to 1e9
    max_steps: int | None = MISSING  # updates at the most; null or int from 1 to 1e12
    precision: str = MISSING  # fp32, bf16 or auto
    compile: bool = MISSING  # torch.compile the model
    device: str = MISSING  # auto, cpu, cuda or mps
    num_threads: int | None = MISSING  # CPU threads; null or int from 1 to 1024
    grad_clip: float | None = MISSING  # largest norm of the gradient; null or from 1e-9 to 1e9
    ema: float | None = None  # decay of an average of the weights; null or from 0.01 to 0.9999999
    max_skipped: int = 3  # updates in a row that are not finite and end the run; int from 1 to 1e9
    checkpoint_every: str | None = "10min"  # also within an epoch; null, steps or minutes
    log_every: int = MISSING  # steps between rows of train/ metrics; int from 1 to 1e9
    figures_every: int = MISSING  # epochs between figures; int from 1 to 1e9

    def __post_init__(self) -> None:
        counts = dict.fromkeys(("epochs", "max_skipped", "log_every", "figures_every"), (1, 10**9))
        counts |= {"max_steps": (1, 10**12), "num_threads": (1, 1024)}
        require_ranges("trainer", self, **counts, grad_clip=(1e-9, 1e9), ema=(0.01, 0.9999999))
        limited = self.epochs is not None or self.max_steps is not None
        require(limited, "trainer.epochs", None, "an int >= 1 unless trainer.max_steps is given")
        known = self.precision in PRECISIONS
        require(known, "trainer.precision", self.precision, f"one of {', '.join(PRECISIONS)}")
        CheckpointTrigger(self.checkpoint_every)
        known = self.device in DEVICES
        require(known, "trainer.device", self.device, f"one of {', '.join(DEVICES)}")


class MetricAccumulator:
    """Named values and time of the steps since the last logged row, kept on the device."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Restart after a logged row."""
        self.before: dict[str, Tensor] = {}  # of steps of an interrupted run, since its last row
        # of this process, whose time is known: scalars by name, the same names at every step
        self.steps: list[dict[str, Tensor]] = []
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


class NotFiniteError(UserError):
    """Losses, gradients or metrics are infinite or NaN, repeatedly."""


@dataclass
class NonFiniteGuard:
    """Counts non-finite updates and ends a run with too many in a row."""

    limit: int  # how many in a row are too many; int >= 1
    total: int = 0  # in the whole run
    in_a_row: int = 0

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
                first = step + i - self.limit + 1
                epoch, batch = divmod(first, batches)
                last = {name: column[i].item() for name, column in values.items()}
                bad = [f"{name} = {it}" for name, it in last.items() if not math.isfinite(it)]
                times = "" if self.limit == 1 else f", and so {self.limit} times in a row"
                raise NotFiniteError(
                    f"training stopped at step {first} (epoch {epoch}, batch {batch}): "
                    f"{', '.join(bad)}{times}. {REMEDY}"
                )
        return finite
