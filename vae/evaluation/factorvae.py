"""The FactorVAE score and the drawn faces for its votes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vae.data import SyntheticConfig
from vae.data.base import SPLITS
from vae.data.loader import to_float
from vae.data.synthetic.faces import FACTOR_NAMES, PRESETS, draw, sample_factors
from vae.models.base import VAE
from vae.training.metrics import ACTIVE_VARIANCE, EVALUATION_BATCH
from vae.utils.devices import cpu_threads

# By simulation on the factors of both presets, with mixed codes: 600 votes leave the score
# a standard deviation of at most 0.02 over seeds. Its level rises with the batch, most so
# for `rich`: below 32 faces many a vote has no hat in it, whichever factor is held, and
# even codes that are the factors themselves lose (0.70 at 8 faces, 0.92 at 16, 0.99 at 32).
# So scores compare at one size of batch only.
VOTES = 600
BATCH = 32
FOLDS = 3
STREAM = len(SPLITS)  # of a seed's sequences of faces: the first that is no split's

Encode = Callable[[np.ndarray, int, int], np.ndarray]


def factorvae_score(
    encode: Encode,
    num_factors: int,
    stds: np.ndarray,
    seed: int,
    votes: int = VOTES,
    batch: int = BATCH,
) -> float:
    """Compute the accuracy of predicting the held factor from variances (Kim & Mnih 2018).

    In each vote one factor, chosen at random, is the same in a batch of images and the
    others are as they come. The latent whose variance within the batch is the smallest part
    of its variance at large votes for the factor. Whose vote means which factor is learned
    from two thirds of the votes, by majority, and tested on the rest. Here each third is the
    rest once: images are dear, and this nearly halves the score's spread for nothing.

    Args:
        encode: `encode(held, batch, seed)` with held (votes,) int64 from 0 to
            num_factors - 1 gives codes (votes, batch, latents): of images which within a
            vote share that factor's value. `drawn_votes` takes the same three.
        num_factors: how many there are.
        stds: (latents,) of the codes of many images in which all varies. A latent with a
            variance of at most `vae.training.metrics.ACTIVE_VARIANCE` is inactive and has no vote.
        seed: which factors are held; handed on to `encode`.
        votes: how many, >= 3.
        batch: images a vote, >= 2.

    Returns:
        0 to 1; 1 / num_factors is chance. 0 if no latent is active: nothing is then encoded.
    """
    active = np.square(stds) > ACTIVE_VARIANCE
    if not active.any():
        return 0.0
    held = np.random.default_rng(seed).integers(num_factors, size=votes)
    codes = encode(held, batch, seed)
    variances = codes[:, :, active].var(axis=1) / np.square(stds[active])
    return _accuracy(variances.argmin(axis=1), held, int(active.sum()), num_factors)


def _accuracy(voters: np.ndarray, held: np.ndarray, latents: int, num_factors: int) -> float:
    """Return the accuracy of a majority vote, cross-validated over FOLDS parts of the votes."""
    part = np.arange(len(held)) % FOLDS
    right = 0
    for fold in range(FOLDS):
        told, asked = part != fold, part == fold
        counts = np.zeros((latents, num_factors), dtype=np.int64)
        np.add.at(counts, (voters[told], held[told]), 1)
        right += int((counts.argmax(axis=1)[voters[asked]] == held[asked]).sum())
    return right / len(held)


def vote_factors(held: np.ndarray, batch: int, seed: int, preset: str) -> np.ndarray:
    """Return the factors of each vote's faces, with one factor held constant per vote.

    That has the value of the vote's first face in all of them, so rare ones stay rare.

    Args:
        held: (votes,) int, places in PRESETS[preset].
        batch: faces a vote.
        seed: >= 0; which faces. None of them is in a split of `data.seed`'s.
        preset: one of PRESETS. In `rich` one factor can hide another (a bare head says
            nothing of the hat's hue), so that no model's score reaches 1.

    Returns:
        (votes, batch, len(FACTORS)) float32.
    """
    rows = sample_factors(preset, len(held) * batch, (seed, STREAM))
    rows = rows.reshape(len(held), batch, len(FACTOR_NAMES))
    columns = np.array([FACTOR_NAMES.index(name) for name in PRESETS[preset]])[held]
    votes = np.arange(len(held))
    rows[votes, :, columns] = rows[votes, 0, columns][:, None]
    return rows


def drawn_votes(
    held: np.ndarray, batch: int, seed: int, preset: str, image_size: int, device: torch.device
) -> Iterator[Tensor]:
    """Draw the pictures of `vote_factors`, quantised as in a packed cache.

    Yields:
        (<= EVALUATION_BATCH, 3, image_size, image_size) in [0, 1], in steps of 1/255 as
        in a packed cache; votes * batch in all.
    """
    rows = torch.from_numpy(vote_factors(held, batch, seed, preset)).flatten(0, 1)
    for start in range(0, len(rows), EVALUATION_BATCH):
        with cpu_threads(1):  # on more, they wait for one another for most of the time
            faces = draw(rows[start : start + EVALUATION_BATCH], image_size)
        pixels = (faces * 255).round().to(torch.uint8)
        yield to_float(pixels.permute(0, 2, 3, 1).numpy(), device)


@torch.inference_mode()
def drawn_factorvae_score(
    model: VAE, config: SyntheticConfig, stds: np.ndarray, seed: int
) -> tuple[float, int]:
    """Compute the FactorVAE score of a model of drawn faces; return it and the number of votes.

    The faces are drawn for it, a factor held in each vote: about a minute.

    Args:
        stds: (latent_dim,) of the posterior means over the data.
    """
    device = next(model.parameters()).device

    def encode(held: np.ndarray, batch: int, seed: int) -> np.ndarray:
        drawn = drawn_votes(held, batch, seed, config.preset, config.image_size, device)
        means = []
        with tqdm(
            total=len(held) * batch, desc="drawing votes", unit=" faces", disable=None
        ) as bar:
            for images in drawn:
                means.append(model.encode(images).mode.cpu())
                bar.update(len(images))
        return torch.cat(means).view(len(held), batch, -1).numpy()

    count = len(PRESETS[config.preset])
    return factorvae_score(encode, count, stds, seed, VOTES), VOTES
