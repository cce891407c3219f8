"""The whole benchmark: interleaved measurements, one record, printed as tables."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from textwrap import indent
from typing import Any

import torch

from vae.benchmark.cases import (
    PRECISIONS,
    WORKERS,
    prepare_evaluation,
    prepare_layers,
    prepare_loading,
    prepare_matrix,
    upsampling_layers,
)
from vae.benchmark.growth import measure_growth
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
from vae.benchmark.timing import (
    BUSY_CORES,
    MIN_QUIET_ROUNDS,
    Prepare,
    Series,
    median_ratio,
    run_interleaved,
    running_workers,
    summarize,
)
from vae.models.layers import FORMS, fastest_form
from vae.utils.devices import device_name, pick_precision
from vae.utils.tables import format_table

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
            variant.name: partial(prepare_training, setting, variant) for variant in variants
        }
        prepares["layers"] = partial(prepare_layers, setting)
        prepares["matrix"] = partial(prepare_matrix, setting)
        prepares["data"] = partial(prepare_loading, setting, Path(folder))
        prepares["evaluation"] = partial(prepare_evaluation, setting)
        log.info("starting: %s", ", ".join(prepares))
        with running_workers(prepares, setting.threads) as workers:
            log.info("measuring: %d rounds", rounds)
            series = run_interleaved(rounds, [worker.round for worker in workers])
    flops = image_flops(setting)
    return {
        "machine": describe_machine(setting),
        "setting": setting.as_record(),
        "rounds": rounds,
        "flops_per_image": flops,
        "training": [training_row(series, variant, flops, setting.device) for variant in variants],
        "layers": list(layer_rows(series, setting)),
        "matrix": [
            {"precision": name, "gflops_per_second": summarize(series[f"matrix/{name}"])}
            for name in PRECISIONS
        ],
        "data": list(data_rows(series)),
        "evaluation": {
            "images_per_second": summarize(series["evaluation"]),
            "ratio_to_training": median_ratio(series["evaluation"], default_training(series)),
        },
        "growth": measure_growth(setting, rounds) if growth else None,
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


def default_training(series: dict[str, Series]) -> Series:
    """Return the images/s of default training, the reference of the other figures."""
    return series[f"training/{DEFAULT.name}"]


def training_row(
    series: dict[str, Series], variant: Variant, flops: int, device: str
) -> dict[str, Any]:
    """Return a variant's speed relative to the plain twin and to the machine's peak.

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
        "images_per_second": summarize(rates),
        "ratio": median_ratio(rates, series[f"training/{PLAIN.name}"]),
        "share_of_peak": median_ratio(rates, series[f"matrix/{precision}"]) * flops / 1e9,
        "compile_seconds": compiling,
    }


def layer_rows(series: dict[str, Series], setting: Setting) -> Iterator[dict[str, Any]]:
    """Yield each layer in each form, relative to its plain form, and the chosen form."""
    for name, layer in upsampling_layers(setting).items():
        sizes = (setting.batch, layer.side, layer.module.out_channels)
        chosen = fastest_form(setting.device, *sizes)
        for form in FORMS:
            samples = series[f"layers/{name}/{form}"]
            yield {
                "layer": name,
                "form": form,
                "milliseconds": summarize(samples),
                "ratio": median_ratio(series[f"layers/{name}/plain"], samples),
                "chosen": form == chosen,
            }


def data_rows(series: dict[str, Series]) -> Iterator[dict[str, Any]]:
    """Yield each way of loading, relative to decoding in the same process and to training."""
    names: Sequence[str] = ["packed", *(f"{workers} workers" for workers in WORKERS)]
    for name in names:
        rates = series[f"data/{name}"]
        yield {
            "loading": name,
            "images_per_second": summarize(rates),
            "ratio": median_ratio(rates, series["data/0 workers"]),
            "share_of_step": median_ratio(default_training(series), rates),
        }


def format_benchmark(found: dict[str, Any]) -> str:
    """Format the record of `run_benchmark` as tables."""
    sizes, place = found["setting"], found["machine"]
    parts = [
        f"{place['cpu']}, {place['cores']} cores; on {place['device']} with {place['threads']} "
        f"threads; torch {place['torch']}\n"
        f"{found['rounds']} interleaved rounds: medians (quartiles). Rounds in which other "
        f"processes used over {BUSY_CORES:g} of a core\nare dropped; if fewer than "
        f"{MIN_QUIET_ROUNDS} would remain, all are kept and marked !",
        f"training step, {sizes['batch']} images of {sizes['image_size']} px, "
        f"{found['flops_per_image'] / 1e6:,.0f} MFLOP per image when folded\n"
        + _table(_training(found["training"])),
        "upsampling layers, forward and backward; * is the form that the rule chooses\n"
        + _table(_layers(found["layers"])),
        "the machine's peak: matrix products\n" + _table(_matrix(found["matrix"])),
        "loading images\n" + _table(_data(found["data"])),
        "evaluation\n" + _table(_evaluation(found["evaluation"])),
    ]
    for axis, rows in (found["growth"] or {}).items():
        title = f"growth with {axis}; beside linear: from the row before, 1 is as the FLOPs"
        parts.append(f"{title}\n{_table(_growth(rows))}")
    if rows := found["quality"]:
        title = "time to the validation PSNR that the plain means have after 1,000 steps"
        parts.append(f"{title}: medians (least to most)\n{_table(_quality(rows))}")
    return "\n\n".join(parts)


def _table(rows: list[list[str]]) -> str:
    """Format a table, indented."""
    return indent(format_table(rows), "  ")


def format_number(value: float) -> str:
    """Format with three significant digits: 1,234 and 12.3 and 0.12."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def _figure(figure: dict[str, Any]) -> list[str]:
    """Return cells: median, quartiles, rounds that count."""
    count = len(figure["values"])
    disturbed = figure["dropped"] == 0 and any(others > BUSY_CORES for others in figure["others"])
    return [
        format_number(figure["median"]),
        f"({format_number(figure['low'])} to {format_number(figure['high'])})",
        f"{count - figure['dropped']} of {count}{'!' * disturbed}",
    ]


def _training(rows: list[dict[str, Any]]) -> list[list[str]]:
    table = [["variant", "in", "images/s", "", "rounds"]]
    table[0] += ["against plain", "of the peak", "compiling, s"]
    for row in rows:
        seconds = row["compile_seconds"]
        cells = [*_figure(row["images_per_second"]), format_number(row["ratio"])]
        peak = format_number(row["share_of_peak"])
        cells += [peak, "" if seconds is None else format_number(seconds)]
        table.append([row["variant"], row["precision"], *cells])
    return table


def _layers(rows: list[dict[str, Any]]) -> list[list[str]]:
    table = [["layer and form", "ms", "", "rounds", "against plain"]]
    for row in rows:
        name = f"{row['layer']}, {row['form']}{' *' * row['chosen']}"
        table.append([name, *_figure(row["milliseconds"]), format_number(row["ratio"])])
    return table


def _matrix(rows: list[dict[str, Any]]) -> list[list[str]]:
    table = [["precision", "GFLOP/s", "", "rounds"]]
    return table + [[row["precision"], *_figure(row["gflops_per_second"])] for row in rows]


def _data(rows: list[dict[str, Any]]) -> list[list[str]]:
    table = [["loading", "images/s", "", "rounds", "against 0 workers", "of a training step"]]
    for row in rows:
        name = "packed" if row["loading"] == "packed" else f"JPEG files, {row['loading']}"
        cells = [*_figure(row["images_per_second"]), format_number(row["ratio"])]
        table.append([name, *cells, f"{row['share_of_step']:.1%}"])
    return table


def _evaluation(row: dict[str, Any]) -> list[list[str]]:
    header = ["of", "images/s", "", "rounds", "against training"]
    cells = [*_figure(row["images_per_second"]), format_number(row["ratio_to_training"])]
    return [header, ["the metrics of a split", *cells]]


def _growth(rows: list[dict[str, Any]]) -> list[list[str]]:
    header = ["case", "images/s", "", "rounds", "MFLOP/image", "MB/image"]
    table = [[*header, "time, beside linear", "memory, beside linear"]]
    for row in rows:
        per_image = (row["flops_per_image"], row["peak_bytes"] / row["batch"])
        growth = (row["time_growth"], row["memory_growth"])
        millions = [format_number(value / 1e6) for value in per_image]
        cells = [*_figure(row["images_per_second"]), *millions]
        cells += ["" if value is None else format_number(value) for value in growth]
        table.append([row["case"], *cells])
    return table


def _quality(rows: list[dict[str, Any]]) -> list[list[str]]:
    table = [["recipe", "reached", "dB", "steps", "seconds", "", "times as fast", ""]]
    for recipe in dict.fromkeys(row["means"] for row in rows):
        runs = [row for row in rows if row["means"] == recipe]
        reached = [row for row in runs if row["seconds"] is not None]
        cells = [f"{len(reached)} of {len(runs)}"]
        if reached:
            cells += [_spread(reached, "target")[0], _spread(reached, "steps")[0]]
            cells += [*_spread(reached, "seconds"), *_spread(reached, "ratio")]
        table.append([recipe, *cells, *[""] * (7 - len(cells))])
    return table


def _spread(rows: list[dict[str, Any]], key: str) -> list[str]:
    """Return cells: median, smallest to largest."""
    values = [row[key] for row in rows]
    low, high = format_number(min(values)), format_number(max(values))
    return [format_number(median(values)), f"({low} to {high})"]
