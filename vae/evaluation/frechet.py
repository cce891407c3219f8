"""The Fréchet distance between two sets of images, by the features of a network.

FID is this distance in the features of an Inception network (Heusel et al. 2017).
"""

from __future__ import annotations

import torch

from vae.moments import Gaussian


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """|m₁ - m₂|² + tr(C₁ + C₂ - 2 (C₁C₂)^½), >= 0 (Dowson & Landau 1982).

    With R Rᵀ = C₁ the trace of the root is the sum of the roots of the eigenvalues of
    Rᵀ C₂ R, which is symmetric: no complex numbers, and C₁ and C₂ may be singular, as
    those of fewer images than dimensions are.

    Estimated from n images a side it is too large, by about as much as two sets of n
    images from one source differ: give n, and that floor, with it.

    Raises:
        ValueError: one side has fewer than two features.
    """
    ours, theirs = first.covariance, second.covariance
    values, vectors = torch.linalg.eigh(ours)
    root = vectors * values.clamp(min=0).sqrt()
    product = torch.linalg.eigvalsh(root.T @ theirs @ root)
    root_trace = product.clamp(min=0).sqrt().sum()
    means = (first.mean - second.mean).square().sum()
    distance = means + ours.trace() + theirs.trace() - 2 * root_trace
    return max(0.0, float(distance))  # rounding may bring 0 a little below
