"""Optimizers, the learning rate schedule, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, ClassVar

import torch
from omegaconf import MISSING
from torch import Tensor, nn
from torch.optim import Optimizer

from vae.models.base import VAE
from vae.utils.compat import without_compiler
from vae.utils.errors import require, require_ranges
from vae.utils.registry import register

SCHEDULES = ("constant", "cosine")


@dataclass
class OptimizerConfig:
    """Settings that every optimizer has (`conf/optimizer/*.yaml` holds the values).

    An optimizer is a subclass with the class `kind`, registered by its name. What it adds to
    these settings are arguments of `kind`.
    """

    name: str = MISSING  # the name it is registered by; optimizer=NAME fills it in
    lr: float = MISSING  # learning rate; a number from 1e-12 to 1e9
    weight_decay: float = MISSING  # a number from 0 to 1e9
    schedule: str = MISSING  # of the learning rate over the run: constant or cosine
    warmup_steps: int = 0  # in which the learning rate grows to its full size; int from 0 to 1e9

    kind: ClassVar[type[Optimizer]]  # steps without a closure

    def __post_init__(self) -> None:
        ranges = {"lr": (1e-12, 1e9), "weight_decay": (0, 1e9), "warmup_steps": (0, 10**9)}
        require_ranges("optimizer", self, **ranges)
        known = self.schedule in SCHEDULES
        require(known, "optimizer.schedule", self.schedule, f"one of {', '.join(SCHEDULES)}")

    def build(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Build the optimizer of these parameters."""
        kind = without_compiler(self.kind)  # the same steps after a faster start
        return kind(parameters, **self.settings())

    def settings(self) -> dict[str, Any]:
        """Return the arguments of `kind` after the parameters."""
        others = ("name", "schedule", "warmup_steps")
        return {key: value for key, value in vars(self).items() if key not in others}

    def learning_rate(self, step: int, total_steps: int) -> float:
        """Return the learning rate of update `step` (from 0) of a run of `total_steps`.

        cosine: from `lr` down to 0 along half a cosine (Loshchilov & Hutter 2017, without
        restarts). The first `warmup_steps` are taken with lr · 1/n, 2/n, ... of it (Goyal et al.
        2017), and the cosine begins after them. A pure function of the step, so that a resumed
        run needs no state for it.
        """
        warmup = self.warmup_steps
        if step < warmup:
            return self.lr * (step + 1) / warmup
        if self.schedule == "constant":
            return self.lr
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total_steps - warmup)))


@dataclass
class MomentsConfig(OptimizerConfig):
    """Settings of optimizers that average the gradient and its square, as Adam does."""

    betas: list[float] = field(default_factory=list)  # decay of both averages; from 0 to 0.999999
    eps: float = MISSING  # added to the root of the second one; a number from 1e-30 to 1

    def __post_init__(self) -> None:
        super().__post_init__()
        # OmegaConf lets lists through for numbers where they are in a list
        fit = [type(decay) in (float, int) and 0 <= decay <= 0.999999 for decay in self.betas]
        takes = "two numbers from 0 to 0.999999"
        require(fit == [True, True], "optimizer.betas", self.betas, takes)
        require_ranges("optimizer", self, eps=(1e-30, 1))

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "betas": tuple(self.betas)}


@register("optimizer", "adam")
@dataclass
class AdamConfig(MomentsConfig):
    """`optimizer=adam` (Kingma & Ba 2015)."""

    kind: ClassVar[type[Optimizer]] = torch.optim.Adam

    def settings(self) -> dict[str, Any]:
        # fused: one kernel for all parameters, on CPUs and GPUs alike
        return {**super().settings(), "fused": True}


@register("optimizer", "adamw")
@dataclass
class AdamWConfig(AdamConfig):
    """`optimizer=adamw` (Loshchilov & Hutter 2019)."""

    kind = torch.optim.AdamW


@torch.no_grad()
def guarded_step(optimizer: Optimizer, skipped: Tensor) -> None:
    """Take an optimizer step that changes nothing where `skipped` is true.

    `skipped` is a boolean scalar on the device. Optimizers that follow torch's protocol for
    gradient scaling (its fused ones, and Muon) read it there, as `found_inf`, and nothing waits
    for it. For any other optimizer, the step waits for its value.
    """
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        if not skipped:
            optimizer.step()
        return
    first = not optimizer.state
    optimizer.found_inf = skipped.float()  # type: ignore[attr-defined]
    optimizer.step()
    for state in optimizer.state.values() if first else ():
        for moment in filter(torch.is_tensor, state.values()):
            moment.masked_fill_(skipped.to(moment.device), 0.0)  # of SGD, it was not set


def state_of_a_step(config: OptimizerConfig, shapes: Sequence[torch.Size]) -> dict[int, Any]:
    """Return an optimizer's state after one step with parameters of zeros, by their number.

    Args:
        shapes: of the parameters, in their order.
    """
    examples: dict[torch.Size, dict[str, Any]] = {}
    for shape in set(shapes):
        parameter = nn.Parameter(torch.zeros(shape))
        parameter.grad = torch.zeros(shape)
        optimizer = config.build([parameter])
        optimizer.step()
        examples[shape] = dict(optimizer.state[parameter])
    return {number: examples[shape] for number, shape in enumerate(shapes)}


class ExponentialMovingAverage:
    """Exponential moving average of a model's weights and buffers.

    average += (1 - decay) · (weights - average) after each update, where decay is at most
    (1 + n) / (10 + n) after n updates: else the weights that training began with would be
    in the average of a short run for good. (torch's AveragedModel sends its count of updates
    to a GPU at each of them, and waits until it is there.)

    Args:
        model: whose; the average begins as a copy of it.
        decay: in (0, 1); the average is over the last 1 / (1 - decay) updates or so.
    """

    def __init__(self, model: VAE, decay: float) -> None:
        self.module = deepcopy(model).requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: VAE, keep: Tensor) -> None:
        """Add the weights of a model after an update.

        Args:
            model: the one that is trained.
            keep: on its device, 1; or 0 where the update was skipped and nothing is to
                change. It is not waited for.
        """
        n = self.updates
        share = (1 - min(self.decay, (1 + n) / (10 + n)) if n else 1.0) * keep
        for average, value in zip(_tensors(self.module), _tensors(model), strict=True):
            if average.is_floating_point():
                average.lerp_(value, share)
            else:  # a count of batches
                average.copy_(value)
        self.updates += 1


def _tensors(model: VAE) -> Iterator[Tensor]:
    """Yield parameters and buffers, each once, also where layers share one."""
    return chain(model.parameters(), model.buffers())
