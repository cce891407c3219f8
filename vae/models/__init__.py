"""Encoders and decoders: `build_model` makes the one that a configuration describes."""

from __future__ import annotations

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


def build_model(config: ModelConfig, image_size: int) -> VAE:
    """Build a freshly initialised model for images of `image_size` pixels.

    The weights are drawn from torch's global generator: seed it beforehand.

    Raises:
        UserError: the image cannot be halved as often as the model wants, or the
            configuration is of no known model.
    """
    config.check_image_size(image_size)
    if isinstance(config, ConvConfig):
        return build_conv(config, image_size)
    if isinstance(config, ResidualConfig):
        return build_residual(config, image_size)
    raise UserError(f"model.name: there is no model {config.name!r}.")
