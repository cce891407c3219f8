"""The training step, with this project's optimisations and as a plain twin."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vae.benchmark.timing import Figures, Measure, synchronize, timer
from vae.losses import BernoulliConfig, loss_terms
from vae.models import build_model
from vae.models.base import VAE
from vae.models.conv import ConvConfig
from vae.models.layers import UpsampleConv
from vae.training.muon import MuonConfig
from vae.training.optim import AdamConfig
from vae.utils.devices import autocast, keep_memory
from vae.utils.errors import require

LOSS = BernoulliConfig("bce", beta=1e-4, kl_reduction="latents")

# The variants compare the computation of a step, so all but the default use plain Adam.
OPTIMIZERS = {
    "adam": AdamConfig("adam", 1e-3, 0.0, "constant", betas=[0.9, 0.999], eps=1e-8),
    "muon": MuonConfig("muon", 5e-3, 0.0, "constant", betas=[0.9, 0.999], eps=1e-8),
}


@dataclass(frozen=True)
class Setting:
    """Sizes of model and batch, the device, and the time per measurement.

    The defaults are those of the default run.
    """

    batch: int = 32  # images per step; int >= 1
    image_size: int = 64  # pixels; a multiple of 2 ** len(channels)
    channels: tuple[int, ...] = (32, 64, 128, 256)
    latent_dim: int = 128
    device: str = "cpu"  # cpu, cuda or mps
    threads: int | None = None  # CPU threads; None: torch's own choice
    seed: int = 0
    pictures: int = 512  # JPEG files to load; int >= 1
    matrix_side: int = 2048  # of the square matrices whose product is timed
    seconds: float = 0.5  # that a piece of work is repeated for in a round, at the least

    def __post_init__(self) -> None:
        step = 2 ** len(self.channels)
        takes = f"a multiple of {step}: the model halves it {len(self.channels)} times"
        require(self.image_size % step == 0, "--image-size", self.image_size, takes)

    @property
    def model(self) -> ConvConfig:
        """The configuration of the model."""
        return ConvConfig("conv", self.latent_dim, list(self.channels))

    def inputs(self, count: int) -> tuple[Tensor, Tensor]:
        """Return random images and noise for their latents, on the device.

        The time of a step does not depend on the pictures.

        Returns:
            Uniform (count, 3, size, size) in [0, 1], contiguous, and normal (count, latent_dim).
        """
        generator = torch.Generator().manual_seed(self.seed)
        images = torch.rand(count, 3, self.image_size, self.image_size, generator=generator)
        noise = torch.randn(count, self.latent_dim, generator=generator)
        return images.to(self.device), noise.to(self.device)


@dataclass(frozen=True)
class Variant:
    """One way to compute the same step."""

    name: str
    folded: bool = False  # upsampling and convolution in one, where the rule says so
    channels_last: bool = False
    keeps_memory: bool = False  # vae.utils.devices.keep_memory
    precision: str = "fp32"  # or bf16, or auto: bf16 if the device supports it
    compiled: bool = False  # torch.compile
    optimizer: str = "adam"  # of OPTIMIZERS


PLAIN = Variant("plain")
FOLDED = replace(PLAIN, name="+ folded upsampling", folded=True)
CHANNELS_LAST = replace(FOLDED, name="+ channels-last", channels_last=True)
FAST = replace(CHANNELS_LAST, name="+ allocator", keeps_memory=True)
BF16 = replace(FAST, name="all that, in bf16", precision="bf16")
COMPILED = replace(FAST, name="all that, compiled", compiled=True)
DEFAULT = replace(FAST, name="as by default, with Muon", optimizer="muon", precision="auto")
VARIANTS = (PLAIN, FOLDED, CHANNELS_LAST, FAST, BF16, DEFAULT)


def build_variant(setting: Setting, variant: Variant) -> VAE:
    """Build the default model as the variant computes it; the weights are equal in all variants."""
    torch.manual_seed(setting.seed)
    model = build_model(setting.model, setting.image_size)
    if not variant.channels_last:
        model = model.to(memory_format=torch.contiguous_format)
        model.decoder.memory_format = torch.contiguous_format  # type: ignore[assignment]
    if not variant.folded:
        set_upsampling_form(model, "plain")
    return model.to(setting.device)


def set_upsampling_form(model: VAE, form: str) -> None:
    """Set the form of all upsampling layers."""
    for layer in model.modules():
        if isinstance(layer, UpsampleConv):
            layer.form = form


def training_step(
    setting: Setting, variant: Variant, model: VAE, optimizer: torch.optim.Optimizer
) -> Callable[[Tensor, Tensor], None]:
    """Return a full training step on images and noise: forward, loss, backward, update."""
    forward = torch.compile(model, dynamic=False) if variant.compiled else model
    layout = torch.channels_last if variant.channels_last else torch.contiguous_format
    context = autocast(variant.precision, torch.device(setting.device))

    def step(images: Tensor, noise: Tensor) -> None:
        images = images.contiguous(memory_format=layout)
        with context:
            logits, posterior = forward(images, noise)
        terms = loss_terms(LOSS, logits, images, posterior, posterior.mean)
        optimizer.zero_grad()
        terms.loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def repeated_step(setting: Setting, variant: Variant) -> Callable[[], None]:
    """Return a full training step on one fixed batch."""
    model = build_variant(setting, variant).train()
    optimizer = OPTIMIZERS[variant.optimizer].build(model.parameters())
    step = training_step(setting, variant, model, optimizer)
    layout = torch.channels_last if variant.channels_last else torch.contiguous_format
    images, noise = setting.inputs(setting.batch)
    return partial(step, images.contiguous(memory_format=layout), noise)


def prepare_training(setting: Setting, variant: Variant) -> Measure:
    """Measure `training/<variant>` in images/s; for a compiled variant also the compile time."""
    if variant.keeps_memory:
        keep_memory()
    step = repeated_step(setting, variant)
    started = time.perf_counter()
    step()
    synchronize(setting.device)
    first = time.perf_counter() - started
    time_step = timer(step, setting.device, setting.seconds)

    def measure() -> Figures:
        seconds = time_step()
        found = {f"training/{variant.name}": setting.batch / seconds}
        if variant.compiled:
            found["compile_seconds"] = first - seconds
        return found

    return measure


def image_flops(setting: Setting) -> int:
    """Return the floating-point operations per image of a training step of the folded model.

    Counted are two for each multiply-add of the convolutions and matrix products, forward
    and backward, with every upsampling layer as a transposed convolution. Not counted is
    what goes value by value (BatchNorm, activations, the loss, Adam), which waits for
    memory rather than for arithmetic.
    """
    model = build_model(setting.model, setting.image_size)
    set_upsampling_form(model, "transposed")

    def batch_flops(batch: int) -> int:
        images = torch.zeros(batch, 3, setting.image_size, setting.image_size)
        with FlopCounterMode(display=False) as counter:
            logits, posterior = model(images, torch.zeros(batch, setting.latent_dim))
            loss_terms(LOSS, logits, images, posterior, posterior.mean).loss.backward()  # type: ignore[no-untyped-call]
        return int(counter.get_total_flops())

    # the difference: what a step does once, as adding up kernels, is no image's
    return batch_flops(3) - batch_flops(2)
