"""Objectives of a sweep that are measured by an evaluation at the end of each run."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from vae.evaluation import TrainedModel, parts_of
from vae.evaluation.evaluate import evaluate_model
from vae.evaluation.inception import load_inception
from vae.models import VAE
from vae.models.face_net import load_face_net
from vae.runs.config import RunConfig
from vae.utils.errors import UserError

log = logging.getLogger(__name__)

OF_FACE_NET = ("face_", "identity_", "edit_face_")  # prefixes of metrics
OF_INCEPTION = ("fid_", "kid_", "prior_fid_")


def require_networks(config: RunConfig) -> None:
    """Check before training that the networks are available which the objectives need.

    Raises:
        UserError: one is not available.
    """
    for key in config.objectives:
        name = key.removeprefix("val/")
        try:
            if name.startswith(OF_FACE_NET):
                load_face_net()
            elif name.startswith(OF_INCEPTION):
                load_inception(config.metrics.inception_weights)
        except UserError as error:
            raise UserError(f"objective: {key} needs a network. {error}") from error


def measure_objectives(
    config: RunConfig, model: VAE, known: Mapping[str, float], folder: Path
) -> dict[str, float]:
    """Measure the objectives that validation has not measured, on the validation split.

    Args:
        config: of the run.
        model: trained.
        known: the metrics of the last validation.
        folder: of the run; the directions of attributes are kept in it.

    Raises:
        UserError: one of them cannot be measured; says why.
    """
    missing = [key for key in config.objectives if key not in known]
    if not missing:
        return {}
    log.info("measuring %s", ", ".join(missing))
    parts, priors = parts_of(missing)
    settings = replace(config.metrics, parts=parts, priors=priors)
    trained = TrainedModel(model.eval(), config.model, config.data, config.loss, settings)
    report, _ = evaluate_model(trained, directions_cache=folder / "directions" / "last.npz")
    found = {key: report.figures[key]["value"] for key in missing if key in report.figures}
    for key in missing:
        if not math.isfinite(found.get(key, math.nan)):
            why = f"is {found[key]}." if key in found else "cannot be measured."
            raise UserError(" ".join([f"objective: {key} {why}", *report.notes]))
    return found
