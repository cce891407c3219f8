"""The training loop.

The order of the images is a pure function of (seed, epoch) and the noise one of
(seed, step), so an interrupted run that resumes from its checkpoint ends with the
weights of one that was not.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from vae.data.loader import TrainingBatches
from vae.losses import LossConfig, beta_at, loss_terms
from vae.models.base import VAE
from vae.training.base import (
    SKIPPED,
    CheckpointTrigger,
    MetricAccumulator,
    NonFiniteGuard,
    TrainerConfig,
)
from vae.training.optim import ExponentialMovingAverage, OptimizerConfig, guarded_step
from vae.utils import distributed
from vae.utils.devices import autocast, compile_model, send
from vae.utils.signals import Interrupts, stop_if_interrupted

log = logging.getLogger(__name__)

SAVE, STOP = 1, 2  # requests of a rank after a step; the larger is more urgent


class Trainer:
    """Trains a model, step by step, and reports rows of metrics.

    Args:
        model: on its device.
        batches: the training split; under torchrun, this rank's rows of each batch. Their seed
            and device are those of the noise and of the model.
        loss_config: of the loss.
        optimizer_config: of the optimizer, learning rate included.
        config: how long and how precisely.
        on_row: called with each row of train/ and perf/ metrics.
        on_epoch: called after each epoch, and at the end if that lies within one.
        on_save: called where a checkpoint is due within an epoch.
    """

    def __init__(
        self,
        model: VAE,
        batches: TrainingBatches,
        loss_config: LossConfig,
        optimizer_config: OptimizerConfig,
        config: TrainerConfig,
        *,
        on_row: Callable[[dict[str, float]], None],
        on_epoch: Callable[[], None],
        on_save: Callable[[], None],
    ) -> None:
        self.model = model
        self.batches = batches
        self.loss_config = loss_config
        self.config = config
        self.optimizer_config = optimizer_config
        self.optimizer = optimizer_config.build(model.parameters())
        self.autocast = autocast(config.precision, batches.device)
        self.on_row = on_row
        self.on_epoch = on_epoch
        self.on_save = on_save
        self.step = 0  # updates so far
        self.guard = NonFiniteGuard(config.max_skipped)
        self.checkpoint_trigger = CheckpointTrigger(config.checkpoint_every)
        self.accumulator = MetricAccumulator()
        self.parameters = list(model.parameters())
        # Of the same parameters as the plain model, which is evaluated and saved.
        self.training_model = distributed.data_parallel(model)
        if config.compile:
            self.training_model = compile_model(self.training_model)
        self.ema = ExponentialMovingAverage(model, config.ema) if config.ema else None
        self._compiling = config.compile  # the first step does

    def state(self) -> dict[str, Any]:
        """Return the state to resume from: weights, optimizer state, step, counts, open interval.

        Waits for the device.
        """
        return {
            "model": self.model.state_dict(),
            "ema": self.ema
            and {"model": self.ema.module.state_dict(), "updates": self.ema.updates},
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "skipped": {"total": self.guard.total, "in_a_row": self.guard.in_a_row},
            "pending": self.accumulator.values(),
            "epoch": self.epoch,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned; the optimizer's settings stay those of the configuration.

        Without an average of the weights in it, the average begins at the loaded weights.

        Args:
            state: of the same model and optimizer, which `validate_checkpoint` has seen to.
        """
        self.model.load_state_dict(state["model"])
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({**state["optimizer"], "param_groups": groups})
        self.step = state["step"]
        self.guard = NonFiniteGuard(self.config.max_skipped, **state["skipped"])
        self.accumulator.before = dict(state["pending"])
        if self.ema is not None:
            average = state.get("ema") or {"model": state["model"], "updates": 0}
            self.ema.module.load_state_dict(average["model"])
            self.ema.updates = average["updates"]

    @property
    def total_steps(self) -> int:
        """Number of updates of the whole run."""
        limits = [self.config.max_steps] if self.config.max_steps else []
        if self.config.epochs:
            limits.append(self.config.epochs * len(self.batches))
        return min(limits)

    @property
    def epoch(self) -> float:
        """Number of passes over the training images so far."""
        return self.step / len(self.batches)

    @property
    def position(self) -> dict[str, float]:
        """The x axes of every logged row."""
        images = self.step * self.batches.batch_size
        return {"step": self.step, "epoch": self.epoch, "images": images}

    def fit(self, interrupts: Interrupts) -> None:
        """Train to the end.

        Args:
            interrupts: looked at after each step.

        Raises:
            NotFiniteError: losses or gradients were infinite or NaN; says where.
            InterruptedRun: a signal came to a process; the current step was finished.
        """
        bar = tqdm(
            total=self.total_steps,
            initial=self.step,
            unit="step",
            dynamic_ncols=True,
            # no bar in a file, nor several at once on a terminal
            disable=bool(os.environ.get("TQDM_DISABLE")) or None,
        )
        # log lines go above the bar, not into it
        with logging_redirect_tqdm(), bar:
            while self.step < self.total_steps:
                self._train_epoch(bar, interrupts)
                if self.step % len(self.batches) == 0 or self.step == self.total_steps:
                    self.on_epoch()
                    self.checkpoint_trigger.saved()
                stop_if_interrupted(interrupts)

    def _train_epoch(self, bar: tqdm, interrupts: Interrupts) -> None:  # type: ignore[type-arg]
        """Train to the end of the epoch, the run, or an interrupt; log every `log_every` steps."""
        self.model.train()
        epoch, start = divmod(self.step, len(self.batches))
        self.accumulator.restart()
        for images in self.accumulator.timed(self.batches.epoch(epoch, start)):
            self.accumulator.steps.append(self.train_step(images))
            self.step += 1
            if self._compiling:
                log.info("first step, compiling included: %.1f s", self.accumulator.seconds)
                self._compiling = False
            bar.update()
            last = self.step % len(self.batches) == 0 or self.step == self.total_steps
            if self.step % self.config.log_every == 0 or last:
                self._report(bar)
            asks = STOP if interrupts.received else SAVE * self.checkpoint_trigger.is_due(self.step)
            asked = distributed.all_max(asks)  # all ranks do the same after the same step
            if asked == STOP or last:
                break
            if asked == SAVE:
                self.on_save()
                self.checkpoint_trigger.saved()

    def train_step(self, images: Tensor) -> dict[str, Tensor]:
        """Take one optimizer step on a batch (rows, 3, size, size) in [0, 1].

        Nothing here waits for a GPU: an update that is not finite is skipped where it is computed.
        (Of several GPUs, torch's SyncBatchNorm waits; `model.norm=group` has none.)

        Returns:
            Values to log, scalars on the device by name, averaged over the ranks: the loss terms,
            the norm of the gradient before clipping, whether the update was skipped.
        """
        rate = self.optimizer_config.learning_rate(self.step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        size = self.batches.batch_size
        noise = step_noise(self.batches.seed, self.step, (size, self.model.latent_dim))
        noise = send(noise[distributed.local_slice(size)], images.device)
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        with self.autocast:
            logits, posterior = self.training_model(images, noise)
        terms = loss_terms(
            self.loss_config,
            logits,
            images,
            posterior,
            posterior.rsample(noise),  # as `VAE.forward` did
            epoch=self.epoch,
            training_images=len(self.batches.images),
            gather=distributed.all_gather,
            autocast=self.autocast,
        )
        self.optimizer.zero_grad()
        terms.loss.backward()  # type: ignore[no-untyped-call]
        norm = get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if self.config.grad_clip:
            clip_grads_with_norm_(self.parameters, self.config.grad_clip, norm)
        values = {name: value for name, value in terms._asdict().items() if value is not None}
        values = distributed.all_mean({**values, "grad_norm": norm})
        skipped = ~torch.stack(list(values.values())).isfinite().all()
        guarded_step(self.optimizer, skipped)
        for buffer, before in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(torch.where(skipped, before, buffer))  # the forward pass has changed it
        if self.ema is not None:
            self.ema.update(self.model, (~skipped).float())
        return {**values, SKIPPED: skipped.float()}

    def _report(self, bar: tqdm) -> None:  # type: ignore[type-arg]
        """Log one row of averages; the only point where the loop waits for the GPU."""
        values = self.accumulator.values()
        finite = self.guard.count(values, self.step - len(values[SKIPPED]), len(self.batches))
        averages: dict[str, float] = {}
        if finite.any():
            del values[SKIPPED]
            means = torch.stack(list(values.values()), 1)[finite].numpy().mean(axis=0)
            averages = {f"train/{key}": mean for key, mean in zip(values, means, strict=True)}
        seconds = self.accumulator.seconds
        speed = len(self.accumulator.steps) * self.batches.batch_size / seconds
        bar.set_postfix_str(
            f"loss {averages.get('train/loss', math.nan):.4f}, {speed:.0f} images/s", refresh=False
        )
        self.on_row(
            {
                **self.position,
                **averages,
                # of the last update, as the learning rate
                "train/beta": beta_at(self.loss_config, (self.step - 1) / len(self.batches)),
                "train/lr": self.optimizer.param_groups[0]["lr"],
                "train/skipped": self.guard.total,
                "perf/images_per_second": speed,
                "perf/data_fraction": self.accumulator.data_seconds / seconds,
            }
        )
        self.accumulator.reset()


def step_noise(seed: int, step: int, shape: tuple[int, int]) -> Tensor:
    """Return standard normal noise on the CPU that depends on (seed, step) alone.

    Drawn on the CPU on purpose: a run has the same noise on every device.
    """
    state = int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)
    return torch.randn(shape, generator=torch.Generator().manual_seed(state))
