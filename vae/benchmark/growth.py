"""Scaling of time and memory with image size, batch size, latent size and widths."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from vae.benchmark.steps import DEFAULT, Setting, image_flops, repeated_step
from vae.benchmark.timing import (
    LINUX,
    Figures,
    Measure,
    Timer,
    run_interleaved,
    running_workers,
    summarize,
)
from vae.utils.devices import keep_memory

IMAGE_SIZES = (32, 64, 128, 256)
BATCHES = (8, 16, 32, 64, 128)
LATENTS = (8, 32, 128, 512)
WIDTHS = (0.5, 1, 2)  # times the widths of the setting

log = logging.getLogger(__name__)


def growth_settings(setting: Setting) -> dict[str, dict[str, Setting]]:
    """Return the settings to measure, by the size that grows."""

    def wider(factor: float) -> tuple[int, ...]:
        return tuple(max(1, round(factor * width)) for width in setting.channels)

    return {
        "image size": {f"{size} px": replace(setting, image_size=size) for size in IMAGE_SIZES},
        "batch": {f"{batch} images": replace(setting, batch=batch) for batch in BATCHES},
        "latents": {
            f"{latents} latents": replace(setting, latent_dim=latents) for latents in LATENTS
        },
        "widths": {f"widths x {f:g}": replace(setting, channels=wider(f)) for f in WIDTHS},
    }


def peak_bytes(device: str) -> int:
    """Return the peak memory in bytes: of tensors on a GPU, else of the process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    if LINUX:  # getrusage would include the parent's peak
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def prepare_growth(setting: Setting) -> Measure:
    """Measure `rate` in images/s, and `bytes`: the peak memory minus the memory at the start."""
    keep_memory()
    before = peak_bytes(setting.device)
    timer = Timer(repeated_step(setting, DEFAULT), setting.device, setting.seconds)

    def measure() -> Figures:
        rate = setting.batch / timer()
        return {"rate": rate, "bytes": peak_bytes(setting.device) - before}

    return measure


def measure_growth(setting: Setting, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Measure all cases one after the other, each in its own process; return rows by axis."""
    return {
        axis: list(
            _with_growth([_measure(label, case, rounds) for label, case in by_label.items()])
        )
        for axis, by_label in growth_settings(setting).items()
    }


def _measure(label: str, setting: Setting, rounds: int) -> dict[str, Any]:
    log.info("growth: %s", label)
    with running_workers({label: partial(prepare_growth, setting)}, setting.threads) as workers:
        series = run_interleaved(rounds, [worker.round for worker in workers])
    return {
        "case": label,
        "batch": setting.batch,
        "images_per_second": summarize(series["rate"]),
        "peak_bytes": max(sample.value for sample in series["bytes"]),
        "flops_per_image": image_flops(setting),
    }


def _with_growth(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Add the growth of time and memory relative to FLOPs, from the previous row.

    1 is linear growth, more is superlinear. Beside the row before, not the first: what a
    step costs whatever its size would hide a bend further up.
    """
    yield rows[0] | {"time_growth": None, "memory_growth": None}
    for before, row in pairwise(rows):
        work = _step_flops(row) / _step_flops(before)
        time = _step_seconds(row) / _step_seconds(before)
        memory = row["peak_bytes"] / max(1, before["peak_bytes"])  # a tiny one may add none
        yield row | {"time_growth": time / work, "memory_growth": memory / work}


def _step_flops(row: dict[str, Any]) -> float:
    return float(row["batch"] * row["flops_per_image"])


def _step_seconds(row: dict[str, Any]) -> float:
    return float(row["batch"] / row["images_per_second"]["median"])
