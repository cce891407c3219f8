"""Features of images, and Fréchet and kernel distances between sets of images in them.

FID (Heusel et al. 2017) and KID (Bińkowski et al. 2018) are these distances in the features
of an Inception network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae.data.loader import evaluation_batches
from vae.evaluation import TrainedModel, inception
from vae.evaluation.latents import RunningGaussian, progress_batches
from vae.models import face_net
from vae.models.base import VAE
from vae.training.metrics import EVALUATION_BATCH
from vae.utils.errors import UserError

FEATURE_BATCH = 16  # images at a time: Inception's largest maps take 100 MB
METRIC_KEYS = {
    "inception": ("fid", "kid", "prior_fid"),
    "faces": ("face_distance", "face_kernel_distance", "prior_error"),
}
BLOCK = 1000  # images on each side of one estimate: a kernel matrix of 8 MB

Images = Callable[[Tensor], Tensor]  # a batch of images -> as many that are compared with them
Latents = Callable[[int], Tensor]  # how many -> latents (n, latent_dim), the next of a stream


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
        shape = (face_net.SIDE, face_net.SIDE)
        return F.interpolate(square, shape, mode="bilinear", antialias=True)


class Features:
    """A feature network, and the metric names of distances in its features.

    Only distances in the features of Inception are FID and KID; those in the features of
    faces are the same formulas, but figures of another scale.
    """

    def __init__(self, name: str, network: nn.Module, dimensions: int, device: torch.device):
        self.name = name  # "inception" or "faces"
        self.dimensions = dimensions
        self.distance_key, self.kernel_key, self.prior_key = METRIC_KEYS[name]
        self._device = device
        self._network = network.to(device).eval()

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Return features (n, dimensions) float32, on the CPU, of RGB images in [0, 1]."""
        parts = (part.to(self._device).float() for part in torch.split(images, FEATURE_BATCH))
        return torch.cat([self._network(part).float().cpu() for part in parts])


def face_features(trained: TrainedModel) -> Features:
    """Return the face network's features, on the model's device. UserError: as `load_face_net`."""
    box = trained.metrics_config.face_box or trained.data_config.face_box
    network = nn.Sequential(FaceCrop(box), face_net.load_face_net())
    return Features("faces", network, face_net.DIMENSIONS, trained.device)


def pick_features(trained: TrainedModel, count: int) -> tuple[Features | None, list[str]]:
    """Return the best available features, and a note on each better one that is unavailable.

    A covariance of d dimensions needs more than d images: with fewer, the distance says
    more about their number than about the model.

    Args:
        trained: its metrics_config names Inception's weights; features are on its device.
        count: images on the smaller side of the comparison.

    Raises:
        UserError: the file named in metrics.inception_weights is not there or not such weights.
    """
    notes = []
    weights = trained.metrics_config.inception_weights
    if weights == "none":
        notes.append("FID is left out: metrics.inception_weights=none.")
    elif count <= inception.DIMENSIONS:
        notes.append(_too_few("FID", inception.DIMENSIONS, count))
    else:
        try:
            network = inception.load_inception(weights)
            dimensions = inception.DIMENSIONS
            return Features("inception", network, dimensions, trained.device), notes
        except UserError as error:
            if weights != inception.DOWNLOAD:
                raise
            notes.append(f"FID is left out: {error}")
    if count <= face_net.DIMENSIONS:
        return None, [*notes, _too_few("The face distance", face_net.DIMENSIONS, count)]
    try:
        return face_features(trained), notes
    except UserError as error:
        return None, [*notes, str(error)]


def _too_few(what: str, dimensions: int, count: int) -> str:
    return f"{what} needs more than {dimensions:,} images; there are {count:,}."


def frechet_distance(first: RunningGaussian, second: RunningGaussian) -> float:
    """Return |m₁ - m₂|² + tr(C₁ + C₂ - 2 (C₁C₂)^½), >= 0 (Dowson & Landau 1982).

    With R Rᵀ = C₁ the trace of the root is the sum of the roots of the eigenvalues of
    Rᵀ C₂ R, which is symmetric: no complex numbers, and C₁ and C₂ may be singular, as
    those of fewer images than dimensions are.

    Estimated from n images a side it is too large, by about as much as two sets of n
    images from one source differ: give n, and that floor, with it.
    """
    ours, theirs = first.covariance, second.covariance
    values, vectors = torch.linalg.eigh(ours)
    root = vectors * values.clamp(min=0).sqrt()
    product = torch.linalg.eigvalsh(root.T @ theirs @ root)
    root_trace = product.clamp(min=0).sqrt().sum()
    means = (first.mean - second.mean).square().sum()
    distance = means + ours.trace() + theirs.trace() - 2 * root_trace
    return max(0.0, float(distance))  # rounding may bring 0 a little below


def squared_mmd(first: Tensor, second: Tensor) -> float:
    """Estimate the squared maximum mean discrepancy without bias; may be slightly below 0.

    The kernel is k(x, y) = (x·y / dimensions + 1)³. Of each side with itself the mean is
    over pairs of different images (Gretton et al. 2012, eq. 3).

    Args:
        first, second: features (m, dimensions) and (n, dimensions), m and n >= 2.
    """
    first, second = first.double(), second.double()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: Tensor) -> Tensor:
        matrix = kernel(x, x)
        return (matrix.sum() - matrix.trace()) / (len(x) * (len(x) - 1))

    return (within(first) + within(second) - 2 * kernel(first, second).mean()).item()


@dataclass(frozen=True)
class Distance:
    """Distances of one kind of images from the reference."""

    frechet: float
    kernel: float  # about 0 for the same distribution, and may be a little below
    kernel_error: float | None  # standard error over blocks; None where there is one block
    pairwise: float  # mean distance between the features of an image and of its counterpart


class PairedDistances:
    """Distances of one kind of images from the reference, from pairs of features of the two.

    The kernel distance is the mean of `squared_mmd` over disjoint blocks of BLOCK pairs. A
    last block that is not full counts if it is at least half full, or the only one. At most
    a block and a batch of each side is held.
    """

    def __init__(self, dimensions: int) -> None:
        self._made = RunningGaussian(dimensions)
        self._waiting = torch.zeros(2, 0, dimensions)
        self._estimates: list[float] = []
        self._apart = 0.0

    def update(self, real: Tensor, made: Tensor) -> None:
        """Take in features (n, dimensions) of n images and of their counterparts, on the CPU."""
        self._made.update(made)
        self._apart += (real - made).double().norm(dim=1).sum().item()
        self._waiting = torch.cat([self._waiting, torch.stack([real, made])], dim=1)
        while self._waiting.shape[1] >= BLOCK:
            self._estimates.append(squared_mmd(*self._waiting[:, :BLOCK]))
            self._waiting = self._waiting[:, BLOCK:]

    def result(self, reference: RunningGaussian) -> Distance:
        """Return the distances; `reference` has taken in the same real features, two or more."""
        estimates = [*self._estimates]
        if not estimates or self._waiting.shape[1] >= BLOCK / 2:
            estimates.append(squared_mmd(*self._waiting))
        blocks = torch.tensor(estimates, dtype=torch.float64)
        error = blocks.std().item() / math.sqrt(len(blocks)) if len(blocks) > 1 else None
        frechet = frechet_distance(reference, self._made)
        return Distance(frechet, blocks.mean().item(), error, self._apart / self._made.count)


@torch.inference_mode()
def measure_distances(
    trained: TrainedModel,
    split: str,
    count: int,
    seed: int,
    features: Features,
    kinds: Mapping[str, Images],
    view: Images = lambda images: images,
) -> dict[str, Distance]:
    """Measure several kinds of images against the same images of a split, in one pass.

    No features are kept: of each kind a mean, a covariance and a block of the kernel.

    Args:
        trained: its data are the reference; the batches are on its device.
        split, count, seed: the reference, chosen at random; count > features.dimensions.
        features: of which network.
        kinds: what to compare; called with each batch of the reference in turn.
        view: is applied to the reference and to the training images of the floor, such as their
            reconstruction.

    Returns:
        The distance of each kind, and of "floor": as many training images. Nothing real is
        closer.
    """
    device, images = trained.device, trained.data.images
    others = evaluation_batches(
        random_subset(images["train"], count, seed), EVALUATION_BATCH, device
    )
    kinds = {**kinds, "floor": lambda _: view(next(others))}
    reference = RunningGaussian(features.dimensions)
    comparisons = {name: PairedDistances(features.dimensions) for name in kinds}
    chosen = random_subset(images[split], count, seed)
    for batch in progress_batches(chosen, device, f"distances ({features.name})"):
        real = features(_rounded(view(batch)))
        reference.update(real)
        for kind, make in kinds.items():
            comparisons[kind].update(real, features(_rounded(make(batch))))
    return {kind: found.result(reference) for kind, found in comparisons.items()}


def _rounded(images: Tensor) -> Tensor:
    """Return images in steps of 1/255, as those of a split are."""
    return (images * 255).round() / 255


def comparison_size(trained: TrainedModel, split: str) -> int:
    """Return the number of images on each side of a distance, as the settings and splits allow."""
    images = trained.data.images
    return min(trained.metrics_config.distance_images, len(images[split]), len(images["train"]))


def sample_source(model: VAE, latents: Latents) -> Images:
    """Return a function that decodes as many samples as it is given images."""
    return lambda images: model.decode(latents(len(images)).to(images.device))


def random_subset(images: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Choose `count` of the packed images at random, in their order."""
    rows = np.random.default_rng(seed).choice(len(images), count, replace=False)
    return images[np.sort(rows)] if count < len(images) else images
