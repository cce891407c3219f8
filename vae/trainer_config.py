"""How long to train, on what, and how often to look."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from vae.devices import DEVICES, PRECISIONS
from vae.errors import require
from vae.saving import Saving


@dataclass
class TrainerConfig:
    """How long to train, on what, and how often to look (`conf/trainer/*.yaml`)."""

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
        Saving(self.checkpoint_every)
        known = self.device in DEVICES
        require(known, "trainer.device", self.device, f"one of {', '.join(DEVICES)}")
