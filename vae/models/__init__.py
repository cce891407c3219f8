"""Encoders and decoders: `build_model` makes the one that a configuration describes."""

from vae.models.base import VAE, ModelConfig, build_model
from vae.models.conv import ConvConfig
from vae.models.posterior import Posterior
from vae.models.residual import ResidualConfig
from vae.utils.registry import import_modules

__all__ = ["VAE", "ConvConfig", "ModelConfig", "Posterior", "ResidualConfig", "build_model"]

import_modules(__name__)
