"""What a run is, in plain values: for its checkpoint, its summary and its record on W&B."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from vae.devices import device_name, pick_precision
from vae.losses import beta_elbo
from vae.models.size import multiply_adds

if TYPE_CHECKING:
    from vae.run import Run
    from vae.training import Trainer


def checkpoint_of(run: Run) -> dict[str, Any]:
    """All that resuming needs, and nothing that runs."""
    trainer = run.trainer
    return {
        "model": trainer.model.state_dict(),
        "ema": average_of(trainer),
        "optimizer": trainer.optimizer.state_dict(),
        "step": trainer.step,
        "skipped": trainer.skipped.state(),
        "pending": trainer.pending,
        "epoch": trainer.epoch,
        "measured": run.measured,
        "seconds": run.elapsed(),
        "seed": run.config.seed,
        "precision": precision_of(run),
        "config": dict(run.settings),
        "best": run.best,
        "final": run.final,
        "run_id": run.run_id,
    }


def average_of(trainer: Trainer) -> dict[str, Any] | None:
    """The average of the weights, and of how many updates it is; None where there is none."""
    if trainer.average is None:
        return None
    average = trainer.average
    return {"model": average.module.state_dict(), "updates": int(average.n_averaged)}


def summary_of(run: Run, status: str, error: str | None) -> dict[str, Any]:
    """How it ended."""
    objectives = [run.final.get(key) for key in run.config.objectives]
    return {
        "status": status,
        "error": error,
        "step": run.trainer.step,
        "total_steps": run.trainer.total_steps,
        "seconds": run.elapsed(),
        "machine": machine_of(run),
        "precision": precision_of(run),
        "beta_elbo": weight_of(run),
        "objective": objectives if isinstance(run.config.objective, list) else objectives[0],
        "final": run.final,
        "best": run.best,
        "wandb_run_id": run.run_id,
    }


def record_of(run: Run) -> dict[str, Any]:
    """Its settings, and what they come to."""
    return {
        **run.settings,
        "beta_elbo": weight_of(run),
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "multiply_adds": multiply_adds(run.model, run.config.data.image_size),  # of an image
        "precision": precision_of(run),
    }


def weight_of(run: Run) -> float:
    """beta in nats against nats."""
    return beta_elbo(run.config.loss, run.config.data.image_size, run.model.latent_dim)


def precision_of(run: Run) -> str:
    """fp32 or bf16, of `auto`, too."""
    return pick_precision(run.config.trainer.precision, run.device)


def machine_of(run: Run) -> str:
    """What it computes on, by name, for whoever compares times."""
    threads = run.config.trainer.num_threads or torch.get_num_threads()
    used = f", {threads} thread{'s' * (threads > 1)}" if run.device.type == "cpu" else ""
    return f"{device_name(run.device)}{used}, torch {torch.__version__.partition('+')[0]}"


def place_of(run: Run) -> str:
    """What it computes on, in words."""
    threads = run.config.trainer.num_threads or torch.get_num_threads()
    on = f"cpu (threads: {threads})" if run.device.type == "cpu" else str(run.device)
    world = run.trainer.world
    return f"{world.size} processes, each on {on}" if world.size > 1 else on
