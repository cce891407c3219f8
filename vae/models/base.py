"""The VAE: an encoder, a decoder, and the settings that every model has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from omegaconf import MISSING
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from vae.models.posterior import Posterior
from vae.utils.errors import UserError, require, require_ranges
from vae.utils.text import plural

MAX_WIDTH = 65536  # latents, or channels of a layer


@dataclass
class ModelConfig:
    """Settings that every model has (`conf/model/*.yaml` holds the values)."""

    name: str = MISSING  # the name it is registered by; model=NAME fills it in
    latent_dim: int = MISSING  # size of z; int from 1 to MAX_WIDTH
    channels: list[int] = field(default_factory=list)  # widths, one per halving; as latent_dim

    def __post_init__(self) -> None:
        require_ranges("model", self, latent_dim=(1, MAX_WIDTH))
        # OmegaConf lets lists through for numbers where they are in a list
        fits = len(self.channels) > 0 and all(
            type(width) is int and 1 <= width <= MAX_WIDTH for width in self.channels
        )
        takes = f"a list of ints from 1 to {MAX_WIDTH}, one per halving"
        require(fits, "model.channels", self.channels, takes)

    def build(self, image_size: int) -> VAE:
        """Build the model for images of `image_size` pixels, with weights from torch's generator.

        A model is a subclass with this method, registered by its name.
        """
        raise TypeError(f"{type(self).__name__} has no method `build`")

    def check_image_size(self, image_size: int) -> None:
        """Raise a UserError unless the image can be halved once for each width."""
        step = 2 ** len(self.channels)
        require(
            image_size % step == 0,
            "data.image_size",
            image_size,
            f"a multiple of {step}: model.channels has {plural(len(self.channels), 'width')} "
            "and each halves the image",
        )


class VAE(nn.Module):
    """A variational autoencoder (Kingma & Welling 2014) of images in [0, 1].

    Args:
        encoder: (batch, 3, size, size) -> two (batch, latent_dim): mean and logvar.
        decoder: (batch, latent_dim) -> logits (batch, 3, size, size).
        latent_dim: size of z.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.latent_dim = latent_dim

    def encode(self, images: Tensor) -> Posterior:
        """Return q(z|x) of images (batch, 3, size, size) in [0, 1]."""
        mean, logvar = self.encoder(images)
        return Posterior(mean, logvar)

    def decode_logits(self, latents: Tensor) -> Tensor:
        """Return logits (batch, 3, size, size) of latents (batch, latent_dim), in float32."""
        logits: Tensor = self.decoder(latents)
        return logits.float()

    def decode(self, latents: Tensor) -> Tensor:
        """Return images (batch, 3, size, size) in [0, 1] of latents (batch, latent_dim)."""
        return torch.sigmoid(self.decode_logits(latents))

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Posterior]:
        """Return logits of a sample from the posterior, and the posterior (a training pass).

        The noise (batch, latent_dim), standard normal, is given and not drawn: so the
        pass is a pure function, whatever the device, the compiler or the process.
        """
        posterior = self.encode(images)
        return self.decode_logits(posterior.rsample(noise)), posterior


def build_model(config: ModelConfig, image_size: int, seed: int | None = None) -> VAE:
    """Build a freshly initialised model for images of `image_size` pixels.

    The weights depend on the seed alone, and torch's global generator stays as it is; without a
    seed, they are drawn from that generator.

    Raises:
        UserError: the image cannot be halved as often as the model wants.
    """
    config.check_image_size(image_size)
    if seed is None:
        return config.build(image_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return config.build(image_size)


def build_shapes(config: ModelConfig, image_size: int) -> VAE:
    """Build a model on torch's meta device: names and shapes of its weights, and no memory.

    Raises:
        UserError: there is no model of these sizes.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return build_model(config, image_size)
    except (RuntimeError, OverflowError, TypeError) as error:  # numbers that are no size
        sizes = f"model.latent_dim={config.latent_dim}, model.channels={list(config.channels)}"
        raise UserError(f"{sizes}: no model has these sizes. Take smaller ones.") from error


@torch.inference_mode()
def multiply_adds(model: VAE, image_size: int) -> int:
    """Count the multiply-adds of encoding and decoding one image.

    Of the convolutions and matrix products as the architecture has them, upsampled images
    included; what computes them may need fewer (vae/models/layers.py), and the rest (norms,
    activations) takes negligible time. Counted while one image goes through the
    model, which stays as it was. (On torch's meta device nothing would be computed, but its
    shape functions import the compiler, which takes longer than the image by far.)
    """
    count = 0

    def add(layer: nn.Module, _: object, output: Any) -> None:
        nonlocal count
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            count += output[0].numel() * layer.weight[0].numel()

    was_training = model.training
    device = next(model.parameters()).device
    images = torch.zeros(1, 3, image_size, image_size, device=device)
    try:
        with register_module_forward_hook(add):
            model.eval()(images, torch.zeros(1, model.latent_dim, device=device))
    finally:
        model.train(was_training)
    return count
