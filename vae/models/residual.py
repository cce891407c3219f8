"""A model of residual blocks, for sharper faces: no batch statistics, and paths that skip."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from vae.models.base import VAE, ModelConfig
from vae.models.layers import UpsampleConv, group_norm
from vae.utils.registry import register


@register("model", "residual")
@dataclass
class ResidualConfig(ModelConfig):
    """`model=residual`: pre-activation residual blocks, GroupNorm, SiLU."""

    def build(self, image_size: int) -> VAE:
        sizes = (image_size, list(self.channels), self.latent_dim)
        model = VAE(ResidualEncoder(*sizes), ResidualDecoder(*sizes), self.latent_dim)
        return model.to(memory_format=torch.channels_last)


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), both convolutions 3x3 (He et al. 2016b).

    Normalised by groups of channels (Wu & He 2018), with SiLU (Hendrycks & Gimpel 2016).
    It begins as the identity: its last convolution starts at zero.

    Shape: (batch, width, h, w) -> the same.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        last = nn.Conv2d(width, width, kernel_size=3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.body = nn.Sequential(
            *activated(width), nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False),
            *activated(width), last,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.body(x)
        return y


def activated(width: int) -> tuple[nn.Module, nn.Module]:
    """Return norm and activation, which precede a convolution."""
    return group_norm(width), nn.SiLU()


class ResidualEncoder(nn.Module):
    """Halve the image once per width, with a block at each size, then project.

    Shape: (batch, 3, image_size, image_size) -> two (batch, latent_dim): mean and logvar.
    """

    def __init__(self, image_size: int, channels: list[int], latent_dim: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for width_in, width in pairwise([3, *channels]):
            blocks.append(nn.Conv2d(width_in, width, kernel_size=3, stride=2, padding=1))
            blocks.append(ResidualBlock(width))
        self.blocks = nn.Sequential(*blocks, *activated(channels[-1]))
        features = channels[-1] * (image_size // 2 ** len(channels)) ** 2
        self.mean = nn.Linear(features, latent_dim)
        self.logvar = nn.Linear(features, latent_dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.blocks(images).flatten(1)
        return self.mean(features), self.logvar(features)


class ResidualDecoder(nn.Module):
    """Project to a small map, then double it once per width, with a block at each size.

    Shape: (batch, latent_dim) -> logits (batch, 3, image_size, image_size).
    """

    def __init__(self, image_size: int, channels: list[int], latent_dim: int) -> None:
        super().__init__()
        widths = channels[::-1]
        side = image_size // 2 ** len(channels)
        self.map_shape = (widths[0], side, side)
        self.project = nn.Linear(latent_dim, widths[0] * side * side)
        blocks: list[nn.Module] = [ResidualBlock(widths[0])]
        for width_in, width in pairwise(widths):
            blocks += [UpsampleConv(width_in, width), ResidualBlock(width)]
        self.blocks = nn.Sequential(*blocks, *activated(widths[-1]), UpsampleConv(widths[-1], 3))

    def forward(self, latents: Tensor) -> Tensor:
        maps = self.project(latents).unflatten(1, self.map_shape)
        logits: Tensor = self.blocks(maps.contiguous(memory_format=torch.channels_last))
        return logits
