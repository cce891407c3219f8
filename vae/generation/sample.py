"""Sample new faces from a prior, and measure how good the samples are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import trange

from vae.evaluation import TrainedModel
from vae.evaluation.distances import (
    Latents,
    comparison_size,
    measure_distances,
    pick_features,
    sample_source,
)
from vae.evaluation.priors import (
    ALIASES,
    Prior,
    StandardPrior,
    fit_prior,
    latents_of,
    measure_priors,
)
from vae.generation import figures
from vae.training.metrics import EVALUATION_BATCH

CAPTIONS = {
    "standard": figures.PRIOR_CAPTION,
    "gaussian": figures.GAUSSIAN_CAPTION,
    "mixture": "decoded from a Gaussian mixture fitted to the latents",
    "flow": "decoded from a flow fitted to the latents",
}
MAX_SHOWN = 256  # samples on a sheet


@dataclass(frozen=True)
class SamplingGain:
    """Fréchet distances of samples of the standard prior and of another, by prior."""

    features: str  # faces or inception
    n: int  # images on each side
    distances: dict[str, float]  # from faces of the split
    floor: float  # of training images: nothing real is closer
    prior_errors: dict[str, float]  # from reconstructions of the split
    ceiling: float  # of samples of the aggregate posterior: no prior is closer


@torch.inference_mode()
def sample(
    trained: TrainedModel,
    num: int = 64,
    prior: str = "gaussian",
    seed: int = 0,
    temperature: float = 1.0,
    *,
    folder: Path,
    separate: bool = False,
    fitted: Prior | None = None,
) -> list[Path]:
    """Draw faces: the same model, prior, number, seed and temperature give the same files.

    Args:
        trained: decodes on its device.
        num: how many, >= 1.
        prior: standard, gaussian, mixture or flow.
        temperature: >= 0; scales the noise about the prior's means.
        folder: where the files go.
        separate: one PNG a sample, too.
        fitted: what `fit_prior` returned for this model and prior; fitted now if None.

    Returns:
        figures/samples_PRIOR.png with the first MAX_SHOWN of them; and, where asked for,
        samples_PRIOR/00000.png, ...

    Raises:
        UserError: as `fit_prior`.
    """
    latents = latents_of(fitted or fit_prior(trained, prior, seed), seed, temperature)
    shown: list[Tensor] = []
    files: list[Path] = []
    name = f"samples_{prior}" if temperature == 1 else f"samples_{prior}_t{temperature:g}"
    for start in trange(0, num, EVALUATION_BATCH, desc="decoding", unit=" batches", disable=None):
        batch = latents(min(EVALUATION_BATCH, num - start)).to(trained.device)
        images = trained.model.decode(batch).cpu()
        if start < MAX_SHOWN:
            shown.append(images)
        if separate:
            files += [
                figures.save_png(figures.to_pil(image), folder / name / f"{number:05d}.png")
                for number, image in enumerate(images, start)
            ]
    caption = CAPTIONS[ALIASES.get(prior, prior)]
    if temperature != 1:
        caption += f", temperature {temperature:g}"
    sheet = folder / "figures" / f"{name}.png"
    return [figures.write_samples({caption: torch.cat(shown)[:MAX_SHOWN]}, sheet), *files]


def measure_gain(
    trained: TrainedModel,
    prior: str,
    fitted: Prior,
    split: str = "val",
    seed: int = 0,
    temperature: float = 1.0,
) -> tuple[SamplingGain | None, list[str]]:
    """Measure samples of a prior and of N(0, I); notes say why None.

    The samples are those that `evaluate_model` measures with the same seed.
    """
    count = comparison_size(trained, split)
    features, notes = pick_features(trained, count)
    if features is None:
        return None, notes
    standard = StandardPrior(trained.model.latent_dim)
    priors = {"standard": (standard, 1.0), prior: (fitted, temperature)}

    def latents() -> dict[str, Latents]:  # each from its start
        return {name: latents_of(one, seed, scale) for name, (one, scale) in priors.items()}

    kinds = {name: sample_source(trained.model, draw) for name, draw in latents().items()}
    found = measure_distances(trained, split, count, seed, features, kinds)
    distances = {name: distance.frechet for name, distance in found.items()}
    floor = distances.pop("floor")
    errors = measure_priors(trained, split, latents(), features, seed)
    gain = SamplingGain(features.name, count, distances, floor, errors.errors, errors.ceiling)
    return gain, notes
