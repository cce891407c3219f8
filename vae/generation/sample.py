"""New faces from a finished run: from the prior, or from a density fitted to its latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import trange

from vae import figures
from vae.errors import require
from vae.evaluation import distances
from vae.evaluation.distances import Latents
from vae.evaluation.features import pick_features
from vae.generation.density import Density, fit_density
from vae.metrics import EVALUATION_BATCH
from vae.saved import SavedRun

PRIORS = ("standard", "fitted")
MOST_SHOWN = 256  # samples on a sheet


@dataclass(frozen=True)
class Gain:
    """The Fréchet distance of samples from a split, from the prior and from the density."""

    features: str  # faces or inception
    n: int  # images on each side
    standard: float
    fitted: float
    floor: float  # that of training images


def fit(run: SavedRun, seed: int) -> Density:
    """The density of a run's latents, fitted to its training images: about a minute."""
    return fit_density(run.model, run.data.images["train"], seed)


def sampler(run: SavedRun, prior: str, seed: int, density: Density | None = None) -> Latents:
    """Latents of a run's `standard` or `fitted` prior: a function of their number.

    Args:
        density: what `fit` gave for this run; fitted now if None and it is needed.

    Raises:
        UserError: `prior` is neither; or the training images, which `fitted` needs, are gone.
    """
    require(prior in PRIORS, "--prior", prior, "standard or fitted")
    if prior == "standard":
        return distances.standard_normal(run.model.latent_dim, seed)
    return (density or fit(run, seed)).sampler(seed)


@torch.inference_mode()
def sample(
    run: SavedRun,
    num: int = 64,
    prior: str = "standard",
    seed: int = 0,
    folder: Path | None = None,
    separate: bool = False,
    density: Density | None = None,
) -> list[Path]:
    """Draw faces: the same run, prior, number and seed, the same files.

    Args:
        run: its model's device is where they are decoded.
        num: how many, >= 1.
        prior: standard, N(0, I), or fitted.
        folder: where the files go; the run's if None.
        separate: one PNG a sample, too.
        density: as `sampler`.

    Returns:
        figures/samples_PRIOR.png with the first MOST_SHOWN of them; and, where asked for,
        samples_PRIOR/00000.png, ...
    """
    require(num >= 1, "--num", num, "an int >= 1")
    folder = folder or run.folder
    latents = sampler(run, prior, seed, density)
    shown: list[Tensor] = []
    files: list[Path] = []
    for start in trange(0, num, EVALUATION_BATCH, desc="decoding", unit=" batches", disable=None):
        images = run.model.decode(latents(min(EVALUATION_BATCH, num - start)).to(run.device)).cpu()
        if start < MOST_SHOWN:
            shown.append(images)
        if separate:
            below = folder / f"samples_{prior}"
            files += [
                figures.save(figures.picture(image), below / f"{number:05d}.png")
                for number, image in enumerate(images, start)
            ]
    sheet = folder / "figures" / f"samples_{prior}.png"
    return [figures.samples(torch.cat(shown)[:MOST_SHOWN], sheet), *files]


def measure_gain(
    run: SavedRun, split: str = "val", seed: int = 0, density: Density | None = None
) -> tuple[Gain | None, list[str]]:
    """How much nearer to a split the fitted density's samples are; and why not, where it is None.

    The standard samples are those that `evaluate_run` measures.
    """
    data = run.data
    images, train = data.images[split], data.images["train"]
    count = min(run.config.metrics.distance_images, len(images), len(train))
    features, notes = pick_features(run.config.metrics, run.config.data, run.device, count)
    if features is None:
        return None, notes
    kinds = {
        prior: distances.decoded(run.model, sampler(run, prior, seed, density)) for prior in PRIORS
    } | {"floor": distances.others(distances.choose(train, count, seed), run.device)}
    chosen = distances.choose(images, count, seed)
    found = distances.measure_distances(chosen, features, run.device, kinds)
    frechet = {kind: distance.frechet for kind, distance in found.items()}
    return Gain(features.name, count, **frechet), notes
