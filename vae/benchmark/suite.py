"""The whole benchmark: everything measured in turns, and what comes out as one record."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vae.benchmark.evaluation import prepare_evaluation
from vae.benchmark.growth import measure_growth
from vae.benchmark.layers import prepare_layers, upsampling_layers
from vae.benchmark.loading import WORKERS, prepare_loading
from vae.benchmark.matrix import PRECISIONS, prepare_matrix
from vae.benchmark.quality import measure_quality
from vae.benchmark.setting import Setting
from vae.benchmark.statistics import Series, figure, ratio
from vae.benchmark.training import (
    COMPILED,
    DEFAULT,
    PLAIN,
    VARIANTS,
    Variant,
    image_flops,
    prepare_training,
)
from vae.benchmark.workers import Prepare, take_turns, working
from vae.devices import device_name, pick_precision
from vae.models.layers import FORMS, fastest_form

log = logging.getLogger(__name__)


def run_benchmark(
    setting: Setting,
    rounds: int,
    compiled: bool = False,
    growth: bool = False,
    quality: int = 0,
) -> dict[str, Any]:
    """Measure everything.

    Args:
        setting: the sizes, and where to measure.
        rounds: how often everything has its turn.
        compiled: also the compiled training step.
        growth: also how time and memory grow with the sizes.
        quality: also the time to the plain twin's quality, over so many seeds.

    Returns:
        A record fit for JSON: `machine`, `setting`, `rounds`, and rows for each of
        `training`, `layers`, `matrix`, `data`, `evaluation`, `growth` and `quality`.
    """
    variants = (*VARIANTS, COMPILED) if compiled else VARIANTS
    with tempfile.TemporaryDirectory() as folder:
        prepares: dict[str, Prepare] = {
            variant.name: partial(prepare_training, setting, variant) for variant in variants
        }
        prepares["layers"] = partial(prepare_layers, setting)
        prepares["matrix"] = partial(prepare_matrix, setting)
        prepares["data"] = partial(prepare_loading, setting, Path(folder))
        prepares["evaluation"] = partial(prepare_evaluation, setting)
        log.info("starting: %s", ", ".join(prepares))
        with working(prepares, setting.threads) as workers:
            log.info("measuring: %d rounds", rounds)
            series = take_turns(rounds, [worker.round for worker in workers])
    flops = image_flops(setting)
    return {
        "machine": machine(setting),
        "setting": setting.as_record(),
        "rounds": rounds,
        "flops_per_image": flops,
        "training": [training_row(series, variant, flops, setting.device) for variant in variants],
        "layers": list(layer_rows(series, setting)),
        "matrix": [
            {"precision": name, "gflops_per_second": figure(series[f"matrix/{name}"])}
            for name in PRECISIONS
        ],
        "data": list(data_rows(series)),
        "evaluation": {
            "images_per_second": figure(series["evaluation"]),
            "ratio_to_training": ratio(series["evaluation"], default_training(series)),
        },
        "growth": measure_growth(setting, rounds) if growth else None,
        "quality": measure_quality(setting, quality) if quality else None,
    }


def machine(setting: Setting) -> dict[str, Any]:
    """What was measured on."""
    cuda = setting.device == "cuda"
    return {
        "cpu": device_name(torch.device("cpu")),
        "cores": os.cpu_count(),
        "threads": setting.threads or torch.get_num_threads(),
        "device": device_name(torch.device("cuda")) if cuda else setting.device,
        "torch": torch.__version__,
    }


def default_training(series: dict[str, Series]) -> Series:
    """Images/s of training as it is done by default: what the rest is compared with."""
    return series[f"training/{DEFAULT.name}"]


def training_row(
    series: dict[str, Series], variant: Variant, flops: int, device: str
) -> dict[str, Any]:
    """A variant's speed, against the plain twin's and the machine's peak in its precision.

    Args:
        flops: of one image, in the folded step: the plain twin's own count is higher.
        device: cpu, cuda or mps, which decides what precision `auto` is.
    """
    precision = pick_precision(variant.precision, torch.device(device))
    rates = series[f"training/{variant.name}"]
    compiling = series["compile_seconds"][0].value if variant.compiled else None
    return {
        "variant": variant.name,
        "precision": precision,
        "images_per_second": figure(rates),
        "ratio": ratio(rates, series[f"training/{PLAIN.name}"]),
        "share_of_peak": ratio(rates, series[f"matrix/{precision}"]) * flops / 1e9,
        "compile_seconds": compiling,
    }


def layer_rows(series: dict[str, Series], setting: Setting) -> Iterator[dict[str, Any]]:
    """Each layer in each form, against its plain form, and which of them the rule chooses."""
    for name, layer in upsampling_layers(setting).items():
        sizes = (setting.batch, layer.side, layer.module.out_channels)
        chosen = fastest_form(setting.device, *sizes)
        for form in FORMS:
            samples = series[f"layers/{name}/{form}"]
            yield {
                "layer": name,
                "form": form,
                "milliseconds": figure(samples),
                "ratio": ratio(series[f"layers/{name}/plain"], samples),
                "chosen": form == chosen,
            }


def data_rows(series: dict[str, Series]) -> Iterator[dict[str, Any]]:
    """Each way of loading, against decoding in the same process, and beside training."""
    names: Sequence[str] = ["packed", *(f"{workers} workers" for workers in WORKERS)]
    for name in names:
        rates = series[f"data/{name}"]
        yield {
            "loading": name,
            "images_per_second": figure(rates),
            "ratio": ratio(rates, series["data/0 workers"]),
            "share_of_step": ratio(default_training(series), rates),
        }
