"""Attribute edits of drawn faces, compared with their counterfactuals.

The counterfactual of a drawn face is the same face, redrawn with a single factor changed. Edits are
compared with it by pixels (PSNR, SSIM), by the distance of face features, and by the factors that
a probe reads from the pictures (vae/evaluation/probe.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from vae.data import SyntheticConfig
from vae.data.synthetic.faces import (
    ATTRIBUTE_FACTORS,
    FACTOR_NAMES,
    FACTORS,
    attributes,
    draw,
)
from vae.evaluation import TrainedModel
from vae.evaluation.attributes import learn_directions
from vae.evaluation.directions import METHODS, Directions
from vae.evaluation.distances import Features, face_features
from vae.evaluation.metrics_report import Report
from vae.evaluation.probe import FactorProbe, factor_probe
from vae.models import VAE
from vae.training.metrics import psnr, ssim
from vae.utils.errors import UserError

READABLE = 0.5  # least R² of the probe for a factor that counts
MIN_FACES = 5  # least number of faces that gain an attribute, or lose it
FACE_IMAGES = 20  # per attribute, for the slow distances of face features
BATCH = 100  # faces per pass of a network
EXAMPLE = ("original", "model", *METHODS, "redrawn")  # pictures of each example


@dataclass(frozen=True)
class Change:
    """Effect and leakage of edits of one factor.

    Both are relative to the factor's change in the redrawn faces, each factor in its standard
    deviations.
    """

    effect: float  # change of the target factor; 1: as in the redrawn faces
    leaks: dict[str, float]  # change of each other factor, beyond that in the redrawn faces
    leakage: float  # root of the sum of squares of `leaks`, less the noise in that sum


def measure_change(
    edited: Tensor, truth: Tensor, sign: Tensor, names: Sequence[str], factor: str
) -> Change:
    """Compare the changes of factors by edits with those by redrawing.

    With d and t the two changes of a factor, times `sign`, and sums over faces, the effect is
    Σ d / Σ t of the target factor. The leak into another factor is its Σ (d - effect · t),
    divided by the target's Σ t. A change that the redrawn faces show as well is no leak: a hat
    hides hair.

    Args:
        edited: (n, factors), edit minus reconstruction, in standard deviations of each factor.
        truth: (n, factors), redrawn face minus drawing.
        sign: (n,), 1 where the target factor increases and -1 where it decreases.
        names: factors of the columns.
        factor: the target.
    """
    edited, truth = (change.double() * sign[:, None] for change in (edited, truth))
    column = names.index(factor)
    size = truth[:, column].sum()
    effect = edited[:, column].sum() / size
    beside = edited - effect * truth
    leaks = dict(zip(names, (beside.sum(0) / size).tolist(), strict=True))
    rest = beside - beside.sum(0) / size * truth[:, [column]]
    noise = dict(zip(names, (rest.var(0) * len(rest) / size**2).tolist(), strict=True))
    del leaks[factor], noise[factor]
    squares = sum(leaks[name] ** 2 - noise[name] for name in leaks)
    return Change(effect.item(), leaks, math.sqrt(max(0.0, squares)))


def mean_change(changes: Sequence[Change]) -> Change:
    """Return the mean of several changes of one factor."""
    leaks = {name: fmean(change.leaks[name] for change in changes) for name in changes[0].leaks}
    return Change(
        fmean(change.effect for change in changes),
        leaks,
        fmean(change.leakage for change in changes),
    )


@dataclass(frozen=True)
class Likeness:
    """Similarity of pictures to the redrawn faces, means over the faces."""

    psnr: float  # dB
    ssim: float
    # Over FACE_IMAGES faces, for the first method, `redrawn` and `unedited`, if dlib is installed
    face_distance: float | None = None


@dataclass(frozen=True)
class EditScores:
    """Scores of the edits of one attribute, by method.

    `redrawn` is the reconstruction of the redrawn faces, the best that an edit can do with this
    decoder; `unedited` is the reconstruction of the original faces.
    """

    factor: str  # that determines the attribute
    changes: dict[str, Change]  # mean of the faces that gain the attribute and those that lose it
    likeness: dict[str, Likeness]


class EditBenchmark:
    """Compare edits of faces with the redrawn faces.

    Faces without an attribute gain it, faces with it lose it. The redrawn face's factor is the
    mean over the training faces of the other class. The strength of an edit is the distance of the
    face's own factor from that mean, in parts of the distance between the two means.

    Args:
        model: in evaluation mode; computes on its device.
        probe: for faces of the preset, on that device.
        directions: of the model.
        rows: (n, len(FACTORS)), factors of the faces.
        image_size: of the model's images, in pixels.
        features: for face distances; None: not measured.
        methods: names of directions.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: VAE,
        probe: FactorProbe,
        directions: Directions,
        rows: Tensor,
        image_size: int,
        features: Features | None = None,
        methods: Sequence[str] = METHODS,
    ) -> None:
        self.model, self.probe, self.directions, self.rows = model, probe, directions, rows
        self.image_size, self.features, self.methods = image_size, features, methods
        # By attribute: (len(EXAMPLE), 3, size, size)
        self.examples: dict[str, Tensor] = {}
        self.readable = [name for name, r2 in probe.accuracy.items() if r2 >= READABLE]
        self.drawn, self.latents = self._draw(rows)
        self.unedited = self._decode(self.latents)
        self.read_before, self.read_drawn = self._read(self.unedited), self._read(self.drawn)

    @torch.inference_mode()
    def score(self, attribute: str, low: float, high: float) -> EditScores | None:
        """Score the edits of an attribute.

        Args:
            attribute: one of ATTRIBUTE_FACTORS.
            low, high: means of its factor over training faces without and with the attribute.

        Returns:
            None if the attribute has no direction, the probe does not read its factor, or both
            classes have fewer than MIN_FACES faces.
        """
        factor = ATTRIBUTE_FACTORS[attribute]
        column = FACTOR_NAMES.index(factor)
        names, has = attributes(self.rows)
        having = has[:, names.index(attribute)] == 1
        sides = [side for side in (~having, having) if side.sum() >= MIN_FACES]
        if attribute not in self.directions.names or factor not in self.readable or not sides:
            return None
        wanted = self.rows.clone()
        wanted[:, column] = torch.where(having, low, high)
        way = wanted[:, column] - self.rows[:, column]
        redrawn, latents = self._draw(wanted)
        pictures = {"redrawn": self._decode(latents), "unedited": self.unedited}
        strengths = (way / (high - low)).to(self.latents)[:, None]
        for method in self.methods:
            step = self.directions.way(attribute, method).to(self.latents)
            pictures[method] = self._decode(self.latents + strengths * step)
        first = int(having.int().argmin())  # the first face that gains it
        shown = [self.drawn, self.unedited, *(pictures[method] for method in self.methods), redrawn]
        self.examples[attribute] = torch.stack([images[first] for images in shown])
        truth, sign = self._read(redrawn) - self.read_drawn, way.sign()
        changes = {}
        for name in (*self.methods, "redrawn"):
            found = self._read(pictures[name]) - self.read_before
            each = [
                measure_change(found[side], truth[side], sign[side], self.readable, factor)
                for side in sides
            ]
            changes[name] = mean_change(each)
        return EditScores(factor, changes, self._likeness(pictures, redrawn))

    def _likeness(self, pictures: Mapping[str, Tensor], redrawn: Tensor) -> dict[str, Likeness]:
        found = {
            name: Likeness(psnr(redrawn, images).mean().item(), ssim(redrawn, images).mean().item())
            for name, images in pictures.items()
        }
        if self.features is not None:
            expected = self.features(redrawn[:FACE_IMAGES])
            for name in (self.methods[0], "redrawn", "unedited"):
                gaps = self.features(pictures[name][:FACE_IMAGES]) - expected
                distance = gaps.norm(dim=1).mean().item()
                found[name] = replace(found[name], face_distance=distance)
        return found

    def _draw(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the drawings of faces (n, 3, size, size), and their latents."""
        drawn = draw(rows, self.image_size).to(next(self.model.parameters()).device)
        parts = torch.split(drawn, BATCH)
        return drawn, torch.cat([self.model.encode(some).mode for some in parts])

    def _decode(self, latents: Tensor) -> Tensor:
        return torch.cat([self.model.decode(some) for some in torch.split(latents, BATCH)])

    def _read(self, images: Tensor) -> Tensor:
        """Return the factors in `readable`, (n, factors), on the CPU."""
        columns = [[*self.probe.accuracy].index(name) for name in self.readable]
        read = torch.cat([self.probe.read(some) for some in torch.split(images, BATCH)])
        return read[:, columns].cpu()


def add_edit_scores(trained: TrainedModel, report: Report, directions_cache: Path | None) -> None:
    """Measure edits of the split's first faces and add the means over attributes to the report."""
    config = trained.data_config
    if not isinstance(config, SyntheticConfig):
        report.notes.append("Counterfactual edits need drawn faces, which can be redrawn.")
        return
    try:
        directions = learn_directions(trained, directions_cache).directions
    except UserError as error:  # too few images
        report.notes.append(f"Counterfactual edits are left out: {error}")
        return
    features = None
    try:
        features = face_features(trained)
    except UserError as error:
        report.notes.append(f"The face distance of edits is left out: {error}")
    probe = factor_probe(config, trained.device)
    most = trained.metrics_config.counterfactual_images
    rows = torch.from_numpy(_rows(trained, report.split)[:most])
    count = len(rows)
    benchmark = EditBenchmark(trained.model, probe, directions, rows, config.image_size, features)
    scored = {name: benchmark.score(name, *ends) for name, ends in _levels(trained).items()}
    scores = {name: score for name, score in scored.items() if score is not None}
    if not scores:
        report.notes.append("Counterfactual edits: no attribute could be measured.")
        return
    report.examples = benchmark.examples
    report.edits = report.measured(
        {name: asdict(score) for name, score in scores.items()}, count, probe=probe.accuracy
    )
    partners = {one: other for pair in config.correlated for one, other in (pair, pair[::-1])}
    for name in next(iter(scores.values())).changes:
        suffix = "" if name == METHODS[0] else f"_{name}"
        changes = [(partners.get(score.factor), score.changes[name]) for score in scores.values()]
        n = count * len(scores)
        report.add(f"edit_effect{suffix}", fmean(change.effect for _, change in changes), n)
        report.add(f"edit_leakage{suffix}", fmean(change.leakage for _, change in changes), n)
        if beside := [change.leaks[one] for one, change in changes if one in change.leaks]:
            report.add(f"edit_confounding{suffix}", fmean(beside), count * len(beside))
    for name in next(iter(scores.values())).likeness:
        suffix = "" if name == METHODS[0] else f"_{name}"
        for key in ("psnr", "ssim", "face_distance"):
            found = [getattr(score.likeness[name], key) for score in scores.values()]
            if None not in found:
                n = min(count, FACE_IMAGES) if key == "face_distance" else count
                report.add(f"edit_{key}{suffix}", fmean(found), n * len(scores))


def _rows(trained: TrainedModel, split: str) -> np.ndarray:
    """Return all factors of a split's faces, (n, len(FACTORS)) float32."""
    factors = trained.data.factors(split)
    assert factors is not None  # of drawn faces they are known
    rows = np.tile(
        np.array([factor.default for factor in FACTORS], np.float32), (len(factors.values), 1)
    )
    rows[:, [FACTOR_NAMES.index(name) for name in factors.names]] = factors.values
    return rows


def _levels(trained: TrainedModel) -> dict[str, tuple[float, float]]:
    """Return the mean of each attribute's factor over training faces without and with it."""
    known, factors = trained.data.attributes("train"), trained.data.factors("train")
    assert known is not None
    assert factors is not None
    levels = {}
    for attribute, factor in ATTRIBUTE_FACTORS.items():
        if factor in factors.names:
            has = known.values[:, known.names.index(attribute)] == 1
            values = factors.values[:, factors.names.index(factor)]
            if has.any() and not has.all():
                levels[attribute] = (float(values[~has].mean()), float(values[has].mean()))
    return levels
