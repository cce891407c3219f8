"""The training loop.

The order of the images is a pure function of (seed, epoch) and the noise one of
(seed, step), so an interrupted run that resumes from its checkpoint ends with the
weights of one that was not.
"""

from __future__ import annotations

import logging
import math
import os
import signal
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from vae.data.loader import TrainingBatches
from vae.losses import LossConfig, LossTerms, beta_at, loss_terms
from vae.models.base import VAE
from vae.training import CheckpointTrigger, TrainerConfig
from vae.training.optim import ExponentialMovingAverage
from vae.training.processes import Sharding
from vae.training.step_metrics import MetricAccumulator, NonFiniteGuard
from vae.utils.devices import send
from vae.utils.distributed import SINGLE_PROCESS, ProcessGroup
from vae.utils.signals import InterruptedRun, Interrupts

log = logging.getLogger(__name__)

SAVE, STOP = 1, 2  # requests of a rank after a step; the larger is more urgent


class Trainer:
    """Trains a model, step by step, and reports rows of metrics.

    Args:
        model: on its device, in the state to go on from.
        optimizer: over the model's parameters.
        batches: the training split.
        loss: settings of the loss.
        config: how long and how precisely.
        learning_rate: of (step, total steps).
        seed: of the noise.
        autocast: the precision that the model runs in.
        step: updates done already (a resumed run's), else 0.
        skipped: counts of those that were not finite (a resumed run's), else none.
        pending: values of the steps that are in no row yet (a resumed run's), else none.
        world: the processes that train together, each with its share of every batch.
        on_row: called with each row of train/ and perf/ metrics.
        on_epoch: called after each epoch, and at the end if that lies within one.
        on_save: called where a checkpoint is due within an epoch.
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
        skipped: Mapping[str, int] | None = None,
        pending: Tensor | None = None,
        world: ProcessGroup = SINGLE_PROCESS,
        on_row: Callable[[dict[str, float]], None],
        on_epoch: Callable[[Trainer], None],
        on_save: Callable[[], None],
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
        self.guard = NonFiniteGuard(config.max_skipped, **(skipped or {}))
        self.world = world
        self.on_row = on_row
        self.on_epoch = on_epoch
        self.on_save = on_save
        self.checkpoint_trigger = CheckpointTrigger(config.checkpoint_every)
        self.accumulator = MetricAccumulator(pending)
        self.pending = self.accumulator.values()
        self.parameters = list(model.parameters())
        self.sharding = Sharding(optimizer, world)
        world.synchronize_batch_norm(model)
        self.buffers = list(model.buffers())  # BatchNorm's statistics: a forward pass changes them
        self.ema = ExponentialMovingAverage(model, config.ema) if config.ema else None
        # The compiled callable shares the module's parameters; the plain module is what
        # is evaluated and saved, so checkpoints do not know of the compiler.
        self.forward = world.compile(model) if config.compile else model
        self._compiling = config.compile  # the first step does

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
        # log lines go above the bar, not into it
        with logging_redirect_tqdm(), self._progress() as bar:
            while self.step < self.total_steps:
                self._train_epoch(bar, interrupts)
                if self.step % len(self.batches) == 0 or self.step == self.total_steps:
                    self._gather()
                    self.on_epoch(self)
                    self.checkpoint_trigger.saved()
                if self.world.max(bool(interrupts.received)):
                    self._gather()
                    raise InterruptedRun(interrupts.received or signal.SIGTERM)  # another's

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
        """Train to the end of the epoch, the run, or an interrupt; log every `log_every` steps."""
        self.model.train()
        epoch, start = divmod(self.step, len(self.batches))
        self.accumulator.restart()
        for images in self.accumulator.timed(self.batches.epoch(epoch, start)):
            self.accumulator.add(*self._update(images))
            self.step += 1
            if self._compiling:
                log.info("first step, compiling included: %.1f s", self.accumulator.seconds)
                self._compiling = False
            bar.update()
            last = self.step % len(self.batches) == 0 or self.step == self.total_steps
            if self.step % self.config.log_every == 0 or last:
                self._report(bar)
            asks = STOP if interrupts.received else SAVE * self.checkpoint_trigger.is_due(self.step)
            asked = self.world.max(asks)  # all do the same after the same step
            if asked == STOP or last:
                break
            if asked == SAVE:
                self._gather()
                self.on_save()
                self.checkpoint_trigger.saved()

    def _update(self, images: Tensor) -> tuple[LossTerms, Tensor]:
        """Take one optimizer step; return loss terms and gradient norm before clipping."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step, self.total_steps)
        size = self.batches.batch_size
        noise = step_noise(self.seed, self.step, (size, self.model.latent_dim))
        noise = send(noise[self.world.local_slice(size)], images.device)
        buffers = [buffer.clone() for buffer in self.buffers]
        with self.autocast:
            logits, posterior = self.forward(images, noise)
        terms = loss_terms(
            self.loss,
            logits,
            images,
            posterior,
            posterior.rsample(noise),
            epoch=self.epoch,
            training_images=len(self.batches.images),
            world=self.world,
        )
        self.optimizer.zero_grad()
        terms.loss.backward()  # type: ignore[no-untyped-call]
        own = get_total_norm(self.sharding.average_gradients())
        total = torch.stack(terms).detach().sum()  # one that is not finite makes this so, too
        own = own.to(total.device)  # a process that owns nothing has its 0 on the CPU
        norms, totals = torch.stack(self.world.all_gather(torch.stack([own, total]))).unbind(1)
        norm, total = norms.norm(), totals.sum()
        if self.config.grad_clip:
            clip_grads_with_norm_(self.parameters, self.config.grad_clip, norm)
        # An update that is not finite is skipped where it is computed: nothing waits to know.
        skipped = ~(norm + total).isfinite()
        self.optimizer.found_inf = skipped.float()  # type: ignore[attr-defined]
        self.optimizer.step()
        self.sharding.broadcast_updates()
        for buffer, before in zip(self.buffers, buffers, strict=True):
            buffer.copy_(torch.where(skipped, before, buffer))
        if self.ema is not None:
            self.ema.update(self.model, (~skipped).float())
        return terms, norm

    def _gather(self) -> None:
        """Gather `pending` (values in no row yet) and all moments, for a checkpoint."""
        if self.accumulator.steps:
            self.pending = self.world.mean(self.accumulator.values())
        if self.world.size > 1:
            self.sharding.gather_state()

    def _report(self, bar: tqdm) -> None:  # type: ignore[type-arg]
        """Log one row of averages; the only point where the loop waits for the GPU."""
        values = self.world.mean(self.accumulator.values()).numpy()
        finite = self.guard.count(values, self.step - len(values), len(self.batches))
        averages: dict[str, float] = {}
        if finite.any():
            keys = (*LossTerms._fields, "grad_norm")
            means = values[finite].mean(axis=0)
            averages = {f"train/{key}": mean for key, mean in zip(keys, means, strict=True)}
        seconds = self.accumulator.seconds
        speed = len(self.accumulator.rows) * self.batches.batch_size / seconds
        bar.set_postfix_str(
            f"loss {averages.get('train/loss', math.nan):.4f}, {speed:.0f} images/s", refresh=False
        )
        self.on_row(
            {
                **self.position,
                **averages,
                "train/beta": beta_at(
                    self.loss, (self.step - 1) / len(self.batches)
                ),  # as lr, the last
                "train/lr": self.optimizer.param_groups[0]["lr"],
                "train/skipped": self.guard.total,
                "perf/images_per_second": speed,
                "perf/data_fraction": self.accumulator.data_seconds / seconds,
            }
        )
        self.accumulator.reset()
        self.pending = self.accumulator.values()


def step_noise(seed: int, step: int, shape: tuple[int, int]) -> Tensor:
    """Return standard normal noise on the CPU that depends on (seed, step) alone.

    Drawn on the CPU on purpose: a run has the same noise on every device.
    """
    state = int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)
    return torch.randn(shape, generator=torch.Generator().manual_seed(state))
