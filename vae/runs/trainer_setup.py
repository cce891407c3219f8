"""Set-up of the trainer, and validation of its model; the same on every rank."""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vae.data.loader import TrainingBatches, evaluation_batches
from vae.models import VAE, build_model
from vae.runs.config import RunConfig
from vae.runs.failures import require_memory
from vae.training.metrics import EVALUATION_BATCH, Evaluation, evaluate_split
from vae.training.muon import Muon
from vae.training.optim import build_optimizer, group_settings, learning_rate
from vae.training.step_metrics import REMEDY, NotFiniteError
from vae.training.trainer import Trainer
from vae.utils.devices import autocast, keep_memory
from vae.utils.distributed import ProcessGroup
from vae.utils.errors import UserError
from vae.utils.signals import InterruptedRun, Interrupts

log = logging.getLogger(__name__)


def build_trainer(
    config: RunConfig,
    images: np.ndarray,
    device: torch.device,
    state: dict[str, Any] | None,
    world: ProcessGroup,
    *,
    on_row: Callable[[dict[str, float]], None],
    on_epoch: Callable[[Trainer], None],
    on_save: Callable[[], None],
) -> Trainer:
    """Build the trainer of a configuration, with its model and optimizer.

    Args:
        config: checked.
        images: the training split, (count, size, size, 3) uint8.
        device: where to train.
        state: a checkpoint to go on from; None to start anew.
        world: the processes that train together.
        on_row, on_epoch, on_save: as for the Trainer.

    Raises:
        UserError: the checkpoint's weights are of another model, or the model is larger than
            the memory.
    """
    if device.type == "cpu":
        keep_memory()
    require_memory(config)
    model = _seeded_model(config).to(device)
    optimizer = build_optimizer(config.optimizer, model.parameters())
    step, skipped, pending = 0, None, None
    if state is not None:
        with _reraise_as_user_error():
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            _require_fitting(optimizer)
        for group in optimizer.param_groups:  # the moments are the old, these may be new
            group.update(group_settings(config.optimizer))
        step, skipped, pending = state["step"], state["skipped"], state["pending"]
        log.info("resuming at step %d", step)
    data = config.data
    trainer = Trainer(
        model,
        optimizer,
        TrainingBatches(images, data.batch_size, config.seed, data.flip, device, world),
        config.loss,
        config.trainer,
        learning_rate=partial(learning_rate, config.optimizer),
        seed=config.seed,
        autocast=autocast(config.trainer.precision, device),
        step=step,
        skipped=skipped,
        pending=pending,
        world=world,
        on_row=on_row,
        on_epoch=on_epoch,
        on_save=on_save,
    )
    if trainer.ema is not None and state is not None and state.get("ema") is not None:
        with _reraise_as_user_error():  # without one, the average begins here
            trainer.ema.load(state["ema"])
    return trainer


def validate(
    trainer: Trainer, images: np.ndarray, interrupts: Interrupts
) -> tuple[dict[str, float], Evaluation]:
    """Return the validation metrics by key, `val/bpd`, and the evaluation behind them.

    Those of the average of the weights, where there is one, are `ema/bpd` and so on.

    Args:
        trainer: its model, as it is now.
        images: the validation split, (count, size, size, 3) uint8.
        interrupts: looked at before and after each batch.

    Raises:
        NotFiniteError: one of them is infinite or NaN.
        InterruptedRun: a signal came to a process.
    """
    world = trainer.world

    def look() -> None:
        if world.max(bool(interrupts.received)):
            raise InterruptedRun(interrupts.received or signal.SIGTERM)  # another's

    def batches() -> Iterator[Tensor]:
        look()
        for batch in evaluation_batches(images, EVALUATION_BATCH, trainer.batches.device):
            yield batch
            look()

    def evaluated(model: VAE) -> Evaluation:
        count = len(trainer.batches.images)
        return evaluate_split(model, batches(), trainer.loss, trainer.autocast, count, world=world)

    evaluation = evaluated(trainer.model)
    metrics = {f"val/{name}": value for name, value in evaluation.metrics.items()}
    if trainer.ema is not None:
        of_ema = evaluated(trainer.ema.module).metrics
        metrics |= {f"ema/{name}": value for name, value in of_ema.items()}
    if not all(map(math.isfinite, metrics.values())):  # keep the checkpoint before it
        raise NotFiniteError(
            f"validation at step {trainer.step} is not finite: {metrics}. {REMEDY}"
        )
    return metrics, evaluation


@contextmanager
def _reraise_as_user_error() -> Iterator[None]:
    """Reraise errors of a checkpoint that does not match its own settings as a UserError."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            "resume: the weights in the checkpoint are not those of its own settings "
            f"({type(error).__name__})."
        ) from error


def _require_fitting(optimizer: torch.optim.Optimizer) -> None:
    """Raise a ValueError unless the moments have the parameters' shapes; torch does not check."""
    for parameter, moments in optimizer.state.items():
        adam = parameter.ndim < 2 or not isinstance(optimizer, Muon)
        names = ("step", "exp_avg", "exp_avg_sq") if adam else ("exp_avg",)
        shapes = dict.fromkeys(names, parameter.shape) | ({"step": torch.Size()} if adam else {})
        if {name: value.shape for name, value in moments.items()} != shapes:
            raise ValueError("moments of other parameters")


def _seeded_model(config: RunConfig) -> VAE:
    """Build the model with weights that depend on the seed alone; keep torch's RNG state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return build_model(config.model, config.data.image_size)
