"""The default model: a plain convolutional encoder and its mirror image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from vae.models.base import VAE, ModelConfig
from vae.models.layers import SubpixelConv, UpsampleConv, group_norm
from vae.utils.errors import require
from vae.utils.registry import register

LEAK = 0.2  # LeakyReLU's slope below 0
LATENT_SHAPES = ("vector", "map")
MapShape = tuple[int, int, int]  # channels, height, width
Choices = dict[str, Callable[..., nn.Module]]
NORMS: Choices = {"batch": nn.BatchNorm2d, "group": group_norm}
ACTIVATIONS: Choices = {"leaky_relu": partial(nn.LeakyReLU, LEAK), "silu": nn.SiLU}
LAST_LAYERS: Choices = {"upsample": UpsampleConv, "subpixel": SubpixelConv}


class Encoder(nn.Module):
    """Halve the image once per width, then project to mean and logvar.

    Args:
        blocks: (batch, 3, size, size) -> (batch, *map_shape).
        map_shape: channels, height and width of the smallest map.
        latent_dim: size of z.
        spatial: each place of the map has latents of its own, projected from there alone: a
            multiple of height · width. They lie channel by channel in z. Else each latent is
            projected from the whole map.

    Shape: (batch, 3, size, size) -> two (batch, latent_dim).
    """

    def __init__(
        self, blocks: Iterable[nn.Module], map_shape: MapShape, latent_dim: int, spatial: bool
    ) -> None:
        super().__init__()
        self.spatial = spatial
        self.blocks = nn.Sequential(*blocks)
        width, *places = map_shape

        def project() -> nn.Module:
            if spatial:
                return nn.Conv2d(width, latent_dim // math.prod(places), kernel_size=1)
            return nn.Linear(math.prod(map_shape), latent_dim)

        self.mean = project()
        self.logvar = project()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.blocks(images)
        if not self.spatial:
            features = features.flatten(1)
        return self.mean(features).flatten(1), self.logvar(features).flatten(1)


class Decoder(nn.Module):
    """Project to a small map, then double it once per width: as often as it was halved.

    Args:
        blocks: (batch, *map_shape) -> logits (batch, 3, size, size). A generator, so that their
            weights are drawn after those of the projection.
        map_shape, latent_dim, spatial: as for `Encoder`.

    Shape: (batch, latent_dim) -> logits (batch, 3, size, size).
    """

    memory_format = torch.channels_last

    def __init__(
        self, blocks: Iterable[nn.Module], map_shape: MapShape, latent_dim: int, spatial: bool
    ) -> None:
        super().__init__()
        self.map_shape = map_shape
        self.spatial = spatial
        self.project: nn.Module
        if spatial:
            width, *places = map_shape
            self.project = nn.Conv2d(latent_dim // math.prod(places), width, kernel_size=1)
        else:
            self.project = nn.Linear(latent_dim, math.prod(map_shape))
        self.blocks = nn.Sequential(*blocks)

    def forward(self, latents: Tensor) -> Tensor:
        if self.spatial:
            maps = self.project(torch.unflatten(latents, 1, (-1, *self.map_shape[1:])))
        else:
            maps = self.project(latents).unflatten(1, self.map_shape)
        logits: Tensor = self.blocks(maps.contiguous(memory_format=self.memory_format))
        return logits


@dataclass
class BlocksConfig(ModelConfig):
    """Settings of models whose encoder and decoder are blocks of convolutions."""

    norm: str = "batch"  # BatchNorm, or group: GroupNorm, of which no image sees the others
    activation: str = "leaky_relu"  # or silu
    last_layer: str = "upsample"  # and convolve; or subpixel: a convolution to four pixels each
    latent_shape: str = "vector"  # or map: each place of the smallest map has its own latents

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in (
            ("norm", NORMS),
            ("activation", ACTIVATIONS),
            ("last_layer", LAST_LAYERS),
            ("latent_shape", LATENT_SHAPES),
        ):
            got = getattr(self, name)
            require(got in choices, f"model.{name}", got, " or ".join(choices))

    def activate(self, width: int, inplace: bool = True) -> tuple[nn.Module, nn.Module]:
        """Return a norm of `width` channels and an activation."""
        return NORMS[self.norm](width), ACTIVATIONS[self.activation](inplace=inplace)

    def check_image_size(self, image_size: int) -> None:
        super().check_image_size(image_size)
        side = image_size // 2 ** len(self.channels)
        require(
            self.latent_shape == "vector" or self.latent_dim % side**2 == 0,
            "model.latent_dim",
            self.latent_dim,
            f"a multiple of {side**2}: model.latent_shape=map has as many latents at each of "
            f"{side}x{side} places",
        )

    def down(self) -> Iterator[nn.Module]:
        """Yield the encoder's blocks, one halving per width."""
        raise NotImplementedError

    def up(self) -> Iterator[nn.Module]:
        """Yield the decoder's blocks, one doubling per width, to 3 channels of logits."""
        raise NotImplementedError

    def build(self, image_size: int) -> VAE:
        side = image_size // 2 ** len(self.channels)
        sizes = ((self.channels[-1], side, side), self.latent_dim, self.latent_shape == "map")
        model = VAE(Encoder(self.down(), *sizes), Decoder(self.up(), *sizes), self.latent_dim)
        # Channels-last keeps a pixel's channels together, which is how the convolutions
        # of CPUs and GPUs want them; shapes and results stay the same.
        return model.to(memory_format=torch.channels_last)


@register("model", "conv")
@dataclass
class ConvConfig(BlocksConfig):
    """`model=conv`: strided convolutions down, nearest upsampling and convolutions up.

    A block is a 3x3 convolution (of stride 2, or after upsampling by 2), norm and activation.
    """

    def down(self) -> Iterator[nn.Module]:
        for width_in, width in pairwise([3, *self.channels]):
            # no bias: the norm's own shift follows
            yield nn.Conv2d(width_in, width, kernel_size=3, stride=2, padding=1, bias=False)
            yield from self.activate(width)

    def up(self) -> Iterator[nn.Module]:
        widths = self.channels[::-1]
        for width_in, width in pairwise(widths):
            yield UpsampleConv(width_in, width, bias=False)
            yield from self.activate(width)
        yield LAST_LAYERS[self.last_layer](widths[-1], 3)
