"""The machine's peak, as a matrix product reaches it."""

from __future__ import annotations

from functools import partial

import torch

from vae.benchmark.setting import Setting
from vae.benchmark.timing import Timer
from vae.benchmark.workers import Figures, Measure

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def prepare_matrix(setting: Setting) -> Measure:
    """Measures `matrix/fp32` and `matrix/bf16` in GFLOP/s: two for each multiply-add."""
    side = setting.matrix_side
    timers = {}
    for name, dtype in PRECISIONS.items():
        a, b = torch.rand(2, side, side, device=setting.device).to(dtype)
        work = partial(torch.mm, a, b, out=torch.empty_like(a))
        timers[name] = Timer(work, setting.device, setting.seconds)

    def measure() -> Figures:
        return {f"matrix/{name}": 2e-9 * side**3 / timer() for name, timer in timers.items()}

    return measure
