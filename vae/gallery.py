"""What a model makes of faces, as figures: the step between models and pictures."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from vae import figures
from vae.metrics import Evaluation
from vae.models.vae import VAE

COLUMNS = 8  # faces a row, and steps of a strip
SAMPLE_SEED = 0  # the same latents in every run and at every step


@torch.inference_mode()
def draw_figures(
    model: VAE, faces: Tensor, evaluation: Evaluation, folder: Path
) -> dict[str, Path]:
    """Write the four standard figures, in the model's evaluation mode.

    Args:
        faces: (count >= 1, 3, size, size) in [0, 1], from the validation split.
        evaluation: of the same model, for the latents' ranges and order.
        folder: where the PNGs go, under names that stay the same.

    Returns:
        The files by W&B key: figures/reconstructions, samples, interpolation, traversal.
    """
    was_training = model.training
    model.eval()
    paths = {
        name: folder / f"{name}.png"
        for name in ("reconstructions", "samples", "interpolation", "traversal")
    }
    means = model.encode(faces).mode
    figures.reconstructions(faces, model.decode(means), paths["reconstructions"], COLUMNS)
    figures.samples(model.decode(prior_latents(32, means)), paths["samples"], COLUMNS)

    ends = means.repeat(2, 1)[: 2 * max(1, min(4, len(means) // 2))]  # a lone face: to itself
    strips = torch.stack([interpolate(*pair) for pair in ends.view(-1, 2, ends.shape[1])])
    figures.interpolation(decode_strips(model, strips), paths["interpolation"])

    latents = evaluation.kl_per_latent.argsort(descending=True)[:8].tolist()
    strips = torch.stack([traverse(means[0], latent, evaluation) for latent in latents])
    labels = [f"z{latent}: {evaluation.kl_per_latent[latent]:.1f} nats" for latent in latents]
    figures.traversal(decode_strips(model, strips), labels, paths["traversal"])
    model.train(was_training)
    return {f"figures/{name}": path for name, path in paths.items()}


def prior_latents(count: int, like: Tensor) -> Tensor:
    """Latents from N(0, I), (count, latent_dim), the same for every call."""
    generator = torch.Generator().manual_seed(SAMPLE_SEED)
    return torch.randn(count, like.shape[1], generator=generator).to(like.device)


def interpolate(start: Tensor, end: Tensor, steps: int = COLUMNS) -> Tensor:
    """The straight line between two latents (latent_dim,): (steps, latent_dim), both ends in."""
    return torch.lerp(start, end, torch.linspace(0, 1, steps, device=start.device)[:, None])


def slerp(start: Tensor, end: Tensor, steps: int = COLUMNS) -> Tensor:
    """The arc between two latents (latent_dim,): (steps, latent_dim), both ends in.

    The direction turns evenly from one to the other (Shoemake 1985) and the length goes
    evenly from one to the other. Latents of many dimensions lie near a sphere, which a
    straight line leaves (White 2016). Where no arc is defined (a latent of length 0, or two
    in the same or in opposite directions) it is the straight line.
    """
    lengths = torch.stack([start.norm(), end.norm()])
    if lengths.min() < 1e-6:
        return interpolate(start, end, steps)
    here, there = start / lengths[0], end / lengths[1]
    # The arc cosine has half its digits left where the latents are nearly (anti)parallel.
    angle = 2 * torch.atan2((here - there).norm(), (here + there).norm())
    if torch.sin(angle) < 1e-4:
        return interpolate(start, end, steps)
    place = torch.linspace(0, 1, steps, device=start.device)[:, None]
    turned = torch.sin((1 - place) * angle) * here + torch.sin(place * angle) * there
    return turned / torch.sin(angle) * torch.lerp(lengths[0], lengths[1], place)


def traverse(latents: Tensor, latent: int, evaluation: Evaluation, steps: int = COLUMNS) -> Tensor:
    """`latents` (latent_dim,) with one of them moved: (steps, latent_dim).

    It runs over three standard deviations of its posterior means either side of their
    average: the range in which the decoder has seen it.
    """
    centre, spread = evaluation.mean_of_means[latent], evaluation.std_of_means[latent]
    strip = latents.repeat(steps, 1)
    strip[:, latent] = (centre + spread * torch.linspace(-3, 3, steps)).to(strip)
    return strip


def decode_strips(model: VAE, strips: Tensor) -> Tensor:
    """(rows, steps, latent_dim) -> images (rows, steps, 3, size, size) in [0, 1]."""
    images = model.decode(strips.flatten(0, 1))
    return images.view(*strips.shape[:2], *images.shape[1:])
