"""The default model: a plain convolutional encoder and its mirror image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from vae.models.base import VAE, ModelConfig
from vae.models.layers import UpsampleConv, group_norm
from vae.utils.errors import require
from vae.utils.registry import register

LEAK = 0.2  # LeakyReLU's slope below 0
NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm2d, "group": group_norm}


@register("model", "conv")
@dataclass
class ConvConfig(ModelConfig):
    """`model=conv`: strided convolutions down, nearest upsampling and convolutions up."""

    norm: str = "batch"  # BatchNorm, or group: GroupNorm, of which no image sees the others

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.norm in NORMS, "model.norm", self.norm, " or ".join(NORMS))

    def build(self, image_size: int) -> VAE:
        sizes = (image_size, list(self.channels), self.latent_dim)
        encoder, decoder = Encoder(*sizes, self.norm), Decoder(*sizes, self.norm)
        # Channels-last keeps a pixel's channels together, which is how the convolutions
        # of CPUs and GPUs want them; shapes and results stay the same.
        return VAE(encoder, decoder, self.latent_dim).to(memory_format=torch.channels_last)


class Encoder(nn.Module):
    """Halve the image once per width, then project to mean and logvar.

    A block is a 3x3 convolution of stride 2, a norm (BatchNorm) and LeakyReLU.

    Shape: (batch, 3, image_size, image_size) -> two (batch, latent_dim).
    """

    def __init__(
        self, image_size: int, channels: list[int], latent_dim: int, norm: str = "batch"
    ) -> None:
        super().__init__()
        blocks = []
        for width_in, width in pairwise([3, *channels]):
            blocks += [
                # no bias: the norm's own shift follows
                nn.Conv2d(width_in, width, kernel_size=3, stride=2, padding=1, bias=False),
                NORMS[norm](width),
                nn.LeakyReLU(LEAK, inplace=True),
            ]
        self.blocks = nn.Sequential(*blocks)
        features = channels[-1] * (image_size // 2 ** len(channels)) ** 2
        self.mean = nn.Linear(features, latent_dim)
        self.logvar = nn.Linear(features, latent_dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.blocks(images).flatten(1)
        return self.mean(features), self.logvar(features)


class Decoder(nn.Module):
    """Project to a small map, then double it once per width: as often as it was halved.

    A block is nearest upsampling by 2, a 3x3 convolution, a norm and LeakyReLU; the
    last one ends in 3 channels of logits instead.

    Shape: (batch, latent_dim) -> (batch, 3, image_size, image_size).
    """

    def __init__(
        self, image_size: int, channels: list[int], latent_dim: int, norm: str = "batch"
    ) -> None:
        super().__init__()
        widths = channels[::-1]
        side = image_size // 2 ** len(channels)
        self.map_shape = (widths[0], side, side)
        self.project = nn.Linear(latent_dim, widths[0] * side * side)
        blocks: list[nn.Module] = []
        for width_in, width in pairwise(widths):
            blocks += [
                UpsampleConv(width_in, width, bias=False),
                NORMS[norm](width),
                nn.LeakyReLU(LEAK, inplace=True),
            ]
        self.blocks = nn.Sequential(*blocks, UpsampleConv(widths[-1], 3))

    def forward(self, latents: Tensor) -> Tensor:
        maps = self.project(latents).unflatten(1, self.map_shape)
        logits: Tensor = self.blocks(maps.contiguous(memory_format=torch.channels_last))
        return logits
