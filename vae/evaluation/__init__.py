"""Evaluation of a trained model. Here: its input, and its settings (`metrics` in the YAML)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch

from vae.data import DataConfig, Packed, open_data
from vae.losses import LossConfig
from vae.models import VAE, ModelConfig
from vae.utils.errors import require, require_ranges
from vae.utils.registry import Metric, register_metric

# The slow parts of an evaluation, and how their metrics' names begin.
PARTS = {
    "likelihood": ("bpd_discretized",),
    "bound": ("iw_",),
    "distances": ("face_", "fid_", "kid_", "identity_"),
    "priors": ("prior_",),
    "factors": ("mig", "sap", "dci_", "factorvae_"),
    "attributes": ("attribute_",),
    "amortization": ("amortization_",),
}
DEFAULT_PARTS = [part for part in PARTS if part != "amortization"]
PRIORS = ("standard", "gaussian", "mixture", "flow")  # priors.py

for _name, _label in (
    ("mig", "mutual information gap"),
    ("sap", "SAP score"),
    ("dci_disentanglement", "DCI disentanglement"),
    ("dci_completeness", "DCI completeness"),
    ("dci_informativeness", "DCI informativeness"),
    ("factorvae_score", "FactorVAE score"),
    ("attribute_separability", "separability of the attributes"),
):
    register_metric(Metric(_name, _label, 3, True, in_every_run=False))
for _name, _label, _digits in (
    ("aggregate_kl", "KL(q(z) || p(z)), nats", 1),
    ("bpd_discretized", "bits per dimension, discretized", 3),
    ("iw_effective_samples", "effective samples of the importance-weighted bound", 1),
    *((f"prior_error_{name}", f"error of the prior {name}", 4) for name in (*PRIORS, "ceiling")),
    ("amortization_gap", "amortisation gap, bits per dimension", 3),
    ("amortization_bpd", "bits per dimension, amortised posterior", 3),
    ("amortization_bpd_optimized", "bits per dimension, optimised posterior", 3),
):
    register_metric(Metric(_name, _label, _digits, in_every_run=False))


@dataclass
class MetricsConfig:
    """Settings of `vae evaluate` and `vae sample`; training does not use them."""

    # Values here, since older runs have none; train.yaml holds them as the others.
    inception_weights: str = "download"  # FID's network: a file, download or none
    distance_images: int = 10000  # at most this many on each side of a distance; int from 2 to 1e9
    bound_images: int = 200  # at most this many in the importance-weighted bound; int from 1 to 1e9
    bound_samples: int = 64  # samples of z per image in it, k; int from 1 to 100000
    # At most this many images in the amortisation gap; int from 1 to 1e9
    amortization_images: int = 64
    amortization_steps: int = 500  # of Adam, for each posterior in it; int from 1 to 100000
    face_box: list[float] | None = None  # left, top, side of the face, parts of the image's side
    # The priors to measure, some of PRIORS
    priors: list[str] = field(default_factory=lambda: ["standard", "gaussian", "mixture"])
    parts: list[str] = field(default_factory=lambda: DEFAULT_PARTS)  # the PARTS to measure

    def __post_init__(self) -> None:
        require_ranges(
            "metrics",
            self,
            distance_images=(2, 10**9),
            bound_images=(1, 10**9),
            bound_samples=(1, 100_000),
            amortization_images=(1, 10**9),
            amortization_steps=(1, 100_000),
        )
        for key, names in {"priors": PRIORS, "parts": [*PARTS]}.items():
            got = getattr(self, key)  # may hold dicts: OmegaConf lets them through
            known = all(name in names for name in got)
            require(known, f"metrics.{key}", got, f"a list of {', '.join(names)}")
        if (box := self.face_box) is not None:
            numbers = len(box) == 3 and all(type(part) in (float, int) for part in box)
            inside = numbers and all(part >= 0 and part + box[2] <= 1 for part in box[:2])
            takes = "null or [left, top, side] within the image, in parts of its side, side >= 0.01"
            require(inside and box[2] >= 0.01, "metrics.face_box", box, takes)


@dataclass(frozen=True)
class TrainedModel:
    """A trained model, its data and its settings: the input of evaluation and generation.

    `vae.runs.load.load_run` returns one from a run folder.
    """

    model: VAE  # in evaluation mode
    model_config: ModelConfig
    data_config: DataConfig  # of `data`
    loss_config: LossConfig  # that the model was trained with
    metrics_config: MetricsConfig  # how to measure the model

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return next(self.model.parameters()).device

    @cached_property
    def data(self) -> Packed:
        """The images that the model was trained on, opened at the first access.

        Raises:
            UserError: they are not where `data_config` says.
        """
        return open_data(self.data_config)
