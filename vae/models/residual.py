"""A model of residual blocks, for sharper faces: no batch statistics, and paths that skip."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from vae.models.conv import BlocksConfig
from vae.models.layers import UpsampleConv, group_norm
from vae.utils.registry import register


@register("model", "residual")
@dataclass
class ResidualConfig(BlocksConfig):
    """`model=residual`: pre-activation residual blocks, GroupNorm, SiLU."""

    def down(self) -> Iterator[nn.Module]:
        for width_in, width in pairwise([3, *self.channels]):
            yield nn.Conv2d(width_in, width, kernel_size=3, stride=2, padding=1)
            yield ResidualBlock(width)
        yield from activated(self.channels[-1])

    def up(self) -> Iterator[nn.Module]:
        widths = self.channels[::-1]
        yield ResidualBlock(widths[0])
        for width_in, width in pairwise(widths):
            yield UpsampleConv(width_in, width)
            yield ResidualBlock(width)
        yield from activated(widths[-1])
        yield UpsampleConv(widths[-1], 3)


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
