"""The one layer that torch does not have."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class UpsampleConv(nn.Conv2d):
    """Nearest upsampling by 2 and a 3x3 convolution, computed as one transposed convolution.

    Exactly `nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(i, o, 3, padding=1))`,
    parameters and all, in about half the time. Each input pixel becomes four equal
    ones, so neighbouring taps of the 3x3 kernel fall on the same input pixel and can
    be added beforehand. In one dimension, with taps w0 w1 w2, the even outputs see
    w0 and w1+w2, the odd ones w0+w1 and w2: together, a transposed convolution of
    stride 2 with the four taps [w2, w1+w2, w0+w1, w0].

    Shape: (batch, in_channels, h, w) -> (batch, out_channels, 2h, 2w).
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        taps = self.weight.transpose(0, 1)  # transposed convolutions keep (in, out, h, w)
        folded = F.pad(taps, (0, 1, 0, 1)) + F.pad(taps, (1, 0, 0, 1))
        folded = folded + F.pad(taps, (0, 1, 1, 0)) + F.pad(taps, (1, 0, 1, 0))
        return F.conv_transpose2d(x, folded.flip(2, 3), self.bias, stride=2, padding=1)
