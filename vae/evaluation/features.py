"""Image features for distances: which network, and which part of the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae.data import DataConfig
from vae.evaluation import MetricsConfig, networks
from vae.utils.errors import UserError

BATCH = 16  # images at a time: Inception's largest maps take 100 MB
METRIC_KEYS = {"inception": ("fid", "kid"), "faces": ("face_distance", "face_kernel_distance")}


class FaceCrop(nn.Module):
    """Crop the same square from each image and resize it for the face network."""

    def __init__(self, box: Sequence[float]) -> None:
        super().__init__()
        self.box = box

    def forward(self, images: Tensor) -> Tensor:
        size = images.shape[-1]
        left, top, side = (round(part * size) for part in self.box)
        side = max(1, side)
        left, top = (min(place, size - side) for place in (left, top))  # rounded beyond the edge
        square = images[:, :, top : top + side, left : left + side]
        shape = (networks.FACE_SIDE, networks.FACE_SIDE)
        return F.interpolate(square, shape, mode="bilinear", antialias=True)


class Features:
    """A feature network, and the metric names of distances in its features.

    Only distances in the features of Inception are FID and KID; those in the features of
    faces are the same formulas, but figures of another scale.
    """

    def __init__(self, name: str, network: nn.Module, dimensions: int, device: torch.device):
        self.name = name  # "inception" or "faces"
        self.dimensions = dimensions
        self.distance_key, self.kernel_key = METRIC_KEYS[name]
        self._device = device
        self._network = network.to(device).eval()

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Return features (n, dimensions) float32, on the CPU, of RGB images in [0, 1]."""
        starts = range(0, max(1, len(images)), BATCH)
        parts = (images[start : start + BATCH].to(self._device).float() for start in starts)
        return torch.cat([self._network(part).float().cpu() for part in parts])


def inception_features(weights: str, device: torch.device) -> Features:
    """Return Inception's features (FID). UserError: as `load_inception`."""
    network = networks.load_inception(weights)
    return Features("inception", network, networks.INCEPTION_DIMENSIONS, device)


def face_features(settings: MetricsConfig, data: DataConfig, device: torch.device) -> Features:
    """Return the face network's features. UserError: as `load_face_net`.

    Args:
        settings: where the face is in the images.
        data: the images' source, which knows it if the settings do not say.
    """
    box = settings.face_box or data.face_box
    network = nn.Sequential(FaceCrop(box), networks.load_face_net())
    return Features("faces", network, networks.FACE_DIMENSIONS, device)


def pick_features(
    settings: MetricsConfig, data: DataConfig, device: torch.device, count: int
) -> tuple[Features | None, list[str]]:
    """Return the best available features, and a note on each better one that is unavailable.

    A covariance of d dimensions needs more than d images: with fewer, the distance says
    more about their number than about the model.

    Args:
        settings, data: as `face_features`; the settings know of Inception's weights, too.
        device: where to compute them.
        count: images on the smaller side of the comparison.

    Raises:
        UserError: the file named in metrics.inception_weights is not there or not such weights.
    """
    notes = []
    weights = settings.inception_weights
    if weights == "none":
        notes.append("FID is left out: metrics.inception_weights=none.")
    elif count <= networks.INCEPTION_DIMENSIONS:
        notes.append(_too_few("FID", networks.INCEPTION_DIMENSIONS, count))
    else:
        try:
            return inception_features(weights, device), notes
        except UserError as error:
            if weights != networks.DOWNLOAD:
                raise
            notes.append(f"FID is left out: {error}")
    if count <= networks.FACE_DIMENSIONS:
        return None, [*notes, _too_few("The face distance", networks.FACE_DIMENSIONS, count)]
    try:
        return face_features(settings, data, device), notes
    except UserError as error:
        return None, [*notes, str(error)]


def _too_few(what: str, dimensions: int, count: int) -> str:
    return f"{what} needs more than {dimensions:,} images; there are {count:,}."
