"""Time to a given quality: a plain recipe, then each of this project's changes in turn.

The quality is the validation PSNR that the plain means have reached after 1,000 steps.
Data, model, loss, weights at the start, order of images and noise are the same for all
who take batches of the same size.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, count, islice
from typing import Any

import torch

from vae.benchmark.steps import (
    FAST,
    LOSS,
    OPTIMIZERS,
    PLAIN,
    Setting,
    Variant,
    build_variant,
    training_step,
)
from vae.benchmark.timing import Figures, Measure, Series, measure_in_turns, synchronize
from vae.data import open_data
from vae.data.loader import TrainingBatches, evaluation_batches
from vae.runs.compose import compose
from vae.training.metrics import EVALUATION_BATCH, evaluate_split
from vae.training.optim import OptimizerConfig
from vae.training.trainer import step_noise
from vae.utils.devices import keep_memory, pick_precision, send

TURNS = 20  # parts that each run is cut into, so that all can take turns

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """A training recipe: model variant, optimizer, batch size, largest number of steps."""

    name: str
    variant: Variant
    optimizer: OptimizerConfig
    batch: int
    steps: int  # done at the most
    run: int = 0  # steps of the whole run, which its schedule of the learning rate refers to


def training_recipes(device: str) -> list[Recipe]:
    """Return the recipes from the plain one to the default of `python train.py`, one change each.

    Args:
        device: cpu, cuda or mps: bf16 is among them where it computes in it.
    """
    config = compose([])
    muon = OPTIMIZERS["muon"]
    plain = Recipe("plain: Adam at 1e-3, batches of 64", PLAIN, OPTIMIZERS["adam"], 64, 1000)
    fast = replace(plain, name="+ a faster step", variant=FAST)
    precision = pick_precision(config.trainer.precision, torch.device(device))
    precise = replace(fast, name=f"+ in {precision}", variant=replace(FAST, precision=precision))
    matrices = replace(precise, name="+ Muon", optimizer=muon, steps=400)
    small = replace(matrices, name="+ batches of 32", batch=32, steps=500)
    trained = len(open_data(config.data).images["train"])
    default = replace(
        small,
        name="+ its rate falls, as by default",
        optimizer=config.optimizer,
        batch=config.data.batch_size,
        run=(config.trainer.epochs or 1) * (trained // config.data.batch_size),
    )
    changed = [precise] if precision != FAST.precision else []
    return [plain, fast, *changed, matrices, small, default]


def prepare_recipe(setting: Setting, recipe: Recipe) -> Measure:
    """Measure `<recipe>/seconds` of training without validation, and `<recipe>/psnr` after them.

    Each call does one of `TURNS` equal parts of the steps.
    """
    if recipe.variant.keeps_memory:
        keep_memory()
    device = torch.device(setting.device)
    images = open_data(compose([]).data).images
    batches = TrainingBatches(images["train"], recipe.batch, setting.seed, False, device)
    model = build_variant(setting, recipe.variant).train()
    measured = build_variant(setting, FAST)  # whatever it was trained with, it is measured quickly
    optimizer = recipe.optimizer.build(model.parameters())
    train = training_step(setting, recipe.variant, model, optimizer)
    steps = enumerate(chain.from_iterable(map(batches.epoch, count())))

    def measure() -> Figures:
        synchronize(setting.device)
        started = time.perf_counter()
        for step, batch in islice(steps, recipe.steps // TURNS):
            for group in optimizer.param_groups:
                group["lr"] = recipe.optimizer.learning_rate(step, recipe.run)
            noise = step_noise(setting.seed, step, (recipe.batch, setting.latent_dim))
            train(batch, send(noise, device))
        synchronize(setting.device)
        seconds = time.perf_counter() - started
        measured.load_state_dict(model.state_dict())
        validation = evaluation_batches(images["val"], EVALUATION_BATCH, device)
        psnr = evaluate_split(measured, validation, LOSS).metrics["psnr"]
        return {f"{recipe.name}/seconds": seconds, f"{recipe.name}/psnr": psnr}

    return measure


def measure_quality(setting: Setting, seeds: int) -> list[dict[str, Any]]:
    """Run all recipes interleaved, for each seed; return one row per recipe and seed.

    The setting's batch is not used.
    """
    recipes = training_recipes(setting.device)
    rows = []
    for seed in range(setting.seed, setting.seed + seeds):
        log.info("time to quality, seed %d: %d rounds", seed, TURNS)
        seeded = replace(setting, seed=seed)
        prepares = {each.name: partial(prepare_recipe, seeded, each) for each in recipes}
        series = measure_in_turns(prepares, setting.threads, TURNS)
        rows += quality_rows(recipes, series, seed)
    return rows


def quality_rows(recipes: Sequence[Recipe], series: Series, seed: int) -> list[dict[str, Any]]:
    """Return when each recipe reached the plain recipe's final PSNR: steps, seconds, speed-up.

    All three are None for those that did not reach it.
    """
    first = recipes[0].name
    target = series[f"{first}/psnr"][-1]
    whole = sum(series[f"{first}/seconds"])
    rows = []
    for each in recipes:
        psnrs, seconds = series[f"{each.name}/psnr"], series[f"{each.name}/seconds"]
        turn = next((i for i, psnr in enumerate(psnrs, start=1) if psnr >= target), None)
        taken = sum(seconds[:turn]) if turn else None
        rows.append(
            {
                "means": each.name,
                "seed": seed,
                "target": target,
                "steps": turn * (each.steps // TURNS) if turn else None,
                "seconds": taken,
                "ratio": whole / taken if taken else None,
                "psnr_by_turn": psnrs,
                "seconds_by_turn": seconds,
            }
        )
    return rows
