"""The default model: a plain convolutional encoder and its mirror image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
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


class Encoder(nn.Module):
    """Halve the image once per width, then project to mean and logvar.

    Args:
        blocks: (batch, 3, size, size) -> (batch, *map_shape).
        map_shape: channels, height and width of the smallest map.
        latent_dim: size of z.

    Shape: (batch, 3, size, size) -> two (batch, latent_dim).
    """

    def __init__(
        self, blocks: Iterable[nn.Module], map_shape: tuple[int, int, int], latent_dim: int
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.mean = nn.Linear(math.prod(map_shape), latent_dim)
        self.logvar = nn.Linear(math.prod(map_shape), latent_dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.blocks(images).flatten(1)
        return self.mean(features), self.logvar(features)


class Decoder(nn.Module):
    """Project to a small map, then double it once per width: as often as it was halved.

    Args:
        blocks: (batch, *map_shape) -> logits (batch, 3, size, size). A generator, so that their
            weights are drawn after those of the projection.
        map_shape, latent_dim: as for `Encoder`.

    Shape: (batch, latent_dim) -> logits (batch, 3, size, size).
    """

    memory_format = torch.channels_last

    def __init__(
        self, blocks: Iterable[nn.Module], map_shape: tuple[int, int, int], latent_dim: int
    ) -> None:
        super().__init__()
        self.map_shape = map_shape
        self.project = nn.Linear(latent_dim, math.prod(map_shape))
        self.blocks = nn.Sequential(*blocks)

    def forward(self, latents: Tensor) -> Tensor:
        maps = self.project(latents).unflatten(1, self.map_shape)
        logits: Tensor = self.blocks(maps.contiguous(memory_format=self.memory_format))
        return logits


@dataclass
class BlocksConfig(ModelConfig):
    """Settings of models whose encoder and decoder are blocks of convolutions."""

    def down(self) -> Iterator[nn.Module]:
        """Yield the encoder's blocks, one halving per width."""
        raise NotImplementedError

    def up(self) -> Iterator[nn.Module]:
        """Yield the decoder's blocks, one doubling per width, to 3 channels of logits."""
        raise NotImplementedError

    def build(self, image_size: int) -> VAE:
        side = image_size // 2 ** len(self.channels)
        sizes = ((self.channels[-1], side, side), self.latent_dim)
        model = VAE(Encoder(self.down(), *sizes), Decoder(self.up(), *sizes), self.latent_dim)
        # Channels-last keeps a pixel's channels together, which is how the convolutions
        # of CPUs and GPUs want them; shapes and results stay the same.
        return model.to(memory_format=torch.channels_last)


@register("model", "conv")
@dataclass
class ConvConfig(BlocksConfig):
    """`model=conv`: strided convolutions down, nearest upsampling and convolutions up.

    A block is a 3x3 convolution (of stride 2, or after upsampling by 2), a norm and LeakyReLU.
    """

    norm: str = "batch"  # BatchNorm, or group: GroupNorm, of which no image sees the others

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.norm in NORMS, "model.norm", self.norm, " or ".join(NORMS))

    def down(self) -> Iterator[nn.Module]:
        for width_in, width in pairwise([3, *self.channels]):
            # no bias: the norm's own shift follows
            yield nn.Conv2d(width_in, width, kernel_size=3, stride=2, padding=1, bias=False)
            yield NORMS[self.norm](width)
            yield nn.LeakyReLU(LEAK, inplace=True)

    def up(self) -> Iterator[nn.Module]:
        widths = self.channels[::-1]
        for width_in, width in pairwise(widths):
            yield UpsampleConv(width_in, width, bias=False)
            yield NORMS[self.norm](width)
            yield nn.LeakyReLU(LEAK, inplace=True)
        yield UpsampleConv(widths[-1], 3)
