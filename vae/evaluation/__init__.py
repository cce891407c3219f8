"""Evaluation of a trained model. Here: its input, and its settings (`metrics` in the YAML)."""

from __future__ import annotations

from collections.abc import Iterable
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
    "counterfactual": ("edit_",),
    "amortization": ("amortization_",),
}
DEFAULT_PARTS = [part for part in PARTS if part != "amortization"]
PRIORS = ("standard", "gaussian", "mixture", "flow")  # priors.py

# Of edits along the default direction and along others, and of reconstructions of redrawn faces:
# how their metrics' names end, and what axes call them.
EDITS = {
    "": "edits",
    "_means": "edits (means)",
    "_conditional": "edits (conditional)",
    "_redrawn": "redrawn faces",
}
LIKENESSES = {**EDITS, "_unedited": "unedited faces"}

for _name, _label in (
    ("mig", "mutual information gap"),
    ("sap", "SAP score"),
    ("dci_disentanglement", "DCI disentanglement"),
    ("dci_completeness", "DCI completeness"),
    ("dci_informativeness", "DCI informativeness"),
    ("factorvae_score", "FactorVAE score"),
    ("attribute_separability", "separability of the attributes"),
    *((f"edit_effect{end}", f"effect of {what}") for end, what in EDITS.items()),
    *((f"edit_ssim{end}", f"SSIM of {what}") for end, what in LIKENESSES.items()),
):
    register_metric(Metric(_name, _label, 3, True, in_every_run=False))
for _end, _what in LIKENESSES.items():
    register_metric(Metric(f"edit_psnr{_end}", f"PSNR of {_what}, dB", 2, True, in_every_run=False))
for _name, _label, _digits in (
    ("aggregate_kl", "KL(q(z) || p(z)), nats", 1),
    ("iw_bpd", "bits per dimension, importance-weighted bound", 3),
    ("iw_bpd_1", "bits per dimension, importance-weighted bound of one sample", 3),
    *((f"fid_{kind}", f"FID of {kind}", 2) for kind in ("samples", "reconstructions")),
    *(
        (f"face_distance_{kind}", f"face distance of {kind}", 3)
        for kind in ("samples", "reconstructions")
    ),
    ("identity_distance", "face distance of a reconstruction to its original", 3),
    ("bpd_discretized", "bits per dimension, discretized", 3),
    ("iw_effective_samples", "effective samples of the importance-weighted bound", 1),
    *((f"prior_error_{name}", f"error of the prior {name}", 4) for name in (*PRIORS, "ceiling")),
    *((f"edit_leakage{end}", f"leakage of {what}", 3) for end, what in EDITS.items()),
    *((f"edit_confounding{end}", f"confounding of {what}", 3) for end, what in EDITS.items()),
    *(
        (f"edit_face_distance{end}", f"face distance of {LIKENESSES[end]}", 3)
        for end in ("", "_redrawn", "_unedited")
    ),
    ("amortization_gap", "amortisation gap, bits per dimension", 3),
    ("amortization_bpd", "bits per dimension, amortised posterior", 3),
    ("amortization_bpd_optimized", "bits per dimension, optimised posterior", 3),
):
    register_metric(Metric(_name, _label, _digits, in_every_run=False))


def parts_of(keys: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the parts and the priors that measure these metrics, `val/mig`, and as little else."""
    names = [key.partition("/")[2] for key in keys]
    parts = [part for part, starts in PARTS.items() if any(n.startswith(starts) for n in names)]
    asked = {name.rpartition("_")[2] for name in names if name.startswith("prior_")}
    return parts, [prior for prior in PRIORS if prior in asked]


@dataclass
class MetricsConfig:
    """Settings of `vae evaluate`, `vae sample`, and of objectives that only evaluation measures."""

    # Values here, since older runs have none; train.yaml holds them as the others.
    inception_weights: str = "download"  # FID's network: a file, download or none
    distance_images: int = 10000  # at most this many on each side of a distance; int from 2 to 1e9
    bound_images: int = 200  # at most this many in the importance-weighted bound; int from 1 to 1e9
    counterfactual_images: int = 200  # at most this many faces that are edited; int from 1 to 1e9
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
            counterfactual_images=(1, 10**9),
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
