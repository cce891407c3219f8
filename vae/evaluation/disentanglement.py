"""Disentanglement metrics of latents against the true factors: MIG, SAP, DCI, FactorVAE score."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from vae.data import SyntheticConfig
from vae.data.base import SPLITS
from vae.data.loader import to_float
from vae.data.synthetic.faces import FACTOR_NAMES, PRESETS, draw, sample_factors
from vae.models.base import VAE
from vae.training.metrics import ACTIVE_VARIANCE, EVALUATION_BATCH
from vae.utils.devices import cpu_threads
from vae.utils.errors import UserError
from vae.utils.text import plural

BINS = 20  # of equal width over a variable's range; usual in the literature on MIG
TREES = 10  # a factor
TREE_ROWS = 1000  # at most, a tree: so 49 factors from 128 latents never take minutes
TRAIN_FRACTION = 0.75  # of the rows, chosen at random; the rest is for informativeness
LEAF_ROWS = 5  # at least, a leaf: smaller ones are split by whichever latent has the luckiest noise
TINY = np.finfo(float).tiny  # in place of a sum of 0 that is divided by

# By simulation on the factors of both presets, with mixed codes: 600 votes leave the score
# a standard deviation of at most 0.02 over seeds. Its level rises with the batch, most so
# for `rich`: below 32 faces many a vote has no hat in it, whichever factor is held, and
# even codes that are the factors themselves lose (0.70 at 8 faces, 0.92 at 16, 0.99 at 32).
# So scores compare at one size of batch only.
VOTES = 600
BATCH = 32  # images a vote
FOLDS = 3
STREAM = len(SPLITS)  # of a seed's sequences of faces: the first that is no split's


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


def factorvae_score(codes: np.ndarray, held: np.ndarray, stds: np.ndarray) -> float:
    """Compute the accuracy of predicting the held factor from variances (Kim & Mnih 2018).

    In each vote one factor, chosen at random, is the same in a batch of images and the
    others are as they come. The latent whose variance within the batch is the smallest part
    of its variance at large votes for the factor. Whose vote means which factor is learned
    from two thirds of the votes, by majority, and tested on the rest. Here each third is the
    rest once: images are dear, and this nearly halves the score's spread for nothing.

    Args:
        codes: (votes, batch, latents) of images which within a vote share that factor's value.
        held: (votes,) int64, the factor of each vote, from 0.
        stds: (latents,) of the codes of many images in which all varies. A latent with a
            variance of at most `vae.training.metrics.ACTIVE_VARIANCE` is inactive and has no
            vote; one at least is active.

    Returns:
        0 to 1; 1 / number of factors is chance.
    """
    active = np.square(stds) > ACTIVE_VARIANCE
    variances = codes[:, :, active].var(axis=1) / np.square(stds[active])
    voters = variances.argmin(axis=1)
    part = np.arange(len(held)) % FOLDS
    right = 0
    for fold in range(FOLDS):
        told, asked = part != fold, part == fold
        counts = np.zeros((active.sum(), held.max() + 1), dtype=np.int64)
        np.add.at(counts, (voters[told], held[told]), 1)
        right += int((counts.argmax(axis=1)[voters[asked]] == held[asked]).sum())
    return right / len(held)


def vote_factors(held: np.ndarray, seed: int, preset: str) -> np.ndarray:
    """Return the factors of each vote's faces, with one factor held constant per vote.

    That has the value of the vote's first face in all of them, so rare ones stay rare.

    Args:
        held: (votes,) int, places in PRESETS[preset].
        seed: >= 0; which faces. None of them is in a split of `data.seed`'s.
        preset: one of PRESETS. In `rich` one factor can hide another (a bare head says
            nothing of the hat's hue), so that no model's score reaches 1.

    Returns:
        (votes, BATCH, len(FACTORS)) float32.
    """
    rows = sample_factors(preset, len(held) * BATCH, (seed, STREAM))
    rows = rows.reshape(len(held), BATCH, len(FACTOR_NAMES))
    columns = np.array([FACTOR_NAMES.index(name) for name in PRESETS[preset]])[held]
    votes = np.arange(len(held))
    rows[votes, :, columns] = rows[votes, 0, columns][:, None]
    return rows


@torch.inference_mode()
def drawn_factorvae_score(
    model: VAE, config: SyntheticConfig, stds: np.ndarray, seed: int
) -> float:
    """Compute the FactorVAE score of a model of drawn faces from VOTES batches of BATCH.

    The faces are drawn for it, a factor held in each vote: about a minute.

    Args:
        stds: (latent_dim,) of the posterior means over the data. If no latent is active, the
            score is 0, and nothing is drawn.
    """
    if not (np.square(stds) > ACTIVE_VARIANCE).any():
        return 0.0
    held = np.random.default_rng(seed).integers(len(PRESETS[config.preset]), size=VOTES)
    device = next(model.parameters()).device
    rows = torch.from_numpy(vote_factors(held, seed, config.preset)).flatten(0, 1)
    codes = []
    with tqdm(total=len(rows), desc="drawing votes", unit=" faces", disable=None) as bar:
        for some in torch.split(rows, EVALUATION_BATCH):
            with cpu_threads(1):  # on more, they wait for one another for most of the time
                faces = draw(some, config.image_size)
            pixels = (faces * 255).round().to(torch.uint8)  # as in a packed cache
            images = to_float(pixels.permute(0, 2, 3, 1).numpy(), device)
            codes.append(model.encode(images).mode.cpu())
            bar.update(len(some))
    return factorvae_score(torch.cat(codes).view(VOTES, BATCH, -1).numpy(), held, stds)


def _varying(*parts: np.ndarray) -> np.ndarray:
    """Return which factors vary in every one of `parts` (rows, factors), bool (factors,)."""
    varies: np.ndarray = np.all([(rows != rows[:1]).any(axis=0) for rows in parts], axis=0)
    if not varies.any():
        raise UserError(
            f"Disentanglement: no factor of {len(varies)} varies enough over "
            f"{plural(sum(map(len, parts)), 'image')} to be measured. Take more images."
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
