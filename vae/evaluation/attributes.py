"""Attribute directions of a model: learned on training faces, tested on held-out faces, cached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vae.data.base import Labels
from vae.evaluation import TrainedModel
from vae.evaluation.cache import ArrayCache, require_array
from vae.evaluation.directions import (
    METHODS,
    MIN_FACES,
    Directions,
    LatentStatistics,
    balanced_accuracy,
    find_directions,
)
from vae.evaluation.latents import encode_batches
from vae.utils.errors import UserError
from vae.utils.text import printable

FORMAT = 4  # of the file: one of another format is made again
ARRAYS = ("means", "normal", "conditional", "weights", "middles", "places", "limits")
MAX_BYTES = 1 << 26  # of the file, and of its arrays; of 40 attributes and 128 latents 0.2 MB


@dataclass(frozen=True)
class LearnedDirections:
    """Directions and their balanced accuracy on held-out faces."""

    directions: Directions
    # by attribute and method, on the validation split; NaN unless it has faces of both classes
    accuracy: dict[str, dict[str, float]]


def learn_directions(trained: TrainedModel, cache: Path | None = None) -> LearnedDirections:
    """Return the directions in `cache` if they are of this model and its images, else learn them.

    One pass over the training split and one over the validation split, on posterior means.

    Args:
        trained: encodes on its device.
        cache: an .npz file, read and written; None: learn them and write nothing.

    Raises:
        UserError: the images have no attributes, too few have any, or the images are missing.
    """
    unpack = partial(_unpack, trained.model.latent_dim)
    kept = ArrayCache("directions", FORMAT, MAX_BYTES, _pack, unpack)
    return kept.get(cache, trained, lambda: _learn(trained))


def _learn(trained: TrainedModel) -> LearnedDirections:
    train, held_out = (trained.data.attributes(split) for split in ("train", "val"))
    if train is None or held_out is None:
        raise UserError(
            f"data={trained.data_config.name}: nothing is known of the attributes of these images, "
            "so there are no directions to edit along. data=synthetic has attributes, and so has "
            "data=celeba with its list_attr_celeba."
        )
    model, images = trained.model, trained.data.images
    statistics = LatentStatistics(model.latent_dim, len(train.names))
    for posterior in encode_batches(model, images["train"], "encoding train"):
        start = statistics.all.count
        has = np.array(train.values[start : start + len(posterior.mode)])
        statistics.update(posterior.mode.cpu(), torch.from_numpy(has))
    directions = find_directions(statistics, train.names)
    if not directions.names:
        raise UserError(
            f"data.num_images: no attribute is on at least {MIN_FACES} of the "
            f"{statistics.all.count} training images and missing on "
            f"{MIN_FACES} more, so no edit direction can be learned. Train on more images."
        )
    says: dict[str, list[Tensor]] = {method: [] for method in METHODS}
    for posterior in encode_batches(model, images["val"], "encoding val"):
        for method in METHODS:
            says[method].append(directions.scores(posterior.mode.cpu(), method) > 0)
    columns = columns_of(held_out, directions.names)
    known = torch.from_numpy(held_out.values[: len(images["val"]), columns].copy())
    told = [balanced_accuracy(torch.cat(says[method]), known).tolist() for method in METHODS]
    rows = [dict(zip(METHODS, row, strict=True)) for row in zip(*told, strict=True)]
    return LearnedDirections(directions, dict(zip(directions.names, rows, strict=True)))


def columns_of(attributes: Labels, names: Sequence[str]) -> list[int]:
    """Return the columns of attributes by their names.

    Raises:
        UserError: the images do not have one of them, though directions of it were cached.
    """
    if unknown := [name for name in names if name not in attributes.names]:
        raise UserError(
            f"directions: the images have no attribute {printable(unknown[0])!r}. Remove the "
            "folder directions/ of the run: it is made again."
        )
    return [attributes.names.index(name) for name in names]


def _pack(learned: LearnedDirections) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    directions = learned.directions
    arrays = {name: getattr(directions, name).numpy() for name in ARRAYS}
    return {"names": directions.names, "accuracy": learned.accuracy}, arrays


def _unpack(
    latent_dim: int, about: dict[str, Any], arrays: dict[str, np.ndarray]
) -> LearnedDirections:
    """Return what `_pack` packed; raise an error unless it has that form."""
    names = about["names"]
    accuracy = {
        name: {method: float(row[method]) for method in METHODS}
        for name, row in about["accuracy"].items()
    }
    if not names or sorted(names) != sorted(accuracy):
        raise ValueError("its names are not those of its accuracies")
    numbers = np.array([list(row.values()) for row in accuracy.values()])
    if ((numbers < 0) | (numbers > 1)).any():  # NaN is neither
        raise ValueError("its accuracies are not between 0 and 1")
    both = (len(METHODS), len(names))
    shapes = {"places": (*both, latent_dim), "limits": (*both, 2)}
    for name in ARRAYS:
        require_array(name, arrays[name], shapes.get(name, (len(names), latent_dim)))
    if (arrays["limits"][..., 0] > arrays["limits"][..., 1]).any():
        raise ValueError("its limits are not in order")
    tensors = {name: torch.from_numpy(arrays[name]) for name in ARRAYS}
    return LearnedDirections(Directions(tuple(names), **tensors), accuracy)
