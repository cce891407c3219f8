"""Scaling of time and memory with image size, batch size, latent size and widths."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from vae.benchmark.steps import DEFAULT, Setting, image_flops, repeated_step
from vae.benchmark.timing import Measure, Timer, measure_in_turns, summarize
from vae.utils.devices import keep_memory

IMAGE_SIZES = (32, 64, 128, 256)
BATCHES = (8, 16, 32, 64, 128)
LATENTS = (8, 32, 128, 512)
WIDTHS = (0.5, 1, 2)  # times the widths of the setting

log = logging.getLogger(__name__)


def growth_settings(setting: Setting) -> dict[str, dict[str, Setting]]:
    """Return the settings to measure, by the size that grows."""
    widths = {factor: tuple(round(factor * w) for w in setting.channels) for factor in WIDTHS}
    return {
        "image size": {f"{size} px": replace(setting, image_size=size) for size in IMAGE_SIZES},
        "batch": {f"{batch} images": replace(setting, batch=batch) for batch in BATCHES},
        "latents": {
            f"{latents} latents": replace(setting, latent_dim=latents) for latents in LATENTS
        },
        "widths": {f"widths x {f:g}": replace(setting, channels=w) for f, w in widths.items()},
    }


def peak_bytes(device: str) -> int:
    """Return the peak memory in bytes: of tensors on a GPU, else of the process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    if sys.platform == "linux":  # getrusage would include the parent's peak
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes, on macOS


def prepare_growth(setting: Setting) -> Measure:
    """Measure `rate` in images/s, and `bytes`: the peak memory minus the memory at the start."""
    keep_memory()
    before = peak_bytes(setting.device)
    timer = Timer(repeated_step(setting, DEFAULT), setting.device, setting.seconds)
    return lambda: {"rate": setting.batch / timer(), "bytes": peak_bytes(setting.device) - before}


def measure_growth(setting: Setting, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Measure all cases one after the other, each in its own process; return rows by axis."""
    found = {}
    for axis, cases in growth_settings(setting).items():
        rows = []
        for label, case in cases.items():
            log.info("growth: %s", label)
            series = measure_in_turns({label: partial(prepare_growth, case)}, case.threads, rounds)
            rows.append(
                {
                    "case": label,
                    "batch": case.batch,
                    "images_per_second": summarize(series["rate"]),
                    "peak_bytes": max(series["bytes"]),
                    "flops_per_image": image_flops(case),
                }
            )
        found[axis] = with_growth(rows)
    return found


def with_growth(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the growth of time and memory relative to FLOPs, from the previous row.

    1 is linear growth, more is superlinear. Beside the row before, not the first: what a
    step costs whatever its size would hide a bend further up.
    """
    found = [rows[0] | {"time_growth": None, "memory_growth": None}]
    for before, row in pairwise(rows):
        images = row["batch"] / before["batch"]
        work = row["flops_per_image"] / before["flops_per_image"]  # of an image
        time = before["images_per_second"]["median"] / row["images_per_second"]["median"]
        memory = row["peak_bytes"] / max(1, before["peak_bytes"])  # a tiny one may add none
        found.append(row | {"time_growth": time / work, "memory_growth": memory / images / work})
    return found
