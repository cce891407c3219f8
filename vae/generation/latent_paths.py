"""Places on paths through the latents: lines, arcs, and one latent moved over its range."""

from __future__ import annotations

import torch
from torch import Tensor

COLUMNS = 8  # faces a row of a figure, and steps of a strip
TRAVERSAL_RANGE = 3.0  # standard deviations that a latent is moved, either side of its mean


def lerp(start: Tensor, end: Tensor, places: int | Tensor = COLUMNS) -> Tensor:
    """Interpolate linearly between latents (latent_dim,): (places, latent_dim).

    Args:
        places: (places,) from 0, the start, to 1; or the number of even ones, ends included.
    """
    return torch.lerp(start, end, _column(places, start))


def slerp(start: Tensor, end: Tensor, places: int | Tensor = COLUMNS) -> Tensor:
    """Interpolate spherically between latents (latent_dim,): (places, latent_dim).

    The direction turns evenly from one to the other (Shoemake 1985) and the length goes
    evenly from one to the other. Latents of many dimensions lie near a sphere, which a
    straight line leaves (White 2016). Where no arc is defined (a latent of length 0, or two
    in the same or in opposite directions) it is the straight line. `places` as of `lerp`.
    """
    lengths = torch.stack([start.norm(), end.norm()])
    if lengths.min() < 1e-6:
        return lerp(start, end, places)
    here, there = start / lengths[0], end / lengths[1]
    # The arc cosine has half its digits left where the latents are nearly (anti)parallel.
    angle = 2 * torch.atan2((here - there).norm(), (here + there).norm())
    if torch.sin(angle) < 1e-4:
        return lerp(start, end, places)
    place = _column(places, start)
    turned = torch.sin((1 - place) * angle) * here + torch.sin(place * angle) * there
    return turned / torch.sin(angle) * torch.lerp(lengths[0], lengths[1], place)


def _column(places: int | Tensor, like: Tensor) -> Tensor:
    if isinstance(places, int):
        places = torch.linspace(0, 1, places, device=like.device)
    return places.to(like.device)[:, None]


def traversal_columns(steps: int = COLUMNS) -> list[str]:
    """Label the places of `move_latent` in standard deviations; the font has no Greek letters."""
    places = torch.linspace(-TRAVERSAL_RANGE, TRAVERSAL_RANGE, steps).tolist()
    return [f"{place:+.2g}sd" if place else "mean" for place in places]


def move_latent(
    latents: Tensor, latent: int, mean: Tensor, std: Tensor, steps: int = COLUMNS
) -> Tensor:
    """Move one of `latents` (latent_dim,) over mean ± TRAVERSAL_RANGE · std.

    Returns:
        (steps, latent_dim), equal to `latents` in every other column.
    """
    strip = latents.repeat(steps, 1)
    places = torch.linspace(-TRAVERSAL_RANGE, TRAVERSAL_RANGE, steps)
    strip[:, latent] = (mean + std * places).to(strip)
    return strip
