"""Validation metrics that are comparable between all runs.

The trained loss contains beta, so it cannot choose beta. These figures do not: they
come from the same noise in every run, and where a likelihood is needed it is one fixed
family (a Gaussian whose variance is optimal on the split) whatever the run was trained
with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vae.data.loader import evaluation_batches
from vae.losses import LossConfig, loss_terms
from vae.losses.likelihoods import LEAST_VARIANCE
from vae.losses.ssim import luminance, ssim_maps
from vae.models.base import VAE
from vae.training.base import REMEDY, NotFiniteError
from vae.utils.distributed import all_sum, copy_buffers, rank, world_size
from vae.utils.registry import Metric, image_metric, register_metric, run_metrics
from vae.utils.signals import Interrupts, stop_if_interrupted

if TYPE_CHECKING:
    from vae.training.trainer import Trainer

EVALUATION_BATCH = 128  # one size for all runs, as the noise is drawn batch by batch
NOISE_SEED = 0  # one for all runs: differences are the models', not the noise's
ACTIVE_VARIANCE = 0.01  # variance of the mean above which a latent is active


# In the order of the columns of `comparison.csv`; those of each image are registered below.
register_metric(Metric("bpd", "bits per dimension", digits=3))
register_metric(Metric("rate", "rate, nats per image", digits=1, best_on_wandb=False))
register_metric(Metric("distortion", "Gaussian distortion, nats per image", digits=1))
register_metric(Metric("mse", "mean squared error", digits=5))


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a split, and statistics of each latent for the figures."""

    metrics: dict[str, float]  # by name, without a split's prefix
    kl_per_latent: Tensor  # (latent_dim,) float64, mean KL in nats
    mean_of_means: Tensor  # (latent_dim,) float64, of the posterior means over the images
    std_of_means: Tensor  # (latent_dim,) float64


def gaussian_distortion(mse: float, values: int) -> float:
    """Return -log likelihood in nats per image under N(x̂, σ²) at the optimal σ².

    The optimum is σ² = mse (Rybkin et al. 2021, eq. 8), which leaves
    values/2 · (log(2π·mse) + 1). As in `loss=gaussian`, σ² is at least LEAST_VARIANCE, the
    variance of rounding to k/255: then `bits_per_dim` is never negative.
    """
    return 0.5 * values * (math.log(2 * math.pi * max(mse, LEAST_VARIANCE)) + 1)


def bits_per_dim(distortion: float, rate: float, values: int) -> float:
    """Return (distortion + rate) in bits per pixel value; pixels are multiples of 1/255.

    A density over [0, 1] turns into a probability of a level by the level's width,
    1/255: hence log2(255). This is the negative ELBO at beta = 1.
    """
    return (distortion + rate) / (values * math.log(2)) + math.log2(255)


@image_metric("PSNR, dB", digits=2, higher_is_better=True)
def psnr(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB of each image, (batch,); the peak is 1."""
    mse = (images - reconstructions).square().flatten(1).mean(1)
    return -10 * torch.log10(mse.clamp(min=1e-12))


@image_metric("SSIM", digits=3, higher_is_better=True)
def ssim(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Return the structural similarity of each image, (batch,), at most 1 (Wang et al. 2004).

    A Gaussian window of σ = 1.5, 11 pixels wide (less on images smaller than that),
    over each channel, without padding; K1 = 0.01, K2 = 0.03, range 1.
    """
    brightness, contrast = ssim_maps(images, reconstructions)
    return (brightness * contrast).flatten(1).mean(1)


@image_metric("gradient similarity", digits=3, higher_is_better=True)
def gradient_similarity(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Return the mean gradient magnitude similarity of each image, (batch,), at most 1.

    The mean over the pixels of (2 a b + c) / (a² + b² + c), with a and b the magnitudes of the
    gradient of both luminances by Prewitt's filter, and c = 170 / 255² (Xue et al. 2014, whose
    index is the standard deviation over the pixels). At full size, without the paper's halving,
    since faces are small. No loss here contains it.
    """
    a, b = gradient_magnitude(images), gradient_magnitude(reconstructions)
    constant = 170 / 255**2
    similarity = (2 * a * b + constant) / (a.square() + b.square() + constant)
    return similarity.flatten(1).mean(1)


@image_metric("sharpness, 1 = the originals'", digits=3, higher_is_better=True)
def sharpness(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Return the root mean square gradient over that of the original, (batch,), >= 0.

    The mean square is Tenenbaum's measure of focus (1970), here with Prewitt's filter. Below 1, a
    reconstruction is softer than the original. Noise raises it, so that it does not tell whether
    edges are where they belong: `gradient_similarity` does. A gradient of one level, 1/255, is
    added to both, so that images without any edge have a sharpness of about 1.
    """
    level = 1 / 255
    ours, original = (
        gradient_magnitude(x).square().flatten(1).mean(1) + level**2
        for x in (reconstructions, images)
    )
    return (ours / original).sqrt()


def gradient_magnitude(images: Tensor) -> Tensor:
    """Return |∇ luminance| by Prewitt's filter, without padding.

    Args:
        images: RGB (batch, 3, height, width) in [0, 1].

    Returns:
        (batch, height - 2, width - 2); an edge between black and white has 1.
    """
    grey = luminance(images)[:, 0]
    rows = grey[:, :-2] + grey[:, 1:-1] + grey[:, 2:]
    columns = grey[:, :, :-2] + grey[:, :, 1:-1] + grey[:, :, 2:]
    across = (rows[:, :, 2:] - rows[:, :, :-2]) / 3
    down = (columns[:, 2:] - columns[:, :-2]) / 3
    return (across.square() + down.square()).sqrt()


register_metric(Metric("active_units", "active latents", 0, True, best_on_wandb=False))
register_metric(Metric("loss", "trained loss", digits=4))


def validate(
    trainer: Trainer, images: np.ndarray, interrupts: Interrupts
) -> tuple[dict[str, float], Evaluation]:
    """Return the validation metrics by key, `val/bpd`, and the evaluation behind them.

    Those of the average of the weights, where there is one, are `ema/bpd` and so on.

    Args:
        trainer: its model, as it is now.
        images: the validation split, (count, size, size, 3) uint8.
        interrupts: looked at before, after each batch of this rank, and at the end.

    Raises:
        NotFiniteError: a metric is infinite or NaN.
        InterruptedRun: a signal came to a process.
    """

    def batches() -> Iterator[Tensor]:
        found = evaluation_batches(images, EVALUATION_BATCH, trainer.batches.device)
        for count, batch in enumerate(found):
            if count % world_size() == 0:  # each rank has measured one
                stop_if_interrupted(interrupts)
            yield batch
        stop_if_interrupted(interrupts)

    loss, count = trainer.loss_config, len(trainer.batches.images)
    models = {"val": trainer.model} | ({"ema": trainer.ema.module} if trainer.ema else {})
    found = {
        name: evaluate_split(model, batches(), loss, trainer.autocast, count)
        for name, model in models.items()
    }
    metrics = {f"{n}/{key}": value for n in found for key, value in found[n].metrics.items()}
    if not all(map(math.isfinite, metrics.values())):  # keep the checkpoint before it
        raise NotFiniteError(
            f"validation at step {trainer.step} is not finite: {metrics}. {REMEDY}"
        )
    return metrics, found["val"]


@torch.inference_mode()
def evaluate_split(
    model: VAE,
    batches: Iterable[Tensor],
    loss: LossConfig,
    autocast: torch.autocast | None = None,
    training_images: int = 0,
    seed: int = NOISE_SEED,
) -> Evaluation:
    """Measure a model on all images of a split.

    Under torchrun, all ranks call this with the same batches; each measures every n-th one and
    returns the metrics of all of them.

    Args:
        model: put into evaluation mode for the time, and back as it was.
        batches: (batch, 3, size, size) in [0, 1], each image once.
        loss: the trained objective, at the beta that it ends with.
        autocast: the precision that the model runs in; float32 if None.
        training_images: how many the model is trained on, where the loss asks; 0 if unknown.
        seed: of the noise; the same wherever runs are compared.

    Returns:
        mse, and each image metric (psnr, ssim) as a mean over images, of reconstructions from
        the posterior's mean; rate; distortion and bpd from one sample of z an image;
        loss; active_units (Burda et al. 2016). Sums are kept in float64.
    """
    copy_buffers(model)
    was_training = model.training
    model.eval()
    context = autocast or torch.autocast("cpu", enabled=False)
    count = values = 0
    image_metrics = {m.name: m.function for m in run_metrics().values() if m.function}
    names = ("loss", "mse", "sampled_mse", *image_metrics)
    sums = torch.zeros(len(names), dtype=torch.float64)
    sums_per_latent = torch.zeros(3, model.latent_dim, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    for index, images in enumerate(batches):
        noise = torch.randn(len(images), model.latent_dim, generator=generator)
        values = images[0].numel()
        if index % world_size() != rank():
            continue
        with context:
            posterior = model.encode(images)
            latents = posterior.rsample(noise.to(images.device))
            logits = model.decode_logits(latents)
            reconstructions = model.decode(posterior.mode)
        terms = loss_terms(
            *(loss, logits, images, posterior, latents),
            training_images=training_images,
            autocast=autocast,
        )
        totals = [
            terms.loss * len(images),
            F.mse_loss(reconstructions, images) * len(images),
            F.mse_loss(logits.sigmoid(), images) * len(images),
            *(function(images, reconstructions).sum() for function in image_metrics.values()),
        ]
        sums += torch.stack(totals).cpu().double()
        kl, mean = posterior.kl().cpu().double(), posterior.mean.cpu().double()
        sums_per_latent += torch.stack([kl.sum(0), mean.sum(0), mean.square().sum(0)])
        count += len(images)
    model.train(was_training)

    count = int(all_sum(torch.tensor(count)))
    averages = dict(zip(names, (all_sum(sums) / count).tolist(), strict=True))
    kl, means, squares = all_sum(sums_per_latent) / count
    rate = kl.sum().item()
    distortion = gaussian_distortion(averages.pop("sampled_mse"), values)
    variance = (squares - means.square()).clamp(min=0)
    metrics = {
        **averages,
        "rate": rate,
        "distortion": distortion,
        "bpd": bits_per_dim(distortion, rate, values),
        "active_units": float((variance > ACTIVE_VARIANCE).sum()),
    }
    return Evaluation(metrics, kl, means, variance.sqrt())
