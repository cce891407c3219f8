"""The whole benchmark: interleaved measurements, one record, printed as tables."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from textwrap import indent
from typing import Any

import torch

from vae.benchmark import cases
from vae.benchmark.quality import measure_quality
from vae.benchmark.steps import (
    COMPILED,
    DEFAULT,
    PLAIN,
    VARIANTS,
    Setting,
    Variant,
    image_flops,
    prepare_training,
)
from vae.benchmark.timing import Prepare, Series, measure_in_turns, median_ratio, summarize
from vae.models.layers import FORMS, fastest_form
from vae.utils.devices import device_name, pick_precision
from vae.utils.tables import format_table

DEFAULT_TRAINING = f"training/{DEFAULT.name}"  # the reference of loading and evaluation

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
        quality: number of seeds for the time to the plain twin's quality; 0 skips it.

    Returns:
        A record fit for JSON: `machine`, `setting`, `rounds`, and rows for each of
        `training`, `layers`, `matrix`, `data`, `evaluation`, `growth` and `quality`.
    """
    variants = (*VARIANTS, COMPILED) if compiled else VARIANTS
    with tempfile.TemporaryDirectory() as folder:
        prepares: dict[str, Prepare] = {
            **{variant.name: partial(prepare_training, setting, variant) for variant in variants},
            "layers": partial(cases.prepare_layers, setting),
            "matrix": partial(cases.prepare_matrix, setting),
            "data": partial(cases.prepare_loading, setting, Path(folder)),
            "evaluation": partial(cases.prepare_evaluation, setting),
        }
        log.info("measuring in %d rounds: %s", rounds, ", ".join(prepares))
        series = measure_in_turns(prepares, setting.threads, rounds)
    flops = image_flops(setting)
    return {
        "machine": describe_machine(setting),
        "setting": asdict(setting),
        "rounds": rounds,
        "flops_per_image": flops,
        "training": [training_row(series, variant, flops, setting.device) for variant in variants],
        "layers": list(layer_rows(series, setting)),
        "matrix": [
            {"precision": name, "gflops_per_second": summarize(series[f"matrix/{name}"])}
            for name in cases.PRECISIONS
        ],
        "data": list(data_rows(series)),
        "evaluation": {
            "images_per_second": summarize(series["evaluation"]),
            "ratio_to_training": median_ratio(series["evaluation"], series[DEFAULT_TRAINING]),
        },
        "growth": cases.measure_growth(setting, rounds) if growth else None,
        "quality": measure_quality(setting, quality) if quality else None,
    }


def describe_machine(setting: Setting) -> dict[str, Any]:
    """Describe the machine."""
    cuda = setting.device == "cuda"
    return {
        "cpu": device_name(torch.device("cpu")),
        "cores": os.cpu_count(),
        "threads": setting.threads or torch.get_num_threads(),
        "device": device_name(torch.device("cuda")) if cuda else setting.device,
        "torch": torch.__version__,
    }


def training_row(series: Series, variant: Variant, flops: int, device: str) -> dict[str, Any]:
    """Return a variant's speed relative to the plain twin and to the machine's peak.

    Args:
        flops: of one image, in the folded step: the plain twin's own count is higher.
        device: cpu, cuda or mps, which decides what precision `auto` is.
    """
    precision = pick_precision(variant.precision, torch.device(device))
    rates = series[f"training/{variant.name}"]
    return {
        "variant": variant.name,
        "precision": precision,
        "images_per_second": summarize(rates),
        "ratio": median_ratio(rates, series[f"training/{PLAIN.name}"]),
        "share_of_peak": median_ratio(rates, series[f"matrix/{precision}"]) * flops / 1e9,
        "compile_seconds": series["compile_seconds"][0] if variant.compiled else None,
    }


def layer_rows(series: Series, setting: Setting) -> Iterator[dict[str, Any]]:
    """Yield each layer in each form, relative to its plain form, and the chosen form."""
    for name, (layer, side) in cases.upsampling_layers(setting).items():
        chosen = fastest_form(setting.device, setting.batch, side, layer.out_channels)
        for form in FORMS:
            times = series[f"layers/{name}/{form}"]
            yield {
                "layer": name,
                "form": form,
                "milliseconds": summarize(times),
                "ratio": median_ratio(series[f"layers/{name}/plain"], times),
                "chosen": form == chosen,
            }


def data_rows(series: Series) -> Iterator[dict[str, Any]]:
    """Yield each way of loading, relative to decoding in the same process and to training."""
    for name in ("packed", *(f"{workers} workers" for workers in cases.WORKERS)):
        rates = series[f"data/{name}"]
        yield {
            "loading": name,
            "images_per_second": summarize(rates),
            "ratio": median_ratio(rates, series["data/0 workers"]),
            "share_of_step": median_ratio(series[DEFAULT_TRAINING], rates),
        }


def format_benchmark(found: dict[str, Any]) -> str:
    """Format the record of `run_benchmark` as tables, a column per key of their rows."""
    sizes, place = found["setting"], found["machine"]
    step = f"training step, {sizes['batch']} images of {sizes['image_size']} px"
    flops = f"{found['flops_per_image'] / 1e6:,.0f} MFLOP per image when folded"
    sections = {
        f"{step}, {flops}; ratio to plain": found["training"],
        "upsampling layers, forward and backward; ratio to plain": found["layers"],
        "the machine's peak: matrix products": found["matrix"],
        "loading, packed or from JPEG files; ratio to 0 workers": found["data"],
        "evaluation: the metrics of a split": [found["evaluation"]],
    }
    for axis, rows in (found["growth"] or {}).items():
        title = f"growth with {axis}; relative to the FLOPs, from the row before: 1 is linear"
        sections[title] = [
            {
                "case": row["case"],
                "images_per_second": row["images_per_second"],
                "MFLOP_per_image": row["flops_per_image"] / 1e6,
                "MB_per_image": row["peak_bytes"] / row["batch"] / 1e6,
                "time_growth": row["time_growth"],
                "memory_growth": row["memory_growth"],
            }
            for row in rows
        ]
    if found["quality"]:
        title = "time to the validation PSNR that the plain means have after 1,000 steps"
        sections[title] = found["quality"]
    intro = (
        f"{place['cpu']}, {place['cores']} cores; on {place['device']} with {place['threads']} "
        f"threads; torch {place['torch']}\n"
        f"{found['rounds']} interleaved rounds: medians (quartiles)"
    )
    return "\n\n".join([intro, *(f"{title}\n{_table(sections[title])}" for title in sections)])


def _table(rows: list[dict[str, Any]]) -> str:
    """Format rows of equal keys, their texts first; lists of rounds are for --json alone."""
    keys = [key for key, value in rows[0].items() if not isinstance(value, list)]
    heads = [key.replace("_per_", "/").replace("/second", "/s").replace("_", " ") for key in keys]
    cells = [[_cell(key, row[key]) for key in keys] for row in rows]
    texts = sum(isinstance(rows[0][key], str) for key in keys)
    return indent(format_table([heads, *cells], left=texts), "  ")


def _cell(key: str, value: Any) -> str:
    """Format a value; a summary as its median and quartiles."""
    match value:
        case dict():
            low, median, high = (format_number(value[name]) for name in ("low", "median", "high"))
            return f"{median} ({low} to {high})"
        case bool():
            return "*" * value
        case float():
            return f"{value:.1%}" if key.startswith("share_") else format_number(value)
        case _:
            return "" if value is None else str(value)


def format_number(value: float) -> str:
    """Format with three significant digits: 1,234 and 12.3 and 0.12."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"
