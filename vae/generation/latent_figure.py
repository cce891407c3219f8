"""The aggregate posterior of training images, and the figure of its latents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vae.data.loader import to_float
from vae.evaluation.latents import AggregatePosterior, evenly_spaced_batches
from vae.evaluation.priors import MAX_DIMENSIONS
from vae.models.base import VAE
from vae.training.metrics import ACTIVE_VARIANCE, Evaluation
from vae.utils.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A Gaussian of 1,280 images of the default model is as good as one of all 9,600.
IMAGES = 1_280  # training images to encode, or more:
IMAGES_PER_LATENT = 10  # a covariance needs more images than latents
MAX_IMAGES = 10_000  # bounds the time per epoch
NOISE_SEED = 0  # the same noise at every step

SHOWN = 4  # latents in a row of histograms
NAMED = 16  # as many latents have their names below the KL
BINS = 40
RANGE = 4.0  # a histogram reaches at least to this, either side: all of the prior
DOTS_PER_INCH = 100
ACTIVE, INACTIVE, INK = "#3b75af", "#b9bec4", "#282828"


@torch.inference_mode()
def encode_evenly(
    model: VAE, images: np.ndarray, latents: Sequence[int] = ()
) -> tuple[AggregatePosterior | None, np.ndarray]:
    """Encode a limited number of images, spread evenly over the split: equal in every call.

    Args:
        model: in evaluation mode; its device is where they are encoded.
        images: packed, (count >= 1, size, size, 3) uint8.
        latents: numbers of the latents to sample.

    Returns:
        The moments of the aggregate posterior, None if the model has more latents than
        MAX_DIMENSIONS; and a sample of each image's posterior, (n, len(latents)) float32.
    """
    device, latent_dim = next(model.parameters()).device, model.latent_dim
    aggregate = AggregatePosterior(latent_dim) if latent_dim <= MAX_DIMENSIONS else None
    most = min(MAX_IMAGES, max(IMAGES, IMAGES_PER_LATENT * latent_dim))
    generator = torch.Generator().manual_seed(NOISE_SEED)
    samples = []
    for batch in evenly_spaced_batches(images, most):
        posterior = model.encode(to_float(batch, device))
        noise = torch.randn(posterior.mean.shape, generator=generator)
        samples.append(posterior.rsample(noise.to(device)).cpu()[:, list(latents)])
        if aggregate is not None:
            aggregate.update(posterior)
    return aggregate, torch.cat(samples).numpy()


def choose_latents(kl: Tensor) -> list[int]:
    """Return the numbers of the SHOWN latents of most KL and the SHOWN of least, most first."""
    order = kl.argsort(descending=True).tolist()
    return [*order[:SHOWN], *order[SHOWN:][-SHOWN:]]


def histogram(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the density of finite samples (n,) per bin, and the edges of the bins."""
    finite = samples[np.isfinite(samples)].astype(float)
    limits = finite.min(initial=-RANGE), finite.max(initial=RANGE)
    counts, edges = np.histogram(finite, BINS, limits)
    return counts / (len(samples) * np.diff(edges)), edges


def write_latents(samples: np.ndarray, evaluation: Evaluation, path: Path) -> Path:
    """Write histograms of the most and the least active latents, and the KL of each latent.

    Args:
        samples: (images, shown) of the latents of `choose_latents`.
        evaluation: of the same model.
        path: the PNG to write.
    """
    from matplotlib.figure import Figure

    kl = evaluation.kl_per_latent
    active = evaluation.std_of_means.square() > ACTIVE_VARIANCE
    shown = choose_latents(kl)
    lines = -(-len(shown) // SHOWN)
    figure = Figure(figsize=(10, 2.9 + 2.1 * lines), dpi=DOTS_PER_INCH)
    inch = 1 / figure.get_figheight()
    figure.subplots_adjust(0.06, 0.5 * inch, 0.985, 1 - 0.62 * inch, wspace=0.12, hspace=0.5)
    cells = figure.add_gridspec(lines + 1, SHOWN, height_ratios=[*[1] * lines, 1.25])
    for place, latent in enumerate(shown):
        axes = figure.add_subplot(cells[divmod(place, SHOWN)])
        _draw_histogram(axes, samples[:, place], bool(active[latent]))
        axes.set_title(f"z{latent}: {kl[latent]:.1f} nats", fontsize=10)
        if place % SHOWN == 0:
            axes.set_ylabel("least active" if place else "most active")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.suptitle(f"Latents of {len(samples):,} training images", x=0.06, ha="left", fontsize=12)
    figure.legend(handles, labels, loc="upper right", ncols=2, frameon=False, fontsize=10)
    _draw_kl(figure.add_subplot(cells[lines, :]), kl.numpy(), active.numpy())
    write_atomically(path, lambda file: figure.savefig(file, format="png"))
    return path


def _draw_histogram(axes: Axes, samples: np.ndarray, active: bool) -> None:
    """Draw the density of a latent's samples, and that of the prior."""
    density, edges = histogram(samples)
    colour = ACTIVE if active else INACTIVE
    axes.stairs(density, edges, fill=True, color=colour, label="aggregate posterior")
    places = np.linspace(-RANGE, RANGE, 101)
    normal = np.exp(-0.5 * places**2) / np.sqrt(2 * np.pi)
    axes.plot(places, normal, color=INK, linewidth=1.2, linestyle="--", label="prior N(0, 1)")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_yticks([])
    axes.locator_params(axis="x", nbins=6, integer=True)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _draw_kl(axes: Axes, kl: np.ndarray, active: np.ndarray) -> None:
    """Draw the KL of each latent, sorted, the active latents in their colour."""
    order = np.argsort(-kl, kind="stable")
    edges = np.arange(len(kl) + 1) + 0.5
    names = {"active": active, f"not active: variance of the mean ≤ {ACTIVE_VARIANCE}": ~active}
    for (name, those), colour in zip(names.items(), (ACTIVE, INACTIVE), strict=True):
        if those.any():
            axes.stairs((kl * those)[order], edges, fill=True, color=colour, label=name)
    axes.set_xlim(0.5, max(len(kl), NAMED) + 0.5)
    axes.set_ylim(0, max(1.05 * kl.max(), 0.1))  # a collapsed posterior is seen as one
    if len(kl) <= NAMED:
        axes.set_xticks(edges[1:] - 0.5, [f"z{latent}" for latent in order])
    else:
        axes.locator_params(axis="x", integer=True)
    axes.tick_params(labelsize=8)
    axes.set_xlabel("latents, sorted by their mean KL over the evaluated split")
    axes.set_ylabel("KL, nats")
    title = f"{active.sum()} of {len(kl)} latents active, {kl.sum():.1f} nats in all"
    axes.set_title(title, fontsize=10, loc="left")
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
