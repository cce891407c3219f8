"""Encoders and decoders: `build_model` makes the one that a configuration describes."""

from __future__ import annotations

import torch

from vae.models.base import VAE, ModelConfig
from vae.models.conv import ConvConfig, build_conv
from vae.models.posterior import Posterior
from vae.models.residual import ResidualConfig, build_residual
from vae.utils.errors import UserError

MODELS: dict[str, type[ModelConfig]] = {  # the choices of model=
    "conv": ConvConfig,
    "residual": ResidualConfig,
}

__all__ = [
    "MODELS",
    "VAE",
    "ConvConfig",
    "ModelConfig",
    "Posterior",
    "ResidualConfig",
    "build_model",
]


def build_model(config: ModelConfig, image_size: int, seed: int | None = None) -> VAE:
    """Build a freshly initialised model for images of `image_size` pixels.

    The weights depend on the seed alone, and torch's global generator stays as it is; without a
    seed, they are drawn from that generator.

    Raises:
        UserError: the image cannot be halved as often as the model wants, or the
            configuration is of no known model.
    """
    config.check_image_size(image_size)
    if seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build_model(config, image_size)
    if isinstance(config, ConvConfig):
        return build_conv(config, image_size)
    if isinstance(config, ResidualConfig):
        return build_residual(config, image_size)
    raise UserError(f"model.name: there is no model {config.name!r}.")
