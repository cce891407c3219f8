"""Optimizers, the learning rate schedule, and the moving average of the weights."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from omegaconf import MISSING
from torch import Tensor

from vae.models.base import VAE
from vae.training.muon import Muon
from vae.utils.errors import require

KINDS: dict[str, Any] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "muon": Muon}
SCHEDULES = ("constant", "cosine")


@dataclass
class OptimizerConfig:
    """Settings of Adam, AdamW and Muon (`conf/optimizer/*.yaml` holds the values)."""

    name: str = MISSING  # adam, adamw or muon; set by the YAML, not by hand
    lr: float = MISSING  # learning rate; a number > 0
    betas: list[float] = field(default_factory=list)  # decay of the two moments; in [0, 1)
    eps: float = MISSING  # added to the root of the second moment; a number > 0
    weight_decay: float = MISSING  # a number >= 0
    schedule: str = MISSING  # of the learning rate over the run: constant or cosine
    warmup_steps: int = 0  # in which the learning rate grows to its full size; int >= 0

    def __post_init__(self) -> None:
        require(self.name in KINDS, "optimizer.name", self.name, f"one of {', '.join(KINDS)}")
        require(0 < self.lr < float("inf"), "optimizer.lr", self.lr, "a number > 0")
        # OmegaConf lets lists through for numbers where they are in a list
        numbers = all(isinstance(decay, (float, int)) for decay in self.betas)
        fits = numbers and len(self.betas) == 2 and all(0 <= decay < 1 for decay in self.betas)
        require(fits, "optimizer.betas", self.betas, "two numbers in [0, 1)")
        require(self.eps > 0, "optimizer.eps", self.eps, "a number > 0")
        decay = self.weight_decay
        require(0 <= decay < float("inf"), "optimizer.weight_decay", decay, "a number >= 0")
        known = self.schedule in SCHEDULES
        require(known, "optimizer.schedule", self.schedule, f"one of {', '.join(SCHEDULES)}")
        require(self.warmup_steps >= 0, "optimizer.warmup_steps", self.warmup_steps, "an int >= 0")


def learning_rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Return the learning rate of update `step` (from 0) of a run of `total_steps`.

    cosine: from `lr` down to 0 along half a cosine (Loshchilov & Hutter 2017, without
    restarts). The first `warmup_steps` are taken with lr · 1/n, 2/n, ... of it (Goyal et al.
    2017), and the cosine begins after them. A pure function of the step, so that a resumed
    run needs no state for it.
    """
    warmup = config.warmup_steps
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total_steps - warmup)))


def eager(kind: Any) -> Any:
    """Return an optimizer class without torch's hooks for compiling it.

    torch wraps an optimiser's methods so that the first call of any imports the
    compiler: two seconds at the start of every run, for a use that this project has
    none of (it compiles the model, never the optimiser).
    """
    methods = ("add_param_group", "state_dict", "load_state_dict", "zero_grad")
    unwrapped = {name: inspect.unwrap(getattr(kind, name)) for name in methods}
    step = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), {**unwrapped, "step": step})


def build_optimizer(
    config: OptimizerConfig, parameters: Iterable[torch.nn.Parameter]
) -> torch.optim.Optimizer:
    """Build Adam (Kingma & Ba 2015), AdamW (Loshchilov & Hutter 2019) or Muon.

    Args:
        config: which, and its settings.
        parameters: the parameters to optimise.
    """
    kind = eager(KINDS[config.name])
    # fused: one kernel for all parameters, on CPUs and GPUs alike; Muon has none
    options = {} if config.name == "muon" else {"fused": True}
    optimizer: torch.optim.Optimizer = kind(parameters, **group_settings(config), **options)
    return optimizer


def group_settings(config: OptimizerConfig) -> dict[str, Any]:
    """Return the settings as torch keeps them in `param_groups`."""
    return {
        "lr": config.lr,
        "betas": tuple(config.betas),
        "eps": config.eps,
        "weight_decay": config.weight_decay,
    }


def require_fitting_moments(optimizer: torch.optim.Optimizer) -> None:
    """Raise a ValueError unless the moments have the parameters' shapes; torch does not check."""
    for parameter, moments in optimizer.state.items():
        adam = parameter.ndim < 2 or not isinstance(optimizer, Muon)
        names = ("step", "exp_avg", "exp_avg_sq") if adam else ("exp_avg",)
        shapes = dict.fromkeys(names, parameter.shape) | ({"step": torch.Size()} if adam else {})
        if {name: value.shape for name, value in moments.items()} != shapes:
            raise ValueError("moments of other parameters")


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
        self.n_averaged = 0  # updates so far

    def restart(self, model: VAE) -> None:
        """Begin anew, as a copy of the model."""
        self.module.load_state_dict(model.state_dict())
        self.n_averaged = 0

    @torch.no_grad()
    def update(self, model: VAE, keep: Tensor) -> None:
        """Add the weights of a model after an update.

        Args:
            model: the one that is trained.
            keep: on its device, 1; or 0 where the update was skipped and nothing is to
                change. It is not waited for.
        """
        n = self.n_averaged
        share = (1 - min(self.decay, (1 + n) / (10 + n)) if n else 1.0) * keep
        for average, value in zip(_tensors(self.module), _tensors(model), strict=True):
            if average.is_floating_point():
                average.lerp_(value, share)
            else:  # a count of batches
                average.copy_(value)
        self.n_averaged += 1

    def state(self) -> dict[str, Any]:
        """Return the averaged weights and the number of updates, for a checkpoint."""
        return {"model": self.module.state_dict(), "updates": self.n_averaged}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        self.module.load_state_dict(state["model"])
        self.n_averaged = int(state["updates"])


def _tensors(model: VAE) -> Iterator[Tensor]:
    return chain(model.parameters(), model.buffers())
