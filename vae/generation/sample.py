"""Sample new faces from the prior, or from a density fitted to the latents.

With a small beta the latents do not follow the prior, and its samples decode to images that
the decoder has never seen. A Gaussian mixture fitted after training is nearer to the latents
(Ghosh et al. 2020, section 4: ex-post density estimation). The model stays unchanged.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import trange

from vae.evaluation import TrainedModel, distances
from vae.evaluation.distances import Latents, measure_distances, pick_features, random_subset
from vae.evaluation.latents import encode_batches
from vae.generation import figures
from vae.training.metrics import EVALUATION_BATCH
from vae.utils.errors import UserError, require

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture

COMPONENTS = 10  # as in the paper
PER_COMPONENT = 10  # latents that a component needs: with fewer images there are fewer of them
MAX_LATENTS = 20_000  # latents to fit: bounds memory and time
VARIANCE_FLOOR = 1e-6  # added to the variances, as some latents may not vary

PRIORS = ("standard", "fitted")
CAPTIONS = {
    "standard": figures.PRIOR_CAPTION,
    "fitted": "decoded from a Gaussian mixture fitted to the latents",
}
MAX_SHOWN = 256  # samples on a sheet


@torch.inference_mode()
def fit_density(trained: TrainedModel, seed: int) -> GaussianMixture:
    """Fit a mixture of at most COMPONENTS Gaussians to the latents of the training images.

    To one sample of each image's posterior, not to its mean: such samples are what the
    decoder was trained on, and their density is the aggregate posterior.

    Args:
        trained: at most MAX_LATENTS of its training images are used.
        seed: of the samples, the choice of images and the start of the fit.

    Raises:
        UserError: there are too few images for one component.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    images = trained.data.images["train"]
    images = random_subset(images, min(MAX_LATENTS, len(images)), seed)
    components = min(COMPONENTS, len(images) // PER_COMPONENT)
    if components < 1:
        raise UserError(
            f"--prior fitted: needs at least {PER_COMPONENT} training images; there are "
            f"{len(images)}."
        )
    generator = torch.Generator().manual_seed(seed)
    latents = []
    for posterior in encode_batches(trained.model, images, "encoding train"):
        noise = torch.randn(posterior.mode.shape, generator=generator)
        latents.append(posterior.rsample(noise.to(posterior.mode)).cpu().double())
    mixture = GaussianMixture(components, reg_covar=VARIANCE_FLOOR, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a hundred steps are near enough
        mixture.fit(torch.cat(latents).numpy())
    return mixture


@dataclass(frozen=True)
class SamplingGain:
    """Fréchet distances of a split from samples of the prior and of the fitted density."""

    features: str  # faces or inception
    n: int  # images on each side
    standard: float
    fitted: float
    floor: float  # that of training images


def latent_sampler(
    trained: TrainedModel, prior: str, seed: int, density: GaussianMixture | None = None
) -> Latents:
    """Return a function of a number that draws latents, one stream per seed.

    Args:
        prior: `standard` or `fitted`.
        density: what `fit_density` returned for this model; fitted now if None and it is needed.

    Raises:
        UserError: `prior` is neither; or the training images, which `fitted` needs, are gone.
    """
    require(prior in PRIORS, "--prior", prior, "standard or fitted")
    if prior == "standard":
        return distances.prior_source(trained.model.latent_dim, seed)
    density = density or fit_density(trained, seed)
    weights, means = torch.from_numpy(density.weights_), torch.from_numpy(density.means_)
    roots = torch.linalg.cholesky(torch.from_numpy(density.covariances_))
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> Tensor:
        which = torch.multinomial(weights, count, replacement=True, generator=generator)
        shape = (count, means.shape[1])
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        return (means[which] + torch.einsum("nij,nj->ni", roots[which], noise)).float()

    return draw


@torch.inference_mode()
def sample(
    trained: TrainedModel,
    num: int = 64,
    prior: str = "standard",
    seed: int = 0,
    *,
    folder: Path,
    separate: bool = False,
    density: GaussianMixture | None = None,
) -> list[Path]:
    """Draw faces: the same model, prior, number and seed give the same files.

    Args:
        trained: decodes on its device.
        num: how many, >= 1.
        prior: standard, N(0, I), or fitted.
        folder: where the files go.
        separate: one PNG a sample, too.
        density: as `latent_sampler`.

    Returns:
        figures/samples_PRIOR.png with the first MAX_SHOWN of them; and, where asked for,
        samples_PRIOR/00000.png, ...
    """
    latents = latent_sampler(trained, prior, seed, density)
    shown: list[Tensor] = []
    files: list[Path] = []
    for start in trange(0, num, EVALUATION_BATCH, desc="decoding", unit=" batches", disable=None):
        batch = latents(min(EVALUATION_BATCH, num - start)).to(trained.device)
        images = trained.model.decode(batch).cpu()
        if start < MAX_SHOWN:
            shown.append(images)
        if separate:
            below = folder / f"samples_{prior}"
            files += [
                figures.save_png(figures.to_pil(image), below / f"{number:05d}.png")
                for number, image in enumerate(images, start)
            ]
    sheet = folder / "figures" / f"samples_{prior}.png"
    faces = torch.cat(shown)[:MAX_SHOWN]
    return [figures.write_samples(faces, sheet, CAPTIONS[prior]), *files]


def measure_gain(
    trained: TrainedModel, split: str = "val", seed: int = 0, density: GaussianMixture | None = None
) -> tuple[SamplingGain | None, list[str]]:
    """Compare samples of the prior and of the fitted density with a split; notes say why None.

    The standard samples are those that `evaluate_model` measures.
    """
    images = trained.data.images
    sizes = trained.metrics_config.distance_images, len(images[split]), len(images["train"])
    count = min(sizes)
    features, notes = pick_features(trained, count)
    if features is None:
        return None, notes
    kinds = {
        prior: distances.sample_source(trained.model, latent_sampler(trained, prior, seed, density))
        for prior in PRIORS
    }
    found = measure_distances(trained, split, count, seed, features, kinds)
    frechet = {kind: distance.frechet for kind, distance in found.items()}
    return SamplingGain(features.name, count, **frechet), notes
