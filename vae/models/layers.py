"""Layers: folded upsampling and convolution, sub-pixel convolution, GroupNorm."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Nearest upsampling by 2 turns a pixel into two, so of a kernel's taps w0 w1 w2 two fall on
# one pixel, and can be added beforehand. The even outputs see w0 of the pixel before and
# w1 + w2 of their own; the odd ones w0 + w1 of their own and w2 of the next: together, a
# transposed convolution of stride 2. Its taps are sums of these rows of the 3x3 kernel:
TAPS = (
    (0, 0, 1),  # w2
    (0, 1, 1),  # w1 + w2
    (1, 1, 0),  # w0 + w1
    (1, 0, 0),  # w0
)
# Or: even and odd outputs are two convolutions of the small image, as two times the channels.
# Weights of the previous pixel, its own and the next, for each output:
PHASES = (
    (TAPS[3], TAPS[1], (0, 0, 0)),  # even
    ((0, 0, 0), TAPS[2], TAPS[0]),  # odd
)
FORMS = ("plain", "transposed", "subpixel")
SMALL_WIDTH = 2  # pixels: for images no larger, adding taps costs more than it saves
FEW_CHANNELS = 4  # channels: with no more, all four outputs of a pixel fit into one convolution
LARGE_BATCH = 2**17  # pixels of a batch: for fewer, a GPU waits for its kernels to be launched


class UpsampleConv(nn.Conv2d):
    """Nearest upsampling by 2 and a 3x3 convolution, computed without the upsampled image.

    Exactly `nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(i, o, 3, padding=1))`,
    parameters and all, in the form that is the fastest for the image's size: a half to a
    third of the time (docs/performance.md has the measurements).

    Shape: (batch, in_channels, h, w) -> (batch, out_channels, 2h, 2w).
    """

    taps: Tensor
    phases: Tensor

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1, bias=bias)
        self.form: str | None = None  # one of FORMS, to compare them; None: the fastest
        for name, sums in (("taps", TAPS), ("phases", PHASES)):
            of_kernel = np.kron(sums, sums).reshape(-1, 9)  # rows by columns: (16, 9) and (36, 9)
            buffer = torch.tensor(of_kernel, dtype=torch.float)
            self.register_buffer(name, buffer, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, _, width = x.shape
        form = self.form or fastest_form(x.device.type, batch, width, self.out_channels)
        if form == "plain":
            return self._plain(x)
        return self._subpixel(x) if form == "subpixel" else self._transposed(x)

    def _plain(self, x: Tensor) -> Tensor:
        """Upsample, then convolve over four times the pixels."""
        upsampled = F.interpolate(x, scale_factor=2.0)
        return F.conv2d(upsampled, self.weight, self.bias, padding=1)

    def _transposed(self, x: Tensor) -> Tensor:
        """Apply one transposed convolution of stride 2, its 4x4 kernel summed from the 3x3 one."""
        kernel = self._add_up(self.taps, 4, 4).permute(2, 3, 0, 1)
        return F.conv_transpose2d(x, kernel, self.bias, stride=2, padding=1)

    def _subpixel(self, x: Tensor) -> Tensor:
        """Apply one convolution with four outputs per pixel, then rearrange them (sub-pixel)."""
        kernel = self._add_up(self.phases, 4, 3, 3).permute(0, 4, 3, 1, 2)
        bias = None if self.bias is None else self.bias.repeat(4)
        return spread_pixels(F.conv2d(x, kernel.flatten(0, 1), bias, padding=1))

    def _add_up(self, sums: Tensor, *shape: int) -> Tensor:
        """Sum the 3x3 kernel's taps, (n, 9) -> (*shape, in_channels, out_channels).

        Exact, to be rounded once, by the convolution.
        """
        with torch.autocast(self.weight.device.type, enabled=False):
            taps = self.weight.permute(2, 3, 1, 0).flatten(0, 1)
            return (sums @ taps.flatten(1)).view(*shape, *taps.shape[1:])


class SubpixelConv(nn.Conv2d):
    """A 3x3 convolution to the four pixels that each pixel becomes (Shi et al. 2016).

    Where `UpsampleConv` has one kernel for all of them, this layer has one for each: as much
    arithmetic as its subpixel form, and four times the weights.

    Shape: (batch, in_channels, h, w) -> (batch, out_channels, 2h, 2w).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, 4 * out_channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return spread_pixels(super().forward(x))


def spread_pixels(x: Tensor) -> Tensor:
    """Return (batch, c, 2h, 2w) of (batch, 4 · c, h, w), the four pixels' channels in turn.

    As `F.pixel_shuffle`, but the pixel comes first in the order of the channels and not last, so
    that in channels-last memory whole pixels are moved.
    """
    x = x.permute(0, 2, 3, 1)
    x = x.reshape(*x.shape[:3], 2, 2, x.shape[3] // 4).transpose(2, 3)  # (batch, h, 2, w, 2, c)
    return x.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def group_norm(width: int) -> nn.GroupNorm:
    """Return a GroupNorm (Wu & He 2018) of `width` channels, in at most 8 groups of equal size.

    A group has more than one channel where it can: alone, on a map of one pixel, it would be 0.
    """
    return nn.GroupNorm(math.gcd(8, width, max(1, width // 4)), width)


def fastest_form(device: str, batch: int, width: int, channels: int) -> str:
    """Return the fastest form, by measurement (docs/performance.md).

    Args:
        device: cuda, where it was measured on one H100; else the rule is that of a CPU in fp32.
        batch: images.
        width: pixels of the layer's input.
        channels: of its output.
    """
    if device == "cuda":
        return "plain" if batch * width**2 < LARGE_BATCH else "transposed"
    if channels <= FEW_CHANNELS:
        return "subpixel"
    return "plain" if width <= SMALL_WIDTH else "transposed"
