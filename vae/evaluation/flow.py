"""A sliced iterative flow as a prior: from a Gaussian to the latents (Dai & Seljak 2021).

Each layer finds the orthogonal directions along which samples of the flow so far and latents
differ most in the sliced Wasserstein distance. Along each direction it moves the samples by the
monotone map that gives them the one-dimensional distribution of the latents. The first samples
are of the Gaussian fitted to the latents. No network is trained, and a sample takes one pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import trange

from vae.evaluation.cache import ArrayCache, require_array
from vae.evaluation.latents import aggregate_posterior
from vae.evaluation.mixture import gaussian_prior
from vae.models import Posterior

LAYERS = 100
DIRECTIONS = 32  # of a layer; fewer where there are fewer latents
KNOTS = 64  # of a monotone map
SAMPLES = 10_000  # at least so many samples, and latents, that the maps are fitted to
ASCENT_STEPS = 20  # of the search for directions
ASCENT_BATCH = 2000  # samples, and latents, in such a step
LARGEST_STEP, SMALLEST_STEP = 1.0, 0.1  # of the ascent: lengths of a direction's change

FORMAT = 2  # of the file: one of another format is made again
MAX_BYTES = 1 << 26  # of the file, and of its arrays; of 2,048 latents 45 MB


@dataclass(frozen=True)
class FlowPrior:
    """Layers that move samples of a Gaussian; all float32."""

    mean: Tensor  # (latent_dim,) of the Gaussian
    root: Tensor  # (latent_dim, latent_dim), lower triangular: R Rᵀ is its covariance
    directions: Tensor  # (layers, latent_dim, directions), orthonormal columns
    sources: Tensor  # (layers, directions, knots), ascending: quantiles along the directions
    targets: Tensor  # the same: what the sources are moved to

    @torch.inference_mode()
    def sample(self, count: int, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        noise = torch.randn(count, len(self.mean), generator=generator)
        latents = self.mean + temperature * noise @ self.root.T
        for layer in zip(self.directions, self.sources, self.targets, strict=True):
            latents = move(latents, *layer)
        return latents


def move(latents: Tensor, directions: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Move latents (n, latent_dim) along directions (latent_dim, k) by maps of k rows of knots."""
    along = (latents @ directions).T.contiguous()
    moved: Tensor = latents + (interpolate(along, source, target) - along).T @ directions.T
    return moved


def interpolate(x: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Map x row by row, linearly between knots and with a slope of 1 beyond them.

    Args:
        x: (rows, n).
        source: (rows, knots), ascending; the places of the knots.
        target: (rows, knots), ascending; their values.
    """
    above = torch.searchsorted(source, x).clamp(1, source.shape[1] - 1)
    x0, x1, y0, y1 = (
        knots.gather(1, index) for knots in (source, target) for index in (above - 1, above)
    )
    part = ((x - x0) / (x1 - x0).clamp(min=1e-12)).clamp(0, 1)
    beyond = (x - source[:, -1:]).clamp(min=0) + (x - source[:, :1]).clamp(max=0)
    mapped: Tensor = y0 + part * (y1 - y0) + beyond
    return mapped


@torch.inference_mode(False)
def fit_flow(posteriors: Posterior, seed: int = 0) -> FlowPrior:
    """Fit a flow to posteriors (n, latent_dim), n >= 2, on the CPU.

    Each posterior is sampled at least once.
    """
    gaussian = gaussian_prior(aggregate_posterior(posteriors))
    mean, root = gaussian.means[0].float().clone(), gaussian.roots[0].float().clone()
    generator = torch.Generator().manual_seed(seed)
    rows = torch.arange(max(SAMPLES, len(posteriors.mean))) % len(posteriors.mean)
    latents = Posterior(posteriors.mean[rows], posteriors.logvar[rows]).sample(generator).clone()
    moved = mean + torch.randn(latents.shape, generator=generator) @ root.T
    layers = []
    for _ in trange(LAYERS, desc="fitting the flow", unit=" layers", disable=None):
        directions = find_directions(moved, latents, generator)
        layer = (directions, _quantiles(moved @ directions), _quantiles(latents @ directions))
        moved = move(moved, *layer)
        layers.append(layer)
    return FlowPrior(mean, root, *(torch.stack(parts) for parts in zip(*layers, strict=True)))


def find_directions(first: Tensor, second: Tensor, generator: torch.Generator) -> Tensor:
    """Return orthonormal directions (latent_dim, k) along which two sets of vectors differ most.

    Gradient ascent on the sum over the directions of the squared Wasserstein distance of the two
    projections, with a QR decomposition after each step (max K-sliced Wasserstein distance).
    """
    latent_dim = first.shape[1]
    shape = (latent_dim, min(DIRECTIONS, latent_dim))
    directions: Tensor = torch.linalg.qr(torch.randn(shape, generator=generator)).Q
    decay = (SMALLEST_STEP / LARGEST_STEP) ** (1 / (ASCENT_STEPS - 1))
    for step in range(ASCENT_STEPS):
        directions.requires_grad_(True)
        ones, others = (
            (x[torch.randint(len(x), (ASCENT_BATCH,), generator=generator)] @ directions)
            .T.sort()
            .values
            for x in (first, second)
        )
        (slope,) = torch.autograd.grad((ones - others).square().sum(), directions)
        with torch.no_grad():
            across = directions.T @ slope
            slope = slope - directions @ (across + across.T) / 2  # along the orthonormal matrices
            slope = slope / slope.norm(dim=0).clamp(min=1e-12)
            change = LARGEST_STEP * decay**step * slope
            directions = torch.linalg.qr(directions.detach() + change).Q
    return directions


def _quantiles(values: Tensor) -> Tensor:
    """Return (k, KNOTS) quantiles of the columns of values (n, k), without the extremes."""
    ordered = values.T.sort().values
    places = (torch.arange(KNOTS) + 0.5) / KNOTS * (ordered.shape[1] - 1)
    quantiles: Tensor = ordered[:, places.long()]
    return quantiles


def flow_cache(latent_dim: int) -> ArrayCache[FlowPrior]:
    """Return the cache of a flow of `latent_dim` latents."""
    return ArrayCache(
        "flow", FORMAT, MAX_BYTES, _pack, lambda _, arrays: _unpack(latent_dim, arrays)
    )


def _pack(flow: FlowPrior) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    return {}, {name: tensor.numpy() for name, tensor in vars(flow).items()}


def _unpack(latent_dim: int, arrays: dict[str, np.ndarray]) -> FlowPrior:
    """Return what `_pack` packed; raise an error unless it has that form."""
    width = min(DIRECTIONS, latent_dim)
    shapes = {
        "mean": (latent_dim,),
        "root": (latent_dim, latent_dim),
        "directions": (LAYERS, latent_dim, width),
        "sources": (LAYERS, width, KNOTS),
        "targets": (LAYERS, width, KNOTS),
    }
    for name, shape in shapes.items():
        require_array(name, arrays[name], shape, np.float32)
    flow = FlowPrior(**{name: torch.from_numpy(array) for name, array in arrays.items()})
    if not flow.sample(64, torch.Generator().manual_seed(0)).isfinite().all():
        raise ValueError("its samples are not finite")
    return flow
