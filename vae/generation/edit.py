"""Attribute edits: faces moved along attribute directions."""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vae.evaluation import TrainedModel
from vae.evaluation.attributes import LearnedDirections, columns_of
from vae.evaluation.directions import require_method
from vae.evaluation.refine import refine_posterior
from vae.generation import figures
from vae.generation.photos import file_stems, load_faces
from vae.training.metrics import psnr
from vae.utils.errors import UserError
from vae.utils.text import plural, printable, safe_name, safe_names

DEFAULT_FACES = 6  # faces of the split, where none are given
MIN_ACCURACY = 0.6  # of a direction, below which an edit is warned of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EditResult:
    """The result of `edit`."""

    images: Tensor  # (faces, changes, 3, size, size) in [0, 1]
    sheet: Path  # rows of faces: as they are, as the model has them, and changed
    files: list[Path]  # of given faces, each as it is after its last change
    applied: dict[str, dict[str, float]]  # the last changes' strengths, by face and attribute
    psnr: dict[str, dict[str, float]]  # dB, by face: of the model's reconstruction, of the refined


@torch.inference_mode()
def edit(
    trained: TrainedModel,
    learned: LearnedDirections,
    faces: Sequence[str],
    attributes: Sequence[str],
    strength: float = 2.0,
    *,
    method: str = "normal",
    keep_detail: bool = False,
    unbounded: bool = False,
    refine: int = 0,
    seed: int = 0,
    split: str = "val",
    crop: str = "auto",
    folder: Path,
    tag: str = "",
) -> EditResult:
    """Give faces an attribute, or take it away.

    Args:
        trained: computes on its device.
        learned: `vae.evaluation.attributes.learn_directions` of the same model.
        faces: files, or numbers of faces of the split; none: some that lack the attributes, or
            where these are taken away, some that have them.
        attributes: with one, it is shown at several strengths; with more, each at `strength`.
        strength: 1 leads from the average face without it to the average one with it;
            negative takes it away. It is shortened for each face that would leave the range
            of the training faces (vae/evaluation/directions.py).
        method: how the direction is found: one of METHODS (vae/evaluation/directions.py).
        keep_detail: add to the given picture what the edit changes of its reconstruction,
            which keeps what the model cannot reconstruct.
        unbounded: apply `strength` to all faces, whatever the range.
        refine: steps in which each face's posterior is optimised first (`refine_posterior`).
        seed: of the noise in them.
        split, crop: as `load_faces`.
        folder: where the files go.
        tag: ends the files' names, where there are several checkpoints of one run.

    Raises:
        UserError: there is no such attribute, or a face cannot be read.
    """
    require_method(method)
    _require_known(attributes, learned)
    _warn_of_chance(attributes, learned, method)
    inputs = list(faces) or _faces_to_change(trained, attributes, strength, split)
    originals, labels = load_faces(inputs, trained, split, crop)
    latents = trained.model.encode(originals.to(trained.device)).mode
    plain = {"model": trained.model.decode(latents).cpu()}
    if refine:
        noise = torch.Generator().manual_seed(seed)
        latents = refine_posterior(trained.model, originals, refine, generator=noise).mode
        plain["refined"] = trained.model.decode(latents).cpu()

    # One attribute at strengths from -strength to strength, or several at `strength`.
    parts = (1,) if len(attributes) > 1 else (-1, -0.5, 0.5, 1)
    changes = [(attribute, strength * part) for attribute in attributes for part in parts]
    directions = learned.directions
    changed, strengths, titles = [], [], []
    for attribute, size in changes:
        step, sizes = directions.step(latents, attribute, size, method, unbounded)
        changed.append(trained.model.decode(latents + step).cpu())
        strengths.append(sizes)
        titles.append(f"{attribute} {size:+g}{' limited' * bool((sizes != size).any())}")
    images = torch.stack(changed, dim=1)
    last = dict(zip(attributes, strengths[-len(attributes) :], strict=True))
    for attribute, sizes in last.items():
        _report_limit(attribute, strength, sizes)
    if keep_detail:
        images = (images + (originals - [*plain.values()][-1])[:, None]).clamp(0, 1)

    # File names have all unusual settings, so that files do not collide.
    settings = {
        method: method != "normal",
        "detail": keep_detail,
        "unbounded": unbounded,
        f"refine-{refine}": refine > 0,
        f"crop-{crop.replace(',', '-')}": crop != "auto",
        tag: bool(tag),
    }
    how = [name for name, is_unusual in settings.items() if is_unusual]
    named = dict(zip(directions.names, safe_names(directions.names), strict=True))
    name = safe_name("_".join(["edit", ",".join(named[each] for each in attributes), *how]))
    sheet = figures.write_table(
        torch.cat([torch.stack([originals, *plain.values()], dim=1), images], dim=1),
        folder / "figures" / f"{name}.png",
        columns=["original", *plain, *titles],
    )
    files = []
    for stem, row in zip(file_stems(labels), images, strict=True) if faces else ():
        for attribute, image in zip(attributes, row[-len(attributes) :], strict=True):
            name = safe_name("_".join([stem, named[attribute], f"{strength:+g}", *how]))
            files.append(figures.save_png(figures.to_pil(image), folder / "edited" / f"{name}.png"))
    applied = {attribute: sizes.tolist() for attribute, sizes in last.items()}
    found = {name: psnr(originals, made).tolist() for name, made in plain.items()}
    return EditResult(images, sheet, files, _by_face(labels, applied), _by_face(labels, found))


def _by_face(labels: Sequence[str], columns: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Turn columns of values of the faces into a row for each face, by its label."""
    rows = zip(*columns.values(), strict=True)
    return {
        label: dict(zip(columns, row, strict=True)) for label, row in zip(labels, rows, strict=True)
    }


def _require_known(attributes: Sequence[str], learned: LearnedDirections) -> None:
    """Raise a UserError with the nearest names for an unknown attribute."""
    names = learned.directions.names
    if not attributes:
        raise UserError(f"--attribute: which? One or more of {', '.join(names)}.")
    by_lower = {name.lower(): name for name in names}
    for attribute in attributes:
        if attribute in names:
            continue
        lower = attribute.lower().replace(" ", "_")
        near = difflib.get_close_matches(lower, by_lower, cutoff=0.6)
        near += [low for low in by_lower if lower in low and low not in near]
        meant = f"Did you mean {' or '.join(by_lower[low] for low in near)}? " if near else ""
        raise UserError(
            f"--attribute: there is no {attribute!r}. {meant}"
            "`vae edit RUN --list` shows all that this run can be edited by."
        )


def _warn_of_chance(attributes: Sequence[str], learned: LearnedDirections, method: str) -> None:
    """Warn of each direction that hardly tells its attribute: edits along it show other things."""
    for attribute in attributes:
        accuracy = learned.accuracy[attribute][method]
        if not accuracy >= MIN_ACCURACY:  # NaN: no held-out face has it, or all have
            found = "unknown" if math.isnan(accuracy) else f"{accuracy:.3f}"
            log.warning(
                "%s: balanced accuracy of its direction is %s (chance: 0.5). The edit may not "
                "show it. `vae edit RUN --list` lists all attributes; train longer or on more "
                "images.",
                printable(attribute),
                found,
            )


def _report_limit(attribute: str, strength: float, applied: Tensor) -> None:
    """Log the strengths (faces,) of an attribute if some are less than asked for."""
    limited = applied[applied != strength]
    if len(limited):
        # Adding 0 turns -0 into 0.
        least, most = (f"{round(end.item(), 2) + 0:g}" for end in limited.aminmax())
        log.info(
            "%s %+g: limited to %s for %d of %s, by the range of the training faces; "
            "--unbounded lifts the limit",
            printable(attribute),
            strength,
            least if least == most else f"{least} to {most}",
            len(limited),
            plural(len(applied), "face"),
        )


def _faces_to_change(
    trained: TrainedModel, attributes: Sequence[str], strength: float, split: str
) -> list[str]:
    """Return numbers of faces of the split that have the fewest of the attributes.

    The most, where these are taken away.
    """
    labels = trained.data.attributes(split)
    assert labels is not None  # there were directions
    columns = columns_of(labels, attributes)
    have = labels.values[:, columns].astype(np.int64).sum(axis=1)
    order = np.argsort(have if strength >= 0 else -have, kind="stable")
    return [str(number) for number in order[:DEFAULT_FACES]]
