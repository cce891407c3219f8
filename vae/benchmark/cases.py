"""Single measurements: upsampling layers, matrix products, loading, evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from vae.benchmark.steps import DEFAULT, LOSS, Setting, build_variant
from vae.benchmark.timing import Measure, Timer
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


def upsampling_layers(setting: Setting) -> dict[str, tuple[UpsampleConv, int]]:
    """Return the default model's upsampling layers and the sides of their inputs in pixels.

    By channels and side: `32 to 3 at 32 px`.
    """
    modules = build_variant(setting, DEFAULT).modules()
    layers = [module for module in modules if isinstance(module, UpsampleConv)]
    smallest = setting.image_size // 2 ** len(setting.channels)
    found = {}
    for doublings, layer in enumerate(layers):
        side = smallest * 2**doublings
        found[f"{layer.in_channels} to {layer.out_channels} at {side} px"] = (layer, side)
    return found


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
            timers[f"layers/{name}/{form}"] = Timer(work, setting.device, setting.seconds / 5)
    return lambda: {name: 1e3 * timer() for name, timer in timers.items()}


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
        timers[name] = Timer(work, setting.device, setting.seconds)
    return lambda: {f"matrix/{name}": 2e-9 * side**3 / timer() for name, timer in timers.items()}


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
        name: Timer(partial(load_epoch, epoch, device), setting.device, setting.seconds)
        for name, epoch in epochs.items()
    }
    return lambda: {f"data/{name}": count / timer() for name, timer in timers.items()}


def prepare_evaluation(setting: Setting) -> Measure:
    """Measure `evaluation` in images/s, with the batch size of every run's validation."""
    keep_memory()
    model = build_variant(setting, DEFAULT)
    images = setting.images(EVALUATION_BATCH).contiguous(memory_format=torch.channels_last)
    context = autocast(DEFAULT.precision, torch.device(setting.device))
    work = partial(evaluate_split, model, [images], LOSS, context)
    timer = Timer(work, setting.device, setting.seconds)
    return lambda: {"evaluation": EVALUATION_BATCH / timer()}
