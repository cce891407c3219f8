"""Measure a trained model: each metric with the number of images and the seed behind it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from vae.data import SyntheticConfig
from vae.evaluation import TrainedModel, disentanglement, distances
from vae.evaluation.attributes import columns_of, learn_directions
from vae.evaluation.counterfactual import add_edit_scores
from vae.evaluation.directions import balanced_accuracy
from vae.evaluation.disentanglement import dci, drawn_factorvae_score, mig, sap
from vae.evaluation.distances import (
    comparison_size,
    face_features,
    measure_distances,
    pick_features,
)
from vae.evaluation.latents import (
    aggregate_kl,
    encode_means,
    importance_weighted_bounds,
    progress_batches,
)
from vae.evaluation.likelihood import discretized_distortion
from vae.evaluation.metrics_report import Report
from vae.evaluation.priors import (
    MAX_DIMENSIONS,
    encode_training,
    fit_prior,
    latents_of,
    measure_priors,
)
from vae.evaluation.refine import amortized_and_optimized
from vae.losses.perceptual import PerceptualConfig
from vae.models import Posterior
from vae.training.metrics import Evaluation, bits_per_dim, evaluate_split
from vae.utils.errors import UserError, require

SPLITS = ("val", "test")

log = logging.getLogger(__name__)


def evaluate_model(
    trained: TrainedModel,
    split: str = "val",
    seed: int = 0,
    directions_cache: Path | None = None,
    flow_file: Path | None = None,
) -> tuple[Report, Evaluation]:
    """Measure a model on a split: the same model, split and seed give the same figures.

    Reconstruction, rate, distortion and bpd as in training, but in float32 whatever that ran
    in; the aggregate posterior of training images; bounds of the likelihood: discretized and
    importance-weighted; distances of samples and reconstructions in features of faces or of
    Inception; against true factors, where they are known, MIG, SAP, DCI and FactorVAE score;
    with attributes, how well a linear classifier tells them from the latents; the
    amortisation gap.

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
    loss, left_out = trained.loss_config, ""
    try:
        loss.perceptual.load(trained.device)
    except UserError as error:  # of the weights; nothing else needs them
        report.notes.append(f"loss is left out: {error}")
        loss, left_out = replace(loss, perceptual=PerceptualConfig()), "loss"
    with report.part("reconstruction"):
        evaluation = evaluate_split(
            trained.model,
            progress_batches(images, trained.device, "reconstruction"),
            loss,
            training_images=len(trained.data.images["train"]),
            seed=seed,
        )
        for name, value in evaluation.metrics.items():
            if name != left_out:
                report.add(name, value, len(images))
        report.kl_per_latent = report.measured(evaluation.kl_per_latent.tolist(), len(images))
    with report.part("encoding"):
        codes = encode_means(trained.model, images, split)
        posteriors = _aggregate_kl(trained, report)
    parts: dict[str, Callable[[], None]] = {
        "likelihood": lambda: _likelihood(trained, report),
        "bound": lambda: _bound(trained, report),
        "distances": lambda: _distances(trained, report),
        "priors": lambda: _priors(trained, posteriors, report, flow_file),
        "factors": lambda: _disentanglement(trained, codes, report),
        "attributes": lambda: _separability(trained, codes, report, directions_cache),
        "counterfactual": lambda: add_edit_scores(trained, report, directions_cache),
        "amortization": lambda: _amortization(trained, report),
    }
    for name, measure in parts.items():
        if name in trained.metrics_config.parts:
            with report.part(name):
                measure()
    return report, evaluation


def _likelihood_variance(report: Report, values: int) -> float:
    """Return the variance of the Gaussian of `distortion`: the optimal one on the split."""
    distortion = report.figures[f"{report.split}/distortion"]["value"]
    return math.exp(2 * distortion / values - 1) / (2 * math.pi)


def _aggregate_kl(trained: TrainedModel, report: Report) -> Posterior | None:
    """Add aggregate_kl; return the training posteriors, or None where no covariance is measured."""
    latents = trained.model.latent_dim
    if latents > MAX_DIMENSIONS:
        report.notes.append(
            f"aggregate_kl is left out: it takes a model of at most {MAX_DIMENSIONS:,} latents; "
            f"this one has {latents:,}."
        )
        return None
    posteriors = encode_training(trained)
    try:
        report.add("aggregate_kl", aggregate_kl(posteriors), len(posteriors.mean))
    except UserError as error:  # too few images
        report.notes.append(str(error))
    return posteriors


def _likelihood(trained: TrainedModel, report: Report) -> None:
    images = trained.data.images[report.split]
    nats, sigma = discretized_distortion(
        trained.model, progress_batches(images, trained.device, "likelihood"), report.seed
    )
    rate = report.figures[f"{report.split}/rate"]["value"]
    bits = (nats + rate) / (images[0].size * math.log(2))
    report.add("bpd_discretized", bits, len(images), sigma=sigma)


def _bound(trained: TrainedModel, report: Report) -> None:
    settings, images = trained.metrics_config, trained.data.images[report.split]
    count = min(settings.bound_images, len(images))
    values = images[0].size
    chosen = distances.random_subset(images, count, report.seed)
    one, many, effective = importance_weighted_bounds(
        trained.model,
        progress_batches(chosen, trained.device, "importance-weighted bound"),
        settings.bound_samples,
        _likelihood_variance(report, values),
        torch.Generator().manual_seed(report.seed),
    )
    bounds = {"iw_bpd_1": (1, one), "iw_bpd": (settings.bound_samples, many)}
    for name, (k, nats) in bounds.items():
        report.add(name, bits_per_dim(-nats.mean().item(), 0, values), count, k=k)
    report.add("iw_effective_samples", effective.mean().item(), count, k=settings.bound_samples)


def _amortization(trained: TrainedModel, report: Report) -> None:
    settings, images = trained.metrics_config, trained.data.images[report.split]
    count = min(settings.amortization_images, len(images))
    values, steps = images[0].size, settings.amortization_steps
    chosen = distances.random_subset(images, count, report.seed)
    amortized, optimized = amortized_and_optimized(
        trained.model,
        progress_batches(chosen, trained.device, "amortisation gap"),
        steps,
        _likelihood_variance(report, values),
        torch.Generator().manual_seed(report.seed),
    )
    report.add("amortization_bpd", bits_per_dim(amortized.mean().item(), 0, values), count)
    bpd = bits_per_dim(optimized.mean().item(), 0, values)
    report.add("amortization_bpd_optimized", bpd, count, steps=steps)
    gaps = (amortized - optimized) / (values * math.log(2))
    error = gaps.std().item() / math.sqrt(count) if count > 1 else None  # standard error
    report.add("amortization_gap", gaps.mean().item(), count, steps=steps, error=error)


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
    trained: TrainedModel, posteriors: Posterior | None, report: Report, flow_file: Path | None
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


def _disentanglement(trained: TrainedModel, codes: Tensor, report: Report) -> None:
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
        spread = codes.double().std(0).numpy()
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
