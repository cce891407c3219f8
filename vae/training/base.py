"""Settings of the trainer, and when a checkpoint is due."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from omegaconf import MISSING

from vae.utils.devices import DEVICES, PRECISIONS
from vae.utils.errors import require

# The number of digits is limited: Python refuses to parse thousands of them.
INTERVAL_PATTERN = re.compile(r"(?P<steps>[1-9]\d{0,17})|(?P<minutes>\d{1,17}(\.\d{1,17})?) ?min")


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

    epochs: int | None = MISSING  # passes over the training images; null or an int >= 1
    max_steps: int | None = MISSING  # updates at the most; null or an int >= 1
    precision: str = MISSING  # fp32, bf16 or auto
    compile: bool = MISSING  # torch.compile the model
    device: str = MISSING  # auto, cpu, cuda or mps
    num_threads: int | None = MISSING  # CPU threads; null or an int >= 1
    grad_clip: float | None = MISSING  # largest norm of the gradient; null or a number > 0
    ema: float | None = None  # decay of an average of the weights; null or a number in (0, 1)
    max_skipped: int = 3  # updates in a row that are not finite and end the run; int >= 1
    checkpoint_every: str | None = "10min"  # also within an epoch; null, steps or minutes
    log_every: int = MISSING  # steps between rows of train/ metrics; int >= 1
    figures_every: int = MISSING  # epochs between figures; int >= 1

    def __post_init__(self) -> None:
        for key in ("epochs", "max_steps", "num_threads"):
            value = getattr(self, key)
            require(value is None or value >= 1, f"trainer.{key}", value, "null or an int >= 1")
        for key in ("max_skipped", "log_every", "figures_every"):
            value = getattr(self, key)
            require(value >= 1, f"trainer.{key}", value, "an int >= 1")
        limited = self.epochs is not None or self.max_steps is not None
        require(limited, "trainer.epochs", None, "an int >= 1 unless trainer.max_steps is given")
        clips = self.grad_clip is None or self.grad_clip > 0
        require(clips, "trainer.grad_clip", self.grad_clip, "null or a number > 0")
        fits = self.ema is None or 0 < self.ema < 1
        require(fits, "trainer.ema", self.ema, "null or a number in (0, 1)")
        known = self.precision in PRECISIONS
        require(known, "trainer.precision", self.precision, f"one of {', '.join(PRECISIONS)}")
        CheckpointTrigger(self.checkpoint_every)
        known = self.device in DEVICES
        require(known, "trainer.device", self.device, f"one of {', '.join(DEVICES)}")
