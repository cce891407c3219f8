"""The directions of a run: found on its training faces, tested on held-out ones, and kept."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vae.data.source import Labels
from vae.editing.directions import Directions, balanced_accuracy, find_directions
from vae.editing.statistics import LatentStatistics
from vae.errors import UserError
from vae.evaluation.codes import posteriors
from vae.files import write_atomically
from vae.saved import SavedRun

FORMAT = 1  # of the file: one of another format is made again
ARRAYS = ("means", "normal", "weights", "biases")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Learned:
    """Directions, and how well their classifiers tell faces that they have not seen."""

    directions: Directions
    accuracy: dict[str, float]  # attribute -> balanced accuracy on the validation split


def learn_directions(run: SavedRun) -> Learned:
    """The directions of a run's checkpoint, out of its folder or made now and put there.

    One pass over the training split and one over the validation split, by the posterior's
    means, in memory that does not grow with them.

    Raises:
        UserError: nothing is known of the attributes of the run's images, or the images
            are no longer where they were.
    """
    file = run.folder / "directions" / f"{run.checkpoint}.npz"
    checkpoint = _digest(run.folder / "checkpoints" / f"{run.checkpoint}.pt")
    learned = _read(file, checkpoint)
    if learned is None:
        learned = _learn(run)
        _write(file, learned, checkpoint)
        log.info("directions: %s", file)
    return learned


def _learn(run: SavedRun) -> Learned:
    data = run.data
    labels = {split: data.attributes(split) for split in ("train", "val")}
    train, held_out = labels["train"], labels["val"]
    if train is None or held_out is None:
        raise UserError(
            f"{run.folder}: nothing is known of the attributes of its images (data="
            f"{run.config.data.name}), so there are no directions to edit along. data=synthetic "
            "has attributes, and so has data=celeba with its list_attr_celeba."
        )
    statistics = LatentStatistics(run.model.latent_dim, len(train.names))
    for posterior in posteriors(run.model, data.images["train"], "encoding train"):
        start = statistics.all.count
        rows = train.values[start : start + len(posterior.mode)]
        statistics.update(posterior.mode.cpu(), torch.from_numpy(np.array(rows)))
    directions = find_directions(statistics, train.names)

    encoded = posteriors(run.model, data.images["val"], "encoding val")
    scores = [directions.scores(posterior.mode.cpu()) for posterior in encoded]
    told = balanced_accuracy(torch.cat(scores), _columns(held_out, directions.names))
    return Learned(directions, dict(zip(directions.names, told.tolist(), strict=True)))


def _columns(labels: Labels, names: tuple[str, ...]) -> Tensor:
    """The attributes of these names, (n, names)."""
    columns = [labels.names.index(name) for name in names]
    return torch.from_numpy(np.array(labels.values[:, columns]))


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _write(file: Path, learned: Learned, checkpoint: str) -> None:
    directions = learned.directions
    about = {
        "format": FORMAT,
        "checkpoint": checkpoint,
        "names": directions.names,
        "accuracy": learned.accuracy,
    }
    arrays = {name: getattr(directions, name).numpy() for name in ARRAYS}

    def save(temporary: Path) -> None:
        with temporary.open("wb") as opened:
            np.savez(opened, about=np.array(json.dumps(about)), **arrays)

    write_atomically(file, save)


def _read(file: Path, checkpoint: str) -> Learned | None:
    """What `_write` wrote for this very checkpoint; None if it did not, or it is damaged."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            if (about["format"], about["checkpoint"]) != (FORMAT, checkpoint):
                return None
            arrays = {name: torch.from_numpy(stored[name]) for name in ARRAYS}
        return Learned(Directions(tuple(about["names"]), **arrays), about["accuracy"])
    except FileNotFoundError:
        return None
    except Exception as error:  # zipfile and NumPy raise nearly anything on damaged bytes
        log.warning("%s is damaged (%s); making it again", file, error)
        return None
