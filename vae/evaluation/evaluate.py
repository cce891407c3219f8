"""A finished run, measured: every figure with the number of images and the seed behind it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from vae.data import Packed, SyntheticConfig
from vae.data.loader import evaluation_batches
from vae.editing.directions import balanced_accuracy
from vae.editing.learned import learn_directions
from vae.errors import UserError, require
from vae.evaluation import distances
from vae.evaluation.bound import importance_weighted_bounds
from vae.evaluation.codes import Codes, encode_split
from vae.evaluation.factors import drawn_factorvae_score, factor_scores
from vae.evaluation.factorvae import BATCH
from vae.evaluation.features import pick_features
from vae.metrics import EVALUATION_BATCH, Evaluation, bits_per_dim, evaluate
from vae.saved import SavedRun

SPLITS = ("val", "test")
MOST_CODES = 10_000  # posterior means for the metrics that need them at once

log = logging.getLogger(__name__)


@dataclass
class Report:
    """What was measured on a split."""

    split: str
    seed: int
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)  # value, n and how, by name
    kl_per_latent: list[float] = field(default_factory=list)  # nats
    separability: dict[str, float] = field(default_factory=dict)  # by attribute
    notes: list[str] = field(default_factory=list)  # on what could not be measured
    seconds: dict[str, float] = field(default_factory=dict)  # by part: not for the record

    def add(self, name: str, value: float, n: int, **how: Any) -> None:
        """Record a figure that was measured on n images."""
        self.figures[f"{self.split}/{name}"] = {
            "value": value,
            "n": n,
            "split": self.split,
            "seed": self.seed,
            **how,
        }

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a part."""
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start


def evaluate_run(run: SavedRun, split: str = "val", seed: int = 0) -> tuple[Report, Evaluation]:
    """Measure a run's checkpoint on a split: the same run, split and seed, the same figures.

    Reconstruction, rate, distortion and bpd as in training; an importance-weighted bound;
    the aggregate posterior; distances of samples and reconstructions in features of faces
    or of Inception; against true factors, where they are known, MIG, SAP, DCI and FactorVAE
    score; with attributes, how well a linear classifier tells them from the latents.

    Args:
        run: its model's device is where it is measured; `run.config.metrics` says how.
        split: val, or test, which training never touched.
        seed: of the noise, the samples and the choice of images, >= 0.

    Returns:
        The report, and what figures of the split need to know of each latent.

    Raises:
        UserError: the run's images are no longer there, or a file that metrics names.
    """
    require(split in SPLITS, "--split", split, "val or test")
    data = run.data
    report = Report(split, seed)
    with report.part("reconstruction"):
        evaluation = _reconstruction(run, data, report)
    with report.part("bound"):
        _bound(run, data, report)
    with report.part("encoding"):
        codes = encode_split(run.model, data.images[split], MOST_CODES, split)
        report.add("aggregate_kl", codes.aggregate.kl_to_prior(), len(data.images[split]))
    with report.part("distances"):
        _distances(run, data, report)
    with report.part("factors"):
        _disentanglement(run, data, codes, report)
    with report.part("attributes"):
        _separability(run, data, codes, report)
    return report, evaluation


def _reconstruction(run: SavedRun, data: Packed, report: Report) -> Evaluation:
    images = data.images[report.split]
    batches = evaluation_batches(images, EVALUATION_BATCH, run.device)
    trained_on = len(data.images["train"])
    evaluation = evaluate(
        run.model, batches, run.config.loss, training_images=trained_on, seed=report.seed
    )
    for name, value in evaluation.metrics.items():
        report.add(name, value, len(images))
    report.kl_per_latent = evaluation.kl_per_latent.tolist()
    return evaluation


def _bound(run: SavedRun, data: Packed, report: Report) -> None:
    settings = run.config.metrics
    images = distances.choose(
        data.images[report.split],
        min(settings.bound_images, len(data.images[report.split])),
        report.seed,
    )
    values = 3 * images.shape[1] ** 2
    # The likelihood of val/distortion: the Gaussian whose variance is optimal on the split.
    distortion = report.figures[f"{report.split}/distortion"]["value"]
    variance = math.exp(2 * distortion / values - 1) / (2 * math.pi)
    one, many = importance_weighted_bounds(
        run.model,
        evaluation_batches(images, EVALUATION_BATCH, run.device),
        settings.bound_samples,
        variance,
        torch.Generator().manual_seed(report.seed),
    )
    for k, bounds in ((1, one), (settings.bound_samples, many)):
        bpd = bits_per_dim(-bounds.mean().item(), 0, values)
        report.add("iw_bpd" if bounds is many else "iw_bpd_1", bpd, len(images), k=k)


def _distances(run: SavedRun, data: Packed, report: Report) -> None:
    images = data.images[report.split]
    count = min(run.config.metrics.distance_images, len(images), len(data.images["train"]))
    device = run.device
    features, notes = pick_features(run.config.metrics, run.config.data, device, count)
    report.notes += notes
    if features is None:
        return
    latents = distances.standard_normal(run.model.latent_dim, report.seed)
    strangers = distances.choose(data.images["train"], count, report.seed)
    kinds = {
        "samples": distances.decoded(run.model, latents),
        "reconstructions": distances.reconstructions(run.model),
        "floor": distances.others(strangers, device),
    }
    chosen = distances.choose(images, count, report.seed)
    found = distances.measure_distances(chosen, features, device, kinds)
    for kind, distance in found.items():
        report.add(f"{features.distance_key}_{kind}", distance.frechet, count)
        error = distance.kernel_error
        report.add(f"{features.kernel_key}_{kind}", distance.kernel, count, error=error)
    if features.name == "faces":
        report.add("identity_distance", found["reconstructions"].pairwise, count)
        report.add("identity_distance_of_others", found["floor"].pairwise, count)


def _disentanglement(run: SavedRun, data: Packed, codes: Codes, report: Report) -> None:
    factors = data.factors(report.split)
    if factors is None:
        report.notes.append("MIG, DCI, SAP and FactorVAE score need true factors; none are known.")
        return
    truth = factors.values[: len(codes.means)]
    try:
        scores = factor_scores(codes.means, truth, report.seed)
    except UserError as error:  # too few images
        report.notes.append(str(error))
        return
    for name, value in scores.items():
        report.add(name, value, len(truth))
    if isinstance(run.config.data, SyntheticConfig):
        spread = codes.aggregate.means.covariance.diagonal().sqrt().numpy()
        score, votes = drawn_factorvae_score(run.model, run.config.data, spread, report.seed)
        report.add("factorvae_score", score, votes * BATCH, votes=votes)


def _separability(run: SavedRun, data: Packed, codes: Codes, report: Report) -> None:
    """Of attributes, which are no factors: not called disentanglement."""
    attributes = data.attributes(report.split)
    if attributes is None:
        report.notes.append("Attribute separability needs attributes; none are known.")
        return
    directions = learn_directions(run).directions
    columns = [attributes.names.index(name) for name in directions.names]
    truth = torch.from_numpy(attributes.values[: len(codes.means), columns].copy())
    told = balanced_accuracy(directions.scores(torch.from_numpy(codes.means)), truth)
    known = ~told.isnan()
    pairs = zip(directions.names, told.tolist(), known.tolist(), strict=True)
    report.separability = {name: value for name, value, is_known in pairs if is_known}
    report.add("attribute_separability", told[known].mean().item(), len(codes.means))
