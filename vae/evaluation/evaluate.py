"""Measure a trained model: each metric with the number of images and the seed behind it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vae.data import SyntheticConfig
from vae.evaluation import TrainedModel, disentanglement, distances
from vae.evaluation.attributes import columns_of, learn_directions
from vae.evaluation.directions import balanced_accuracy
from vae.evaluation.disentanglement import dci, drawn_factorvae_score, mig, sap
from vae.evaluation.distances import (
    comparison_size,
    face_features,
    measure_distances,
    pick_features,
)
from vae.evaluation.latents import (
    AggregatePosterior,
    encode_split,
    importance_weighted_bounds,
    progress_batches,
)
from vae.evaluation.priors import encode_training, fit_prior, latents_of, measure_priors
from vae.models import Posterior
from vae.training.metrics import Evaluation, bits_per_dim, evaluate_split
from vae.utils.errors import UserError, require

SPLITS = ("val", "test")

log = logging.getLogger(__name__)


@dataclass
class Report:
    """Metrics of a split, with counts, notes and times."""

    split: str
    seed: int
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)  # `measured`, by name
    kl_per_latent: dict[str, Any] = field(default_factory=dict)  # `measured`: a list, nats
    separability: dict[str, Any] = field(default_factory=dict)  # `measured`: by attribute
    notes: list[str] = field(default_factory=list)  # on what could not be measured
    seconds: dict[str, float] = field(default_factory=dict)  # by part: not for the record

    def add(self, name: str, value: float, n: int, **how: Any) -> None:
        """Record a metric measured on n images."""
        self.figures[f"{self.split}/{name}"] = self.measured(value, n, **how)

    def measured(self, value: Any, n: int, **how: Any) -> dict[str, Any]:
        """Return a value with the number of images, the split and the seed behind it."""
        return {"value": value, "n": n, "split": self.split, "seed": self.seed, **how}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a part."""
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start


def evaluate_model(
    trained: TrainedModel,
    split: str = "val",
    seed: int = 0,
    directions_cache: Path | None = None,
    flow_file: Path | None = None,
) -> tuple[Report, Evaluation]:
    """Measure a model on a split: the same model, split and seed give the same figures.

    Reconstruction, rate, distortion and bpd as in training, but in float32 whatever that ran
    in; an importance-weighted bound; the aggregate posterior; distances of samples and
    reconstructions in features of faces or of Inception; against true factors, where they
    are known, MIG, SAP, DCI and FactorVAE score; with attributes, how well a linear
    classifier tells them from the latents.

    Args:
        trained: is measured on its device, as its `metrics_config` says.
        split: val, or test, which training never touched.
        seed: of the noise, the samples and the choice of images, >= 0.
        directions_cache: as for `learn_directions`.
        flow_file: as for `fit_prior`.

    Returns:
        The report, and what figures of the split need to know of each latent.

    Raises:
        UserError: the images are no longer there, or a file that metrics names.
    """
    require(split in SPLITS, "--split", split, "val or test")
    report = Report(split, seed)
    images = trained.data.images[split]
    with report.part("reconstruction"):
        evaluation = evaluate_split(
            trained.model,
            progress_batches(images, trained.device, "reconstruction"),
            trained.loss_config,
            training_images=len(trained.data.images["train"]),
            seed=seed,
        )
        for name, value in evaluation.metrics.items():
            report.add(name, value, len(images))
        report.kl_per_latent = report.measured(evaluation.kl_per_latent.tolist(), len(images))
    with report.part("encoding"):
        codes, aggregate = encode_split(trained.model, images, split)
        if len(images) > 1:
            report.add("aggregate_kl", aggregate.kl_to_prior(), len(images))
        else:
            report.notes.append("The aggregate posterior needs more than 1 image.")
    parts: dict[str, Callable[[], None]] = {
        "bound": lambda: _bound(trained, report),
        "distances": lambda: _distances(trained, report),
        "priors": lambda: _priors(trained, encode_training(trained), report, flow_file),
        "factors": lambda: _disentanglement(trained, codes, aggregate, report),
        "attributes": lambda: _separability(trained, codes, report, directions_cache),
    }
    for name, measure in parts.items():
        if name in trained.metrics_config.parts:
            with report.part(name):
                measure()
    return report, evaluation


def _bound(trained: TrainedModel, report: Report) -> None:
    settings, images = trained.metrics_config, trained.data.images[report.split]
    count = min(settings.bound_images, len(images))
    values = images[0].size
    # The likelihood of val/distortion: the Gaussian whose variance is optimal on the split.
    distortion = report.figures[f"{report.split}/distortion"]["value"]
    variance = math.exp(2 * distortion / values - 1) / (2 * math.pi)
    chosen = distances.random_subset(images, count, report.seed)
    one, many = importance_weighted_bounds(
        trained.model,
        progress_batches(chosen, trained.device, "importance-weighted bound"),
        settings.bound_samples,
        variance,
        torch.Generator().manual_seed(report.seed),
    )
    bounds = {"iw_bpd_1": (1, one), "iw_bpd": (settings.bound_samples, many)}
    for name, (k, nats) in bounds.items():
        report.add(name, bits_per_dim(-nats.mean().item(), 0, values), count, k=k)


def _distances(trained: TrainedModel, report: Report) -> None:
    model = trained.model
    count = comparison_size(trained, report.split)
    features, notes = pick_features(trained, count)
    report.notes += notes
    if features is None:
        return
    measure = partial(measure_distances, trained, report.split, count, report.seed)
    reconstructions = {"reconstructions": lambda x: model.decode(model.encode(x).mode)}
    latents = latents_of(fit_prior(trained, "standard"), report.seed)
    samples = {"samples": distances.sample_source(model, latents)}
    found = measure(features, samples | reconstructions)
    for kind, distance in found.items():
        report.add(f"{features.distance_key}_{kind}", distance.frechet, count)
        error = distance.kernel_error
        report.add(f"{features.kernel_key}_{kind}", distance.kernel, count, error=error)
    if features.name != "faces":  # Inception does not tell people apart
        try:
            found = measure(face_features(trained), reconstructions)
        except UserError as error:
            report.notes.append(f"The identity distance is left out: {error}")
            return
    report.add("identity_distance", found["reconstructions"].pairwise, count)
    report.add("identity_distance_of_others", found["floor"].pairwise, count)


def _priors(
    trained: TrainedModel, posteriors: Posterior, report: Report, flow_file: Path | None
) -> None:
    count = comparison_size(trained, report.split)
    features, notes = pick_features(trained, count)
    if features is None:
        report.notes += [note for note in notes if note not in report.notes]
        return
    latents = {}
    for name in trained.metrics_config.priors:
        try:
            prior = fit_prior(trained, name, report.seed, posteriors, flow_file)
        except UserError as error:
            report.notes.append(str(error))
        else:
            latents[name] = latents_of(prior, report.seed)
    found = measure_priors(trained, report.split, latents, features, report.seed)
    for name, distance in {**found.errors, "ceiling": found.ceiling}.items():
        report.add(f"{features.prior_key}_{name}", distance, count)


def _disentanglement(
    trained: TrainedModel, codes: Tensor, aggregate: AggregatePosterior, report: Report
) -> None:
    factors = trained.data.factors(report.split)
    if factors is None:
        report.notes.append("MIG, DCI, SAP and FactorVAE score need true factors; none are known.")
        return
    means, truth = codes.numpy(), factors.values[: len(codes)]
    try:
        scores = {"mig": mig(means, truth), "sap": sap(means, truth)}
        of_forests = asdict(dci(means, truth, report.seed))
        scores |= {f"dci_{name}": value for name, value in of_forests.items()}
    except UserError as error:  # too few images
        report.notes.append(str(error))
        return
    for name, value in scores.items():
        report.add(name, value, len(truth))
    if isinstance(trained.data_config, SyntheticConfig):
        spread = aggregate.means.covariance.diagonal().sqrt().numpy()
        score = drawn_factorvae_score(trained.model, trained.data_config, spread, report.seed)
        votes = disentanglement.VOTES
        report.add("factorvae_score", score, votes * disentanglement.BATCH, votes=votes)


def _separability(
    trained: TrainedModel, codes: Tensor, report: Report, directions_cache: Path | None
) -> None:
    """Add attribute separability (attributes are not factors: this is not disentanglement)."""
    attributes = trained.data.attributes(report.split)
    if attributes is None:
        report.notes.append("Attribute separability needs attributes; none are known.")
        return
    try:
        directions = learn_directions(trained, directions_cache).directions
    except UserError as error:  # too few images
        report.notes.append(f"Attribute separability is left out: {error}")
        return
    columns = columns_of(attributes, directions.names)
    count = len(codes)
    truth = torch.from_numpy(attributes.values[:count, columns].copy())
    told = balanced_accuracy(directions.scores(codes) > 0, truth)
    pairs = zip(directions.names, told.tolist(), strict=True)
    by_name = {name: value for name, value in pairs if not math.isnan(value)}
    if not by_name:
        report.notes.append(
            "Attribute separability needs an attribute that some images have and some lack; "
            f"among {count:,} there is none."
        )
        return
    report.separability = report.measured(by_name, count)
    report.add("attribute_separability", told[~told.isnan()].mean().item(), count)
