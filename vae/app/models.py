"""The runs behind the page: models with their edit directions, and faces as they encode them."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from vae.data.loader import to_float
from vae.evaluation.attributes import LearnedDirections, learn_directions
from vae.evaluation.counterfactual import Change
from vae.evaluation.directions import METHODS
from vae.evaluation.latents import AggregatePosterior
from vae.evaluation.priors import Prior, StandardPrior, fit_prior
from vae.evaluation.refine import refine_posterior
from vae.generation.decode import rank_latents
from vae.generation.framing import Eyes, wanted_eyes
from vae.runs.artifact_download import download_run, is_address
from vae.runs.load import SavedRun, load_run, read_edit_scores
from vae.sweeps.comparison import Comparison, read_sweep
from vae.sweeps.face_sheets import choose_runs, load_models
from vae.utils.errors import UserError
from vae.utils.text import printable

log = logging.getLogger(__name__)

NO_IMAGES = (
    "The images of this run are missing. Start `vae app` on this run with data.path=FOLDER, where "
    "FOLDER has the images."
)
REFINE_STEPS = 500  # of Adam, as docs/evaluation.md advises
ROUNDING = 1e-4  # of latents, whose prior has the standard deviation 1
MAX_PRIORS = 8  # of a model that are kept: of 2,048 latents each is about 40 MB


@dataclass(frozen=True, eq=False)  # Gradio compares states by their hash
class Face:
    """A face that a visitor works on."""

    picture: Tensor  # (3, size, size) float32 in [0, 1] on the CPU: a framed photograph, or decoded
    latents: Tensor  # (latent_dim,) on the model's device
    model: int  # the number of the model whose latents they are
    name: str  # "your photograph", "face 3 of the validation split"
    encodings: dict[int, Face] = field(default_factory=dict)  # of the same picture, by model


@dataclass(frozen=True)
class AppModel:
    """The model of one run, as the page uses it. Its methods may run in several threads."""

    number: int  # its place in the sweep, from 0
    label: str  # "β 1e-04, z 128", or the folder's name
    run: SavedRun
    learned: LearnedDirections | None  # None: nothing is known of attributes of its images
    no_directions: str = ""  # why there are none; may name folders of this machine
    _fitting: Lock = field(default_factory=Lock)
    _priors: dict[tuple[str, int], Prior] = field(default_factory=dict)

    @cached_property
    def faces(self) -> np.ndarray | None:
        """The validation images, (n, size, size, 3) uint8; None if they are missing."""
        try:
            return self.run.data.images["val"]
        except UserError:
            return None

    @cached_property
    def edits(self) -> dict[str, Change]:
        """Effect and leakage by attribute, from `vae evaluate`; empty before it."""
        return read_edit_scores(self.run, METHODS[0])

    @cached_property
    def ranking(self) -> tuple[Tensor, AggregatePosterior]:
        """The KL of each latent (latent_dim,) in nats and the aggregate posterior, of validation.

        Raises:
            UserError: the images are missing.
        """
        return rank_latents(self.run, "val")

    @torch.inference_mode()
    def encode(self, picture: Tensor, name: str) -> Face:
        """Return a face of a picture (3, size, size) in [0, 1], with its posterior's mean."""
        latents = self.run.model.encode(picture[None].to(self.run.device)).mode[0]
        return Face(picture, latents, self.number, name)

    def encoded(self, face: Face) -> Face:
        """Return a face with the latents of this model: its own, or the encoder's."""
        return face if face.model == self.number else self.reencoded(face)

    def reencoded(self, face: Face) -> Face:
        """Return a face as the encoder sees its picture; the face keeps it for the next time."""
        if self.number not in face.encodings:
            face.encodings[self.number] = self.encode(face.picture, face.name)
        return face.encodings[self.number]

    @torch.inference_mode()
    def encoded_together(self, *faces: Face) -> Tensor:
        """Return the latents (faces, latent_dim) of faces, equal to those of one batch.

        A batch has other rounding errors than its faces one by one. Latents that are no
        encodings of the pictures (samples, refined ones) stay as they are.
        """
        latents = torch.stack([self.encoded(face).latents for face in faces])
        pictures = torch.stack([face.picture for face in faces]).to(self.run.device)
        batch = self.run.model.encode(pictures).mode
        return batch if torch.allclose(batch, latents, atol=ROUNDING) else latents

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Return images (n, 3, size, size) in [0, 1] of latents (n, latent_dim), on the CPU."""
        return self.run.model.decode(latents.to(self.run.device)).cpu()

    def decoded(self, latents: Tensor, name: str) -> Face:
        """Return the face that latents (latent_dim,) decode to."""
        return Face(self.decode(latents[None])[0], latents, self.number, name)

    def validation_face(self, number: int) -> Face:
        """Return a face of the validation split.

        Raises:
            UserError: there is no such face.
        """
        if self.faces is None:
            raise UserError("The images of this run are missing. Take a photograph.")
        if not 0 <= number < len(self.faces):
            raise UserError(f"There are faces 0 to {len(self.faces) - 1} in the validation split.")
        picture = to_float(np.array(self.faces[number])[None], torch.device("cpu"))[0]
        return self.encode(picture, f"face {number} of the validation split")

    @torch.inference_mode()
    def edit(
        self, face: Face, strengths: Mapping[str, float], keep_detail: bool, unbounded: bool
    ) -> tuple[Tensor, dict[str, float]]:
        """Return a face (3, size, size) with its attributes changed, and the strengths applied.

        Each strength is limited from where the face is, as `vae edit` limits it, and the steps
        are added.

        Args:
            face: with latents of this model.
            strengths: by attribute; 0 leaves it.
            keep_detail, unbounded: as `vae.generation.edit.edit`.
        """
        latents, applied = face.latents[None], dict[str, float]()
        moved = latents
        for attribute, strength in strengths.items():
            if strength and self.learned:
                directions = self.learned.directions
                step, sizes = directions.step(latents, attribute, strength, METHODS[0], unbounded)
                moved, applied[attribute] = moved + step, sizes.item()
        if not keep_detail:
            return self.decode(moved)[0], applied
        plain, changed = self.decode(torch.cat([latents, moved]))
        return (changed + (face.picture - plain)).clamp(0, 1), applied

    def refine(self, face: Face) -> Face:
        """Return a face with latents that are optimised for its picture (`refine_posterior`)."""
        noise = torch.Generator().manual_seed(0)
        found = refine_posterior(self.run.model, face.picture[None], REFINE_STEPS, generator=noise)
        return Face(face.picture, found.mode[0], self.number, face.name)

    def fitted_prior(self, name: str, seed: int = 0) -> Prior | None:
        """Return a prior that needs no fit: N(0, I), or one that `prior` has fitted and kept."""
        if name == "standard":
            return StandardPrior(self.run.model.latent_dim)
        return self._priors.get(_fit_of(name, seed))

    def prior(self, name: str, seed: int = 0) -> Prior:
        """Return a prior, fitted as `vae sample --seed` fits it. The last MAX_PRIORS are kept.

        Raises:
            UserError: the images are missing, or the model has too many latents.
        """
        with self._fitting:
            fitted = self.fitted_prior(name, seed)
            if fitted is None:
                try:
                    fitted = fit_prior(self.run, name, seed, flow_file=self.run.flow_file)
                except UserError as error:
                    if self.faces is not None:
                        raise
                    raise UserError(
                        f"The prior {name} is fitted to the training images, which are not here. "
                        "Take the prior standard."
                    ) from error
                self._priors[_fit_of(name, seed)] = fitted
                while len(self._priors) > MAX_PRIORS:
                    del self._priors[next(iter(self._priors))]
            return fitted


def _fit_of(name: str, seed: int) -> tuple[str, int]:
    """Identify a fit of a prior: only that of the mixture depends on the seed."""
    return name, seed if name == "mixture" else 0


@dataclass(frozen=True)
class AppModels:
    """One run, or the runs of a sweep."""

    models: list[AppModel]
    title: str
    eyes: Eyes | None  # where the eyes are in the training images
    comparison: Comparison | None  # of a sweep
    notes: list[str]  # on runs that are left out

    def __getitem__(self, number: int) -> AppModel:
        return self.models[number]

    @property
    def attributes(self) -> dict[str, float]:
        """The attributes of all models and their mean accuracy on held-out faces, best first.

        NaN, where it is unknown, comes last.
        """
        learned = [model.learned for model in self.models if model.learned]
        if len(learned) < len(self.models):
            return {}
        names = set.intersection(*(set(each.directions.names) for each in learned))
        means = {
            name: sum(each.accuracy[name][METHODS[0]] for each in learned) / len(learned)
            for name in sorted(names)
        }
        return dict(sorted(means.items(), key=lambda pair: (math.isnan(pair[1]), -pair[1])))


def open_models(
    folder: Path | str, checkpoint: str, overrides: list[str], device: torch.device
) -> AppModels:
    """Load a run, or the finished runs of a sweep by β and latent size, and their directions.

    Directions that are not kept in a run's folder are learned now.

    Args:
        folder: `outputs/DATE/TIME`, `wandb:ENTITY/PROJECT/NAME:ALIAS`, or `multirun/SWEEP`.
        checkpoint, overrides: as `load_run`; a sweep takes none but `last` and none.
        device: that the models compute on.

    Raises:
        UserError: there is no such run or sweep, or none of its runs has a model.
    """
    folder = download_run(str(folder)) if is_address(folder) else Path(folder)
    notes = list[str]()
    comparison = None
    if (folder / ".hydra").is_dir() or not folder.is_dir():
        runs = [(folder.resolve().name, load_run(folder, checkpoint, overrides))]
    else:
        comparison = read_sweep(folder)
        if overrides or checkpoint != "last":
            raise UserError(
                f"{folder}: is a sweep. --checkpoint and KEY=VALUE are for one run: "
                f"{comparison.runs[0].folder}."
            )
        chosen, notes = choose_runs(comparison)
        reasons = list[str]()  # they may name folders of this machine: not for visitors
        loaded = load_models(chosen, reasons)
        for reason in reasons:
            log.warning("%s", reason)
        notes += [f"{run.name} is left out." for run in chosen if run.name not in loaded]
        runs = [(comparison.label(run), loaded[run.name]) for run in chosen if run.name in loaded]
    models = []
    for number, (label, run) in enumerate(runs):
        run.model.to(device)
        learned, why = None, ""
        try:
            learned = learn_directions(run, run.directions_file)
        except UserError as error:
            why = printable(str(error))
            log.warning("%s: no attributes to edit. %s", label, why)
        models.append(AppModel(number, label, run, learned, why))
    title = folder.resolve().name
    return AppModels(models, title, wanted_eyes(models[0].run), comparison, notes)
