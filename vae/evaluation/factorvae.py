"""The FactorVAE score and the drawn faces for its votes."""

from __future__ import annotations

from collections.abc import Iterator

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
BATCH = 32  # images a vote
FOLDS = 3
STREAM = len(SPLITS)  # of a seed's sequences of faces: the first that is no split's


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


def drawn_votes(
    held: np.ndarray, seed: int, preset: str, image_size: int, device: torch.device
) -> Iterator[Tensor]:
    """Draw the pictures of `vote_factors`, quantised as in a packed cache, with a progress bar.

    Yields:
        (<= EVALUATION_BATCH, 3, image_size, image_size) in [0, 1], in steps of 1/255 as
        in a packed cache; votes * BATCH in all.
    """
    rows = torch.from_numpy(vote_factors(held, seed, preset)).flatten(0, 1)
    with tqdm(total=len(rows), desc="drawing votes", unit=" faces", disable=None) as bar:
        for some in torch.split(rows, EVALUATION_BATCH):
            with cpu_threads(1):  # on more, they wait for one another for most of the time
                faces = draw(some, image_size)
            pixels = (faces * 255).round().to(torch.uint8)
            yield to_float(pixels.permute(0, 2, 3, 1).numpy(), device)
            bar.update(len(some))


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
    drawn = drawn_votes(held, seed, config.preset, config.image_size, device)
    codes = torch.cat([model.encode(images).mode.cpu() for images in drawn])
    return factorvae_score(codes.view(VOTES, BATCH, -1).numpy(), held, stds)
