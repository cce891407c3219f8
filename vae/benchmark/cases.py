"""Single measurements: upsampling layers, matrix products, loading, evaluation, growth."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from vae.benchmark.steps import (
    DEFAULT,
    LOSS,
    Setting,
    build_variant,
    image_flops,
    prepare_training,
)
from vae.benchmark.timing import Measure, measure_in_turns, summarize, timer
from vae.data.images import load_square
from vae.data.loader import TrainingBatches
from vae.data.synthetic.faces import draw, sample_factors
from vae.models.layers import FORMS, UpsampleConv
from vae.training.metrics import EVALUATION_BATCH, evaluate_split
from vae.utils.devices import autocast, keep_memory

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}

WIDTH, HEIGHT, CROP = 178, 218, 148  # CelebA's pictures, and the square that is cut from them
DISTINCT_FACES = 64  # different faces, as drawing so large takes longer than all the rest
JPEG_QUALITY = 90  # about CelebA's bytes a picture
WORKERS = (0, 2)

log = logging.getLogger(__name__)


def upsampling_layers(setting: Setting) -> dict[str, tuple[UpsampleConv, int]]:
    """Return the default model's upsampling layers and the sides of their inputs in pixels.

    By channels and side: `32 to 3 at 32 px`.
    """
    modules = build_variant(setting, DEFAULT).modules()
    layers = [module for module in modules if isinstance(module, UpsampleConv)]
    sides = [setting.image_size // 2**halvings for halvings in range(len(layers), 0, -1)]
    return {
        f"{layer.in_channels} to {layer.out_channels} at {side} px": (layer, side)
        for layer, side in zip(layers, sides, strict=True)
    }


def prepare_layers(setting: Setting) -> Measure:
    """Measure `layers/<layer>/<form>` in milliseconds, forward and backward."""
    keep_memory()

    def maps(channels: int, side: int) -> Tensor:
        values = torch.rand(setting.batch, channels, side, side, device=setting.device)
        return values.contiguous(memory_format=torch.channels_last)

    timers = {}
    for name, (layer, side) in upsampling_layers(setting).items():
        x = maps(layer.in_channels, side).requires_grad_()
        gradient = maps(layer.out_channels, 2 * side)
        for form in FORMS:
            work = partial(forward_backward, layer, form, x, gradient)
            # a fraction of the time: there are many of them
            timers[f"layers/{name}/{form}"] = timer(work, setting.device, setting.seconds / 5)
    return lambda: {name: 1e3 * seconds() for name, seconds in timers.items()}


def forward_backward(layer: UpsampleConv, form: str, x: Tensor, gradient: Tensor) -> None:
    """Run a layer's forward and backward pass in one form."""
    layer.form = form
    torch.autograd.grad(layer(x), [x, *layer.parameters()], gradient)


def prepare_matrix(setting: Setting) -> Measure:
    """Measure `matrix/fp32` and `matrix/bf16` in GFLOP/s: two for each multiply-add."""
    side = setting.matrix_side
    timers = {}
    for name, dtype in PRECISIONS.items():
        a, b = torch.rand(2, side, side, device=setting.device).to(dtype)
        work = partial(torch.mm, a, b, out=torch.empty_like(a))
        timers[f"matrix/{name}"] = timer(work, setting.device, setting.seconds)
    return lambda: {name: 2e-9 * side**3 / seconds() for name, seconds in timers.items()}


def write_pictures(folder: Path, count: int, seed: int) -> list[Path]:
    """Write drawn faces as JPEG files of CelebA's size into a new folder, each several times."""
    factors = torch.from_numpy(sample_factors("rich", min(count, DISTINCT_FACES), seed))
    edge = (HEIGHT - WIDTH) // 2
    faces = draw(factors, HEIGHT)[..., edge : edge + WIDTH]
    pixels = faces.mul(255).round().byte().permute(0, 2, 3, 1).numpy()
    folder.mkdir()
    files = [folder / f"{number:06}.jpg" for number in range(count)]
    for number, file in enumerate(files):
        Image.fromarray(pixels[number % len(pixels)]).save(file, quality=JPEG_QUALITY)
    return files


def pack_array(files: list[Path], image_size: int, folder: Path) -> np.ndarray:
    """Return the same pictures as a packed array: (n, size, size, 3) uint8, memory-mapped."""
    images = np.stack([load_square(file, image_size, CROP) for file in files])
    np.save(folder / "packed.npy", images)
    packed: np.ndarray = np.load(folder / "packed.npy", mmap_mode="r")
    return packed


def torchvision_dataset(folder: Path, image_size: int) -> ImageFolder:
    """Return the pictures in the subfolders of `folder`, decoded one by one by torchvision."""
    crop = [transforms.CenterCrop(CROP), transforms.Resize(image_size), transforms.ToTensor()]
    return ImageFolder(folder, transforms.Compose(crop))


def load_epoch(epoch: Callable[[], Iterable[Tensor]], device: torch.device) -> None:
    """Copy every batch of an epoch to the device."""
    for images in epoch():
        images.to(device, non_blocking=True)


def prepare_loading(setting: Setting, folder: Path) -> Measure:
    """Measure `data/packed` and `data/<n> workers` in images/s, over whole epochs."""
    keep_memory()
    device = torch.device(setting.device)
    # whole batches, as the last, incomplete one would be left out
    count = -(-setting.pictures // setting.batch) * setting.batch
    files = write_pictures(folder / "faces", count, setting.seed)
    packed = pack_array(files, setting.image_size, folder)
    batches = TrainingBatches(packed, setting.batch, setting.seed, flip=False, device=device)
    epochs: dict[str, Callable[[], Iterable[Tensor]]] = {"packed": partial(batches.epoch, 0)}
    for workers in WORKERS:
        loader = DataLoader(
            torchvision_dataset(folder, setting.image_size),
            setting.batch,
            shuffle=True,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,  # their start is not measured
        )
        epochs[f"{workers} workers"] = partial(map, itemgetter(0), loader)  # without the labels
    timers = {
        f"data/{name}": timer(partial(load_epoch, epoch, device), setting.device, setting.seconds)
        for name, epoch in epochs.items()
    }
    return lambda: {name: count / seconds() for name, seconds in timers.items()}


def prepare_evaluation(setting: Setting) -> Measure:
    """Measure `evaluation` in images/s, with the batch size of every run's validation."""
    keep_memory()
    model = build_variant(setting, DEFAULT)
    images = setting.inputs(EVALUATION_BATCH)[0].contiguous(memory_format=torch.channels_last)
    context = autocast(DEFAULT.precision, torch.device(setting.device))
    work = partial(evaluate_split, model, [images], LOSS, context)
    seconds = timer(work, setting.device, setting.seconds)
    return lambda: {"evaluation": EVALUATION_BATCH / seconds()}


def peak_bytes(device: str) -> int:
    """Return the peak memory in bytes: of tensors on a GPU, else of the process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    if sys.platform == "linux":  # getrusage would include the parent's peak
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes, on macOS


def growth_settings(setting: Setting) -> dict[str, dict[str, Setting]]:
    """Return the settings to measure, by the size that grows and by case."""
    widths = {factor: tuple(round(factor * w) for w in setting.channels) for factor in (0.5, 1, 2)}
    return {
        "image size": {f"{n} px": replace(setting, image_size=n) for n in (32, 64, 128, 256)},
        "batch": {f"{n} images": replace(setting, batch=n) for n in (8, 16, 32, 64, 128)},
        "latents": {f"{n} latents": replace(setting, latent_dim=n) for n in (8, 32, 128, 512)},
        "widths": {f"widths x {f:g}": replace(setting, channels=w) for f, w in widths.items()},
    }


def prepare_growth(setting: Setting) -> Measure:
    """Measure the default training step, and `bytes`: its peak memory beyond that at the start."""
    before = peak_bytes(setting.device)
    measure = prepare_training(setting, DEFAULT)
    return lambda: {**measure(), "bytes": peak_bytes(setting.device) - before}


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
                    "images_per_second": summarize(series[f"training/{DEFAULT.name}"]),
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
