"""Directions among the latents along which faces gain an attribute.

Two kinds, of each attribute:

- `means`: from the mean of the faces without it to the mean of those with it (Larsen et
  al. 2016). It takes along whatever goes with the attribute: a beard comes with a man.
- `normal`: the normal of a linear classifier that tells faces with it from faces without it
  which are alike in the other attributes, so that these stay as they are.

A step of 1 leads from the average face without it to the average face with it; for `normal`,
of faces that are alike in the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vae.editing.statistics import ClassMeans, LatentStatistics

METHODS = ("normal", "means")
SHRINKAGE = 1e-3  # of the latents' covariance towards a multiple of I (Friedman 1989)
RIDGE = 1e-3  # added to the attributes' variances, in parts of them
FEWEST = 10  # faces on each side of an attribute: fewer say nothing about it
ENTANGLED = 0.01  # a part of a class so small that two attributes (nearly) decide each other


@dataclass(frozen=True)
class Directions:
    """Directions and classifiers of attributes, all of them (attributes, latents) float64."""

    names: tuple[str, ...]
    means: Tensor
    normal: Tensor
    weights: Tensor  # of the linear classifiers: score = weights · z + biases, > 0 means has it
    biases: Tensor  # (attributes,)

    def scores(self, latents: Tensor) -> Tensor:
        """Of latents (n, latents): (n, attributes), > 0 where the attribute seems to be there."""
        return latents.to(self.weights) @ self.weights.T + self.biases


def find_directions(statistics: LatentStatistics, names: tuple[str, ...]) -> Directions:
    """The directions of all attributes that at least FEWEST faces have, and as many have not.

    The classifiers are Fisher's linear discriminants with a shrunk covariance.

    Args:
        statistics: of a training split's posterior means.
        names: of the attributes, as many as the statistics have.
    """
    classes, total = statistics.classes(), statistics.all.count
    kept = ((classes.count >= FEWEST) & (total - classes.count >= FEWEST)).nonzero()[:, 0]
    classes = classes.of(kept)
    means = classes.having - classes.lacking
    # The covariance of all faces serves as well as that within the classes: the two differ
    # along `means` only, which changes the length of the weights alone.
    weights = torch.linalg.solve(_shrunk(statistics.all.covariance), means.T).T
    biases = -(weights * (classes.having + classes.lacking) / 2).sum(1)
    normal = _normals(means, classes, total)
    return Directions(tuple(names[i] for i in kept.tolist()), means, normal, weights, biases)


def balanced_accuracy(scores: Tensor, attributes: Tensor) -> Tensor:
    """Mean of the shares of both classes that are told right, (attributes,); chance is 1/2.

    Args:
        scores: (n, attributes), > 0 says that it is there.
        attributes: (n, attributes) of 0 and 1. NaN where a class has no face.
    """
    has, says = attributes.bool(), scores > 0
    right_with = (has & says).sum(0) / has.sum(0)
    right_without = (~has & ~says).sum(0) / (~has).sum(0)
    return (right_with + right_without) / 2


def _shrunk(covariance: Tensor) -> Tensor:
    spread = covariance.diagonal().mean().clamp(min=1e-12)
    eye = torch.eye(len(covariance), dtype=covariance.dtype)
    return (1 - SHRINKAGE) * covariance + SHRINKAGE * spread * eye


def _normals(means: Tensor, classes: ClassMeans, total: int) -> Tensor:
    """For each attribute, the mean difference between faces that are alike in those held.

    The coefficients of the ridge regression of the latents on the attribute and the held
    ones. If N is the covariance that the regression leaves, the discriminant of two such
    faces is N⁻¹ d, and its normal, measured by N as the spread of faces asks for, is d.
    """
    shares = classes.count / total
    covariance = classes.together / total - torch.outer(shares, shares)
    with_latents = covariance.diagonal()[:, None] * means  # covariance with each latent
    covariance = covariance + RIDGE * torch.diag(covariance.diagonal())
    held = _can_be_held(classes, total)
    normals = []
    for row in range(len(means)):
        rows = torch.cat([torch.tensor([row]), held[row].nonzero()[:, 0]])  # never held itself
        normals.append(torch.linalg.solve(covariance[rows][:, rows], with_latents[rows])[0])
    return torch.stack(normals) if normals else means


def _can_be_held(classes: ClassMeans, total: int) -> Tensor:
    """Which attributes (columns) can stay as they are while another (row) changes.

    Not those that the other decides: hair that turns blond must cease to be black. So all
    four combinations of the two must be on at least ENTANGLED of the smaller class.
    """
    both, count = classes.together, classes.count
    only_row, only_column = count[:, None] - both, count[None] - both
    neither = total - both - only_row - only_column
    smallest = torch.stack([both, only_row, only_column, neither]).amin(0)
    sizes = torch.minimum(count, total - count)
    return smallest >= ENTANGLED * torch.minimum(sizes[:, None], sizes[None])
