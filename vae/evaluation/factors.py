"""A model's codes against the true factors of drawn faces."""

from __future__ import annotations

import numpy as np
import torch
from tqdm import tqdm

from vae.data import SyntheticConfig
from vae.data.faces import PRESETS
from vae.evaluation.disentanglement import dci, mig, sap
from vae.evaluation.factorvae import VOTES, drawn_votes, factorvae_score
from vae.models.vae import VAE


def factor_scores(means: np.ndarray, factors: np.ndarray, seed: int) -> dict[str, float]:
    """MIG, SAP and the three of DCI.

    Args:
        means: posterior means, (n, latent_dim).
        factors: of the same images, (n, factors).
        seed: of DCI's forests.

    Raises:
        UserError: no factor varies over these images.
    """
    scores = dci(means, factors, seed)
    return {
        "mig": mig(means, factors),
        "sap": sap(means, factors),
        "dci_disentanglement": scores.disentanglement,
        "dci_completeness": scores.completeness,
        "dci_informativeness": scores.informativeness,
    }


@torch.inference_mode()
def drawn_factorvae_score(
    model: VAE, config: SyntheticConfig, stds: np.ndarray, seed: int
) -> tuple[float, int]:
    """The FactorVAE score of a model of drawn faces, and the number of votes behind it.

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
