"""Directions among the latents along which faces gain an attribute.

Three kinds, of each attribute:

- `means`: from the mean of the faces without it to the mean of the faces with it (Larsen et
  al. 2016). It includes every correlated attribute: a beard comes with a man.
- `normal`: from faces without it to faces with it that are alike in the other attributes: the
  coefficients of a regularized linear regression of the latents on all attributes. It is the
  normal of the linear classifier of such faces among latents whitened by their spread.
- `conditional`: the normal of a linear classifier's plane, projected onto the planes of the other
  attributes' classifiers (InterFaceGAN, Shen et al. 2020; their classifiers are support vector
  machines, these are Fisher's discriminants).

A step of 1 leads from the average face without the attribute to the average face with it; for
`normal`, of faces that are alike in the rest; for `conditional`, as that classifier sees it.

All come from sums over a split, in float64: memory is (attributes + latents) · latents
numbers, and the latents of at most MAX_ENCODED faces for the spread within the classes.

The place of a face z along a direction d is z·Σ⁻¹d / d·Σ⁻¹d, Σ being the covariance of the
latents. A step of s along d adds s to the place, and if the latents are Gaussian, the density
of z + s·d changes with the place alone. The orthogonal projection z·d / d·d also adds s, but
it varies with all that correlates with the latents of d: the tone of the skin, for glasses.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vae.evaluation.latents import MAX_ENCODED, RunningGaussian
from vae.utils.errors import require

METHODS = ("normal", "means", "conditional")
SHRINKAGE = 1e-3  # of the latents' covariance towards a multiple of I (Friedman 1989)
RIDGE = 1e-3  # added to the attributes' variances, in parts of them
MIN_FACES = 10  # faces on each side of an attribute: fewer say nothing about it
LIMIT = 2.0  # standard deviations of a class's places, beyond which no face is edited
REMAINDER = 0.05  # of a classifier's squared normal, that others must leave for `conditional`
ENTANGLED = 0.01  # a part of a class so small that two attributes (nearly) decide each other


class LatentStatistics:
    """Running moments of all latents, sums over the faces that have an attribute, first latents.

    Args:
        latent_dim: size of z.
        attributes: how many there are.
    """

    def __init__(self, latent_dim: int, attributes: int) -> None:
        self.all = RunningGaussian(latent_dim)
        # (attributes, latent_dim) float64, the sum of the latents of the faces that have it
        self.sums = torch.zeros(attributes, latent_dim, dtype=torch.float64)
        # (attributes, attributes) float64, how many faces have both; on the diagonal, have it
        self.together = torch.zeros(attributes, attributes, dtype=torch.float64)
        # of the first MAX_ENCODED faces: latents (n, latent_dim), and 0/1 attributes
        self.first: list[tuple[Tensor, Tensor]] = []

    def update(self, latents: Tensor, attributes: Tensor) -> None:
        """Take in latents (n, latent_dim) and 0/1 attributes (n, attributes) of n faces."""
        if (missing := MAX_ENCODED - self.all.count) > 0:
            self.first.append((latents[:missing].cpu(), attributes[:missing]))
        self.all.update(latents)
        rows = attributes.double()
        self.sums += rows.T @ latents.cpu().double()
        self.together += rows.T @ rows


@dataclass(frozen=True)
class Directions:
    """Directions and classifiers of attributes: float64, (attributes, latents) unless stated.

    An edit ends at the limits: the mean place of the faces without the attribute minus LIMIT
    standard deviations, and the mean place of the faces with it plus LIMIT.
    """

    names: tuple[str, ...]
    means: Tensor
    normal: Tensor
    conditional: Tensor
    weights: Tensor  # of the linear classifiers: no face is moved along these
    middles: Tensor  # halfway between the faces with it and those without
    places: Tensor  # (METHODS, attributes, latents), their products with a face are its places
    limits: Tensor  # (METHODS, attributes, 2), the lowest and the highest place

    def scores(self, latents: Tensor, along: str = "weights") -> Tensor:
        """Project faces on each attribute's direction, from the class midpoint: > 0 predicts it.

        Args:
            latents: (n, latents).
            along: weights, or one of METHODS.

        Returns:
            (n, attributes) float64.
        """
        ways: Tensor = getattr(self, along)
        return latents.to(ways) @ ways.T - (ways * self.middles).sum(1)

    def step(
        self,
        latents: Tensor,
        attribute: str,
        strength: float,
        method: str = METHODS[0],
        unbounded: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Return the step that gives faces an attribute, and the strengths of the step.

        Args:
            latents: (n, latents), of the faces.
            strength: 1 leads from the average face without it to the average face with it.
            method: one of METHODS.
            unbounded: apply `strength` to all faces; otherwise it is shortened by `limited`.

        Returns:
            (n, latents), to be added to the latents, and (n,) float64 on the CPU.
        """
        sizes = torch.full((len(latents),), strength, dtype=torch.float64)
        if not unbounded:
            sizes = self.limited(latents, attribute, strength, method)
        return sizes.to(latents)[:, None] * self.way(attribute, method).to(latents), sizes

    def way(self, attribute: str, method: str = METHODS[0]) -> Tensor:
        """Return an attribute's direction, (latents,) float64: a step of strength 1."""
        found: Tensor = getattr(self, method)[self.names.index(attribute)]
        return found

    def limited(self, latents: Tensor, attribute: str, strength: float, method: str) -> Tensor:
        """Return each face's strength, shortened so that the edit ends within the limits.

        An edit outwards does not move a face that is beyond the limit already.

        Args:
            latents: (n, latents).

        Returns:
            (n,) float64 on the CPU, between 0 and `strength`.
        """
        of = METHODS.index(method), self.names.index(attribute)
        places = latents.cpu().double() @ self.places[of]
        low, high = self.limits[of]
        wanted = torch.full_like(places, strength)
        return wanted.clamp((low - places).clamp(max=0), (high - places).clamp(min=0))

    def strength_limits(self) -> dict[str, dict[str, dict[str, list[float]]]]:
        """Return the least and the greatest strength for the average faces of the classes.

        Returns:
            By attribute, method and class ("without" the attribute, and "with" it).
        """
        half = self.means / 2
        classes = {"without": self.middles - half, "with": self.middles + half}
        return {
            name: {
                method: {
                    side: (limits - mean[row] @ places).tolist() for side, mean in classes.items()
                }
                for method, limits, places in zip(
                    METHODS, self.limits[:, row], self.places[:, row], strict=True
                )
            }
            for row, name in enumerate(self.names)
        }


def require_method(method: str) -> None:
    """Raise a UserError unless `method` is one of METHODS."""
    require(method in METHODS, "--method", method, f"one of {', '.join(METHODS)}")


def find_directions(statistics: LatentStatistics, names: tuple[str, ...]) -> Directions:
    """Return the directions of attributes with at least MIN_FACES faces in both classes.

    The classifiers are Fisher's linear discriminants with a shrunk covariance. The limits are
    the classes' means, of all faces, and their spread among the first MAX_ENCODED; if fewer
    than MIN_FACES of these are in the class, the spread of all faces.

    Args:
        statistics: of a training split's posterior means.
        names: of the attributes, as many as the statistics have.
    """
    total, count = statistics.all.count, statistics.together.diagonal()
    kept = ((count >= MIN_FACES) & (total - count >= MIN_FACES)).nonzero()[:, 0]
    sums, together = statistics.sums[kept], statistics.together[kept][:, kept]
    count = count[kept, None]
    having = sums / count
    lacking = (statistics.all.mean * total - sums) / (total - count)
    means = having - lacking
    # The covariance of all faces serves as well as that within the classes: the two differ
    # along `means` only, which changes the length of the weights alone.
    covariance = statistics.all.covariance
    spread = covariance.diagonal().mean().clamp(min=1e-12)
    shrunk = (1 - SHRINKAGE) * covariance
    shrunk.diagonal().add_(SHRINKAGE * spread)
    weights = torch.linalg.solve(shrunk, means.T).T
    held = _can_be_held(together, total)
    normal = _normals(means, together, total, held)
    conditional = _projections(means, weights, held)
    middles = (having + lacking) / 2
    ways = torch.stack([normal, means, conditional])  # in the order of METHODS
    places = torch.linalg.solve(shrunk, ways.mT).mT
    # Where no face differs from another, the direction is 0, and so is every place.
    places = places / (places * ways).sum(-1, keepdim=True).clamp(min=1e-30)
    limits = _limits(statistics, kept, torch.stack([lacking, having]), places)
    named = tuple(names[i] for i in kept.tolist())
    return Directions(named, means, normal, conditional, weights, middles, places, limits)


def _limits(statistics: LatentStatistics, kept: Tensor, classes: Tensor, places: Tensor) -> Tensor:
    """Return the lowest and the highest place of each attribute: (METHODS, attributes, 2).

    Args:
        statistics: as `find_directions`.
        kept: columns of the attributes.
        classes: (2, attributes, latents), the means of the faces without it and with it.
        places: of Directions.
    """
    latents = torch.cat([latents for latents, _ in statistics.first]).double()
    has = torch.cat([attributes for _, attributes in statistics.first])[:, kept]
    of_all = (places @ statistics.all.covariance * places).sum(-1)
    measured = latents @ places.mT  # (METHODS, faces, attributes)
    ends = []
    for mean, members, sign in zip(classes, (has == 0, has == 1), (-1, 1), strict=True):
        count = members.sum(0)
        centre = (mean * places).sum(-1)
        among = (measured * members).sum(1, keepdim=True) / count
        variance = ((measured - among).square() * members).sum(1) / (count - 1)
        spread = torch.where(count >= MIN_FACES, variance, of_all).sqrt()
        ends.append(centre + sign * LIMIT * spread)
    return torch.stack(ends, -1).sort(-1).values  # `normal` can lead against `means`


def balanced_accuracy(says: Tensor, attributes: Tensor) -> Tensor:
    """Return the mean of both classes' recalls, (attributes,); chance is 1/2.

    Args:
        says: (n, attributes) bool, whether a face is said to have it.
        attributes: (n, attributes) of 0 and 1. NaN where a class has no face.
    """
    has = attributes.bool()
    right, everyone = torch.stack([has & says, ~has & ~says]), torch.stack([has, ~has])
    recalls: Tensor = right.sum(1) / everyone.sum(1)
    return recalls.mean(0)


def _normals(means: Tensor, together: Tensor, total: int, held: Tensor) -> Tensor:
    """Return each attribute's mean difference between faces equal in the held attributes.

    The coefficients d of the ridge regression of the latents on the attribute and the held
    ones. If N is the covariance that the regression leaves, Fisher's discriminant of such
    faces is N⁻¹ d. That is its plane's normal among the latents as they are, and goes where
    faces vary least. Among whitened ones it is N^-½ d, which is a step of d among the latents,
    and leads from the mean of the ones to the mean of the others.
    """
    shares = together.diagonal() / total
    covariance = together / total - torch.outer(shares, shares)
    with_latents = covariance.diagonal()[:, None] * means  # covariance with each latent
    covariance = covariance + RIDGE * torch.diag(covariance.diagonal())
    normals = []
    for row in range(len(means)):
        rows = torch.cat([torch.tensor([row]), held[row].nonzero()[:, 0]])  # never held itself
        normals.append(torch.linalg.solve(covariance[rows][:, rows], with_latents[rows])[0])
    return torch.stack(normals) if normals else means


def _projections(means: Tensor, weights: Tensor, held: Tensor) -> Tensor:
    """Return each classifier's normal, orthogonal to the normals of the held attributes.

    Its length takes the average face without the attribute to the classifier's score of the average
    face with it. If the projection leaves less than REMAINDER of the squared normal, as with hardly
    more latents than attributes, the result is the unprojected normal: a step along so small a
    remainder would be huge.
    """
    found = []
    for row, normal in enumerate(weights):
        others = torch.nn.functional.normalize(weights[held[row]])
        _, sizes, basis = torch.linalg.svd(others, full_matrices=False)
        basis = basis[sizes > 1e-6]  # orthonormal; some may be combinations of the others
        rest = normal - basis.T @ (basis @ normal)
        if rest @ rest < REMAINDER * (normal @ normal):
            rest = normal
        found.append(rest * (means[row] @ normal) / (rest @ rest).clamp(min=1e-30))
    return torch.stack(found) if found else means


def _can_be_held(both: Tensor, total: int) -> Tensor:
    """Return which attributes (columns) can be held constant while another (row) changes.

    Not those that the other decides: hair that turns blond must cease to be black. So all
    four combinations of the two must be on at least ENTANGLED of the smaller class.
    """
    count = both.diagonal()
    only_row, only_column = count[:, None] - both, count[None] - both
    neither = total - both - only_row - only_column
    smallest = torch.stack([both, only_row, only_column, neither]).amin(0)
    sizes = torch.minimum(count, total - count)
    return smallest >= ENTANGLED * torch.minimum(sizes[:, None], sizes[None])
