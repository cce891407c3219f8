"""Measure how many training steps take as long as the default run.

    python -m tests.profiling.equal_time [THREADS [OVERRIDES]]

For each of conf/variant/: the time of a step (the median of interleaved rounds), and the steps that
take as long as 1,200 default ones, to be written there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np
import torch

from vae.data.loader import TrainingBatches
from vae.models import build_model
from vae.runs.compose import CONF, compose
from vae.training.trainer import Trainer
from vae.utils.devices import keep_memory

ROUNDS, STEPS, WARM_UP = 7, 6, 3
BUDGET = 1200  # default steps
VARIANTS = ("default", *sorted({path.stem for path in CONF.glob("variant/*.yaml")} - {"default"}))


def trainer_of(variant: str, overrides: tuple[str, ...]) -> Trainer:
    """Return a trainer of a variant, on random images."""
    config = compose([f"+variant={variant}", *overrides])
    size, batch = config.data.image_size, config.data.batch_size
    images = np.random.default_rng(0).integers(0, 256, (4 * batch, size, size, 3), np.uint8)
    return Trainer(
        build_model(config.model, size, seed=0),
        TrainingBatches(images, batch, 0, False, torch.device("cpu")),
        *(config.loss, config.optimizer, config.trainer),
        on_row=print, on_epoch=lambda: None, on_save=lambda: None,
    )  # fmt: skip


def take_steps(trainer: Trainer, count: int) -> float:
    """Take steps; return the seconds of one."""
    images = next(trainer.batches.epoch(0))
    trainer.model.train()
    began = time.perf_counter()
    for _ in range(count):
        trainer.train_step(images)
    return (time.perf_counter() - began) / count


def main(threads: str = "2", *overrides: str) -> None:
    torch.set_num_threads(int(threads))
    keep_memory()
    steps: dict[str, Callable[[int], float]] = {
        name: partial(take_steps, trainer_of(name, overrides)) for name in VARIANTS
    }
    for take in steps.values():
        take(WARM_UP)
    rounds = [{name: take(STEPS) for name, take in steps.items()} for _ in range(ROUNDS)]
    default = median(times["default"] for times in rounds)
    for name in VARIANTS:
        seconds = median(times[name] for times in rounds)
        ratio = median(times[name] / times["default"] for times in rounds)
        print(
            f"{name:15} {1000 * seconds:7.1f} ms, {ratio:5.2f} times the default's: "
            f"{round(BUDGET / ratio):5} steps"
        )
    print(f"{BUDGET} default steps: {BUDGET * default:.0f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
