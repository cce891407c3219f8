"""The training loop, and nothing else.

The order of the images is a pure function of (seed, epoch) and the noise one of
(seed, step), so a run that was cut and goes on from its checkpoint ends with the
weights of one that was not.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from omegaconf import MISSING
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from vae.data.loader import TrainingBatches
from vae.devices import DEVICES, PRECISIONS
from vae.errors import UserError, require
from vae.interrupts import InterruptedRun, Interrupts
from vae.interval import Interval
from vae.losses import LossConfig, LossTerms, loss_terms
from vae.models.vae import VAE


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
    log_every: int = MISSING  # steps between rows of train/ metrics; int >= 1
    figures_every: int = MISSING  # epochs between figures; int >= 1

    def __post_init__(self) -> None:
        for key in ("epochs", "max_steps", "num_threads"):
            value = getattr(self, key)
            require(value is None or value >= 1, f"trainer.{key}", value, "null or an int >= 1")
        for key in ("log_every", "figures_every"):
            value = getattr(self, key)
            require(value >= 1, f"trainer.{key}", value, "an int >= 1")
        limited = self.epochs is not None or self.max_steps is not None
        require(limited, "trainer.epochs", None, "an int >= 1 unless trainer.max_steps is given")
        clips = self.grad_clip is None or self.grad_clip > 0
        require(clips, "trainer.grad_clip", self.grad_clip, "null or a number > 0")
        known = self.precision in PRECISIONS
        require(known, "trainer.precision", self.precision, f"one of {', '.join(PRECISIONS)}")
        known = self.device in DEVICES
        require(known, "trainer.device", self.device, f"one of {', '.join(DEVICES)}")


class NotFiniteError(UserError):
    """The loss or its gradient became infinite or NaN."""


class Trainer:
    """Trains a model, step by step, and reports rows of metrics.

    Args:
        model: on its device, in the state to go on from.
        optimizer: over the model's parameters.
        batches: the training split.
        loss: what is minimised.
        config: how long and how precisely.
        learning_rate: of (step, total steps).
        seed: of the noise.
        autocast: the precision that the model runs in.
        step: updates done already (a resumed run's), else 0.
        on_row: called with each row of train/ and perf/ metrics.
        on_epoch: called after each epoch, and at the end if that lies within one.
    """

    def __init__(
        self,
        model: VAE,
        optimizer: torch.optim.Optimizer,
        batches: TrainingBatches,
        loss: LossConfig,
        config: TrainerConfig,
        *,
        learning_rate: Callable[[int, int], float],
        seed: int,
        autocast: torch.autocast,
        step: int = 0,
        on_row: Callable[[dict[str, float]], None],
        on_epoch: Callable[[Trainer], None],
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.batches = batches
        self.loss = loss
        self.config = config
        self.learning_rate = learning_rate
        self.seed = seed
        self.autocast = autocast
        self.step = step
        self.on_row = on_row
        self.on_epoch = on_epoch
        self.parameters = list(model.parameters())
        # The compiled callable shares the module's parameters; the plain module is what
        # is evaluated and saved, so checkpoints do not know of the compiler.
        self.forward = torch.compile(model, dynamic=False) if config.compile else model

    @property
    def total_steps(self) -> int:
        """Updates of the whole run."""
        limits = [self.config.max_steps] if self.config.max_steps else []
        if self.config.epochs:
            limits.append(self.config.epochs * len(self.batches))
        return min(limits)

    @property
    def epoch(self) -> float:
        """Passes over the training images so far."""
        return self.step / len(self.batches)

    @property
    def position(self) -> dict[str, float]:
        """The x axes of every row."""
        images = self.step * self.batches.batch_size
        return {"step": self.step, "epoch": self.epoch, "images": images}

    def fit(self, interrupts: Interrupts) -> None:
        """Train to the end.

        Args:
            interrupts: looked at after each step.

        Raises:
            NotFiniteError: a loss or gradient was infinite or NaN; says where.
            InterruptedRun: SIGINT or SIGTERM came; the current step was finished.
        """
        # log lines go above the bar, not into it
        with logging_redirect_tqdm(), self._progress() as bar:
            while self.step < self.total_steps:
                self._train_epoch(bar, interrupts)
                if self.step % len(self.batches) == 0 or self.step == self.total_steps:
                    self.on_epoch(self)
                if interrupts.received:
                    raise InterruptedRun(interrupts.received.name)

    def _progress(self) -> tqdm:  # type: ignore[type-arg]
        return tqdm(
            total=self.total_steps,
            initial=self.step,
            unit="step",
            dynamic_ncols=True,
            # no bar in a file, nor several at once on a terminal
            disable=bool(os.environ.get("TQDM_DISABLE")) or None,
        )

    def _train_epoch(self, bar: tqdm, interrupts: Interrupts) -> None:  # type: ignore[type-arg]
        """To the epoch's end, the run's end or an interrupt, with a row every `log_every` steps."""
        self.model.train()
        epoch, start = divmod(self.step, len(self.batches))
        interval = Interval()
        for images in interval.timed(self.batches.epoch(epoch, start)):
            interval.add(*self._update(images))
            self.step += 1
            bar.update()
            last = self.step == self.total_steps or interrupts.received
            if self.step % self.config.log_every == 0 or last:
                self._report(interval, bar)
                interval.reset()
            if last:
                break
        self._report(interval, bar)  # what is left of the epoch

    def _update(self, images: Tensor) -> tuple[LossTerms, Tensor]:
        """One step of the optimiser: the loss terms and the gradient's norm before clipping."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step, self.total_steps)
        noise = step_noise(self.seed, self.step, (len(images), self.model.latent_dim))
        with self.autocast:
            logits, posterior = self.forward(images, noise.to(images.device, non_blocking=True))
        terms = loss_terms(self.loss, logits, images, posterior)
        self.optimizer.zero_grad()
        terms.loss.backward()  # type: ignore[no-untyped-call]
        grads = [p.grad for p in self.parameters if p.grad is not None]
        norm = get_total_norm(grads)
        if self.config.grad_clip:
            clip_grads_with_norm_(self.parameters, self.config.grad_clip, norm)
        self.optimizer.step()
        return terms, norm

    def _report(self, interval: Interval, bar: tqdm) -> None:  # type: ignore[type-arg]
        """One row of the interval's averages; the only point where the loop waits for a GPU."""
        if interval.steps == 0:
            return
        values = interval.values()
        if not np.isfinite(values).all():
            row = int(np.argmin(np.isfinite(values).all(axis=1)))
            self._fail(self.step - len(values) + row, values[row])
        loss, distortion, rate, norm = values.mean(axis=0)
        seconds = interval.seconds
        speed = len(values) * self.batches.batch_size / seconds
        bar.set_postfix_str(
            f"loss {loss:.4f}, rate {rate:.1f}, distortion {distortion:.0f}, {speed:.0f} images/s",
            refresh=False,
        )
        self.on_row(
            {
                **self.position,
                "train/loss": loss,
                "train/distortion": distortion,
                "train/rate": rate,
                "train/beta": self.loss.beta,
                "train/lr": self.optimizer.param_groups[0]["lr"],
                "train/grad_norm": norm,
                "perf/images_per_second": speed,
                "perf/data_fraction": interval.data_seconds / seconds,
            }
        )

    def _fail(self, step: int, values: np.ndarray) -> None:
        names = ("loss", "distortion", "rate", "gradient norm")
        bad = [
            f"{name} = {value}"
            for name, value in zip(names, values, strict=True)
            if not math.isfinite(value)
        ]
        epoch, batch = divmod(step, len(self.batches))
        raise NotFiniteError(
            f"training stopped at step {step} (epoch {epoch}, batch {batch}): "
            f"{', '.join(bad)}. Try a smaller optimizer.lr, or trainer.grad_clip=1."
        )


def step_noise(seed: int, step: int, shape: tuple[int, int]) -> Tensor:
    """Standard normal noise on the CPU that depends on (seed, step) alone.

    Drawn on the CPU on purpose: a run has the same noise on every device.
    """
    state = int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)
    return torch.randn(shape, generator=torch.Generator().manual_seed(state))
