"""Each upsampling layer of the decoder alone, in each of its forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from vae.benchmark.setting import Setting
from vae.benchmark.timing import Timer
from vae.benchmark.training import DEFAULT, build
from vae.benchmark.workers import Figures, Measure
from vae.devices import keep_memory
from vae.models.layers import FORMS, UpsampleConv


class Layer(NamedTuple):
    """An upsampling layer, and how wide the images are that it is given."""

    module: UpsampleConv
    side: int  # pixels


def upsampling_layers(setting: Setting) -> dict[str, Layer]:
    """The default model's, by a name that tells the channels and the size of their input."""
    smallest = setting.image_size // 2 ** len(setting.channels)
    modules = build(setting, DEFAULT).modules()
    layers = [module for module in modules if isinstance(module, UpsampleConv)]
    sides = [smallest * 2**i for i in range(len(layers))]
    return {
        f"{layer.in_channels} to {layer.out_channels} at {side} px": Layer(layer, side)
        for layer, side in zip(layers, sides, strict=True)
    }


def passes(layer: Layer, form: str, batch: int) -> Callable[[], None]:
    """Forward and backward of a layer in one form."""
    module, side = layer
    device = module.weight.device
    x = torch.rand(batch, module.in_channels, side, side, device=device)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    gradient = torch.rand(batch, module.out_channels, 2 * side, 2 * side, device=device)
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    inputs = [x, *module.parameters()]

    def work() -> None:
        module.form = form
        torch.autograd.grad(module(x), inputs, gradient)

    return work


def prepare_layers(setting: Setting) -> Measure:
    """Measures `layers/<layer>/<form>` in milliseconds, forward and backward."""
    keep_memory()
    timers = {}
    for name, layer in upsampling_layers(setting).items():
        for form in FORMS:
            work = passes(layer, form, setting.batch)
            # a fraction of the time: there are many of them
            timers[f"layers/{name}/{form}"] = Timer(work, setting.device, setting.seconds / 5)

    def measure() -> Figures:
        return {name: 1e3 * timer() for name, timer in timers.items()}

    return measure
