"""Training: the loop, optimizers, metrics."""

from vae.training.base import TrainerConfig
from vae.training.metrics import Evaluation, evaluate_split  # its columns come before others'
from vae.utils.registry import import_modules

__all__ = ["Evaluation", "TrainerConfig", "evaluate_split"]

import_modules(__name__)
