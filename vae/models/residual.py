"""A model of residual blocks, for sharper faces: paths that skip, and as it comes GroupNorm."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from vae.models.conv import LAST_LAYERS, BlocksConfig
from vae.models.layers import UpsampleConv
from vae.utils.registry import register


@register("model", "residual")
@dataclass
class ResidualConfig(BlocksConfig):
    """`model=residual`: pre-activation residual blocks (He et al. 2016b)."""

    norm: str = "group"
    activation: str = "silu"

    def down(self) -> Iterator[nn.Module]:
        for width_in, width in pairwise([3, *self.channels]):
            yield nn.Conv2d(width_in, width, kernel_size=3, stride=2, padding=1)
            yield self.block(width)
        yield from self.activate(self.channels[-1], inplace=False)

    def up(self) -> Iterator[nn.Module]:
        widths = self.channels[::-1]
        yield self.block(widths[0])
        for width_in, width in pairwise(widths):
            yield UpsampleConv(width_in, width)
            yield self.block(width)
        yield from self.activate(widths[-1], inplace=False)
        yield LAST_LAYERS[self.last_layer](widths[-1], 3)

    def block(self, width: int) -> ResidualBlock:
        """Return a block of `width` channels."""
        first, second = self.activate(width, inplace=False), self.activate(width, inplace=False)
        return ResidualBlock(width, first, second)


class ResidualBlock(nn.Module):
    """x + conv(act(norm(conv(act(norm(x)))))), both convolutions 3x3 (He et al. 2016b).

    It begins as the identity: its last convolution starts at zero.

    Args:
        width: channels.
        first, second: norm and activation before each convolution.

    Shape: (batch, width, h, w) -> the same.
    """

    def __init__(self, width: int, first: Iterable[nn.Module], second: Iterable[nn.Module]) -> None:
        super().__init__()
        last = nn.Conv2d(width, width, kernel_size=3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        middle = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.body = nn.Sequential(*first, middle, *second, last)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.body(x)
        return y
