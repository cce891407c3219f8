"""Evaluation: what `val/` metrics cost."""

from __future__ import annotations

import torch

from vae.benchmark.setting import LOSS, Setting
from vae.benchmark.timing import Timer
from vae.benchmark.training import DEFAULT, build
from vae.benchmark.workers import Figures, Measure
from vae.devices import autocast, keep_memory
from vae.metrics import EVALUATION_BATCH, evaluate


def prepare_evaluation(setting: Setting) -> Measure:
    """Measures `evaluation` in images/s, in batches of the size that every run evaluates in."""
    keep_memory()
    model = build(setting, DEFAULT)
    images = setting.images(EVALUATION_BATCH).contiguous(memory_format=torch.channels_last)
    context = autocast(DEFAULT.precision, torch.device(setting.device))
    timer = Timer(lambda: evaluate(model, [images], LOSS, context), setting.device, setting.seconds)

    def measure() -> Figures:
        return {"evaluation": EVALUATION_BATCH / timer()}

    return measure
