"""Disentanglement metrics: MIG, SAP and DCI of latents against the true factors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vae.utils.errors import UserError

BINS = 20  # of equal width over a variable's range; usual in the literature on MIG
TREES = 10  # a factor
TREE_ROWS = 1000  # at most, a tree: so 49 factors from 128 latents never take minutes
TRAIN_FRACTION = 0.75  # of the rows, chosen at random; the rest is for informativeness
LEAF_ROWS = 5  # at least, a leaf: smaller ones are split by whichever latent has the luckiest noise
TINY = np.finfo(float).tiny  # in place of a sum of 0 that is divided by


@dataclass(frozen=True)
class DCI:
    """The three scores of Eastwood & Williams 2018, each from 0 to 1; 1 is best."""

    disentanglement: float  # a latent tells of one factor only
    completeness: float  # a factor is told by one latent only
    informativeness: float  # R² of the factors' prediction from all latents together


def mig(codes: np.ndarray, factors: np.ndarray) -> float:
    """Compute the mutual information gap, 0 to 1 (Chen et al. 2018).

    For each factor: how many nats more its best latent tells of it than its second best
    (0 where there is one latent only), over the factor's entropy; then the mean over the
    factors that vary.

    Counts overstate the information of two independent variables by about
    (BINS - 1)² / 2n nats, 0.15 at 1,200 rows. Two latents that tell little are overstated
    alike, and the gap between them stays. It shrinks where the best tells nearly all: that
    has nothing to gain, while the second has. Perfect uniform codes score 0.93 at 1,200
    rows and 0.99 at 10,000; so compare models at one number of rows.

    Args:
        codes: (n, latents). A latent that does not vary tells nothing.
        factors: (n, factors). One with no more distinct values than BINS keeps them.

    Raises:
        UserError: no factor varies.
    """
    factors = factors[:, _varying(factors)]
    entropies = [_entropy(np.bincount(_levels(factor))) for factor in factors.T]
    return float(np.mean(_gap(mutual_information(codes, factors)) / entropies))


def mutual_information(codes: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Estimate the mutual information of latents and factors, (latents, factors) nats, >= 0.

    From the counts of both in bins, as in `mig`, which says what that overstates. 0 where
    either does not vary.
    """
    latents = codes.shape[1]
    cells = _equal_width(codes) + BINS * np.arange(latents)  # a range for each latent
    information = np.empty((latents, factors.shape[1]))
    for column, factor in enumerate(factors.T):
        levels = _levels(factor)
        values = levels.max() + 1
        counts = np.bincount(
            (cells * values + levels[:, None]).ravel(), minlength=latents * BINS * values
        )
        joint = counts.reshape(latents, BINS, values)
        apart = _entropy(joint.sum(axis=2)) + _entropy(joint.sum(axis=1))
        information[:, column] = apart - _entropy(joint.reshape(latents, -1))
    return information.clip(min=0)  # rounding


def sap(codes: np.ndarray, factors: np.ndarray) -> float:
    """Compute separated attribute predictability, 0 to 1 (Kumar et al. 2018).

    For each factor: R² of its linear fit on one latent, which is their squared correlation,
    of the best latent less that of the second best (0 where there is one only); then the
    mean over the factors that vary. So for factors of two values too, where the paper takes
    the accuracy of a threshold: this way all are on one scale.

    Args:
        codes: (n, latents). A latent that does not vary predicts nothing.
        factors: (n, factors).

    Raises:
        UserError: no factor varies.
    """
    factors = factors[:, _varying(factors)]
    return float(np.mean(_gap((_standardised(codes).T @ _standardised(factors)) ** 2)))


def dci(codes: np.ndarray, factors: np.ndarray, seed: int) -> DCI:
    """Compute disentanglement, completeness, informativeness (Eastwood & Williams 2018).

    A random forest per factor, a regression for factors of two values too, predicts it from
    all latents; how far each latent reduces the squared error is its importance. A latent's
    disentanglement is 1 less the entropy of its importances over the factors, to the base of
    their number; their mean is weighted by the latents' importance. Completeness is the same
    the other way round. Informativeness is the mean R² on rows that the forests have not
    seen, where the paper takes the error; an R² below 0 counts as 0.

    Each split looks at all latents: if it saw a random third, importance would leak to those
    that tell nothing (perfect codes then score 0.74). A tree sees at most TREE_ROWS rows.

    Args:
        codes: (n, latents). With one, completeness is 1.
        factors: (n, factors). Those that do not vary in both parts of the rows are left out;
            with one, disentanglement is 1.
        seed: which rows are for training, and the forests.

    Raises:
        UserError: no factor varies in both parts.
    """
    from sklearn.ensemble import RandomForestRegressor

    order = np.random.default_rng(seed).permutation(len(codes))
    train, test = np.split(order, [round(TRAIN_FRACTION * len(codes))])
    factors = factors[:, _varying(factors[train], factors[test])]
    importances, fits = [], []
    for factor in factors.T:
        forest = RandomForestRegressor(
            TREES,
            min_samples_leaf=LEAF_ROWS,
            max_samples=min(TREE_ROWS, len(train)),
            random_state=seed,
        )
        forest.fit(codes[train], factor[train])
        importances.append(forest.feature_importances_)
        fits.append(max(0.0, forest.score(codes[test], factor[test])))
    importance = np.array(importances)  # (factors, latents)
    return DCI(_concentration(importance.T), _concentration(importance), float(np.mean(fits)))


def _varying(*parts: np.ndarray) -> np.ndarray:
    """Return which factors vary in every one of `parts` (rows, factors), bool (factors,)."""
    varies: np.ndarray = np.all([(rows != rows[:1]).any(axis=0) for rows in parts], axis=0)
    if not varies.any():
        raise UserError(
            f"Disentanglement: none of the {len(varies)} factors varies enough over "
            f"{sum(map(len, parts))} images to be measured. Take more images."
        )
    return varies


def _equal_width(values: np.ndarray) -> np.ndarray:
    """Return the bin, 0 to BINS - 1, of each value within its column's range."""
    low, high = values.min(axis=0), values.max(axis=0)
    width = np.where(high > low, high - low, 1)
    cells: np.ndarray = np.minimum((values - low) / width * BINS, BINS - 1).astype(np.int64)
    return cells


def _levels(factor: np.ndarray) -> np.ndarray:
    """Return a factor's values (n,) as integers from 0."""
    values, places = np.unique(factor, return_inverse=True)
    levels: np.ndarray = places if len(values) <= BINS else _equal_width(factor)
    return levels


def _entropy(weights: np.ndarray) -> np.ndarray:
    """Return the entropy in nats over the last axis of weights >= 0; 0 where they sum to 0."""
    shares = weights / np.maximum(weights.sum(axis=-1, keepdims=True), TINY)
    entropy: np.ndarray = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=-1)
    return entropy


def _gap(scores: np.ndarray) -> np.ndarray:
    """Return the best score minus the second best: (latents, factors) >= 0 -> (factors,)."""
    ordered = np.sort(np.pad(scores, ((1, 0), (0, 0))), axis=0)  # 0 is second to a lone latent
    gap: np.ndarray = ordered[-1] - ordered[-2]
    return gap


def _standardised(values: np.ndarray) -> np.ndarray:
    """Standardise columns to mean 0 and length 1; a constant column becomes about 0.

    Either way its product with a column of mean 0 is 0.
    """
    centred = values - values.mean(axis=0, dtype=float)
    length = np.linalg.norm(centred, axis=0)
    standardised: np.ndarray = centred / np.where(length > 0, length, 1)
    return standardised


def _concentration(importance: np.ndarray) -> float:
    """Return 1 minus the rows' normalised entropy, averaged with the rows' sums as weights."""
    entropies = _entropy(importance) / math.log(max(2, importance.shape[1]))
    sums = importance.sum(axis=1)
    return float(((1 - entropies) * sums).sum() / max(sums.sum(), TINY))
