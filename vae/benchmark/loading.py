"""Loading images: the packed cache against decoding JPEG files in every epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from vae.benchmark.setting import Setting
from vae.benchmark.timing import Timer
from vae.benchmark.workers import Figures, Measure
from vae.data.faces import draw, sample_factors
from vae.data.images import load_square
from vae.data.loader import TrainingBatches
from vae.devices import keep_memory

WIDTH, HEIGHT, CROP = 178, 218, 148  # CelebA's pictures, and the square that is cut from them
DRAWN = 64  # different faces, as drawing so large takes longer than all the rest
QUALITY = 90  # about CelebA's bytes a picture
WORKERS = (0, 2)


class Files(Dataset[Tensor]):
    """Pictures decoded one by one, as a torchvision data set does it.

    Args:
        files: JPEG, at least `CROP` pixels in both directions.
        image_size: of the result, pixels.
    """

    def __init__(self, files: list[Path], image_size: int) -> None:
        self.files = files
        self.transform: Callable[[Image.Image], Tensor] = transforms.Compose(
            [transforms.CenterCrop(CROP), transforms.Resize(image_size), transforms.ToTensor()]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Tensor:
        with Image.open(self.files[number]) as image:
            return self.transform(image.convert("RGB"))


def write_pictures(folder: Path, count: int, seed: int) -> list[Path]:
    """Drawn faces as JPEG files of CelebA's size, each face several times."""
    factors = torch.from_numpy(sample_factors("rich", min(count, DRAWN), seed))
    edge = (HEIGHT - WIDTH) // 2
    faces = draw(factors, HEIGHT)[..., edge : edge + WIDTH]
    pixels = faces.mul(255).round().byte().permute(0, 2, 3, 1).numpy()
    files = [folder / f"{number:06}.jpg" for number in range(count)]
    for number, file in enumerate(files):
        Image.fromarray(pixels[number % len(pixels)]).save(file, quality=QUALITY)
    return files


def pack(files: list[Path], image_size: int, folder: Path) -> np.ndarray:
    """The same pictures as the packed cache has them: (n, size, size, 3) uint8, memory-mapped."""
    images = np.stack([load_square(file, image_size, CROP) for file in files])
    np.save(folder / "packed.npy", images)
    packed: np.ndarray = np.load(folder / "packed.npy", mmap_mode="r")
    return packed


def go_through(batches: Iterable[Tensor], device: torch.device) -> None:
    """Have every batch on the device once."""
    for images in batches:
        images.to(device, non_blocking=True)


def prepare_loading(setting: Setting, folder: Path) -> Measure:
    """Measures `data/packed` and `data/<n> workers` in images/s, on the device, in epochs."""
    keep_memory()
    device = torch.device(setting.device)
    # whole batches, as the last, incomplete one would be left out
    count = -(-setting.pictures // setting.batch) * setting.batch
    files = write_pictures(folder, count, setting.seed)
    packed = pack(files, setting.image_size, folder)
    batches = TrainingBatches(packed, setting.batch, setting.seed, flip=False, device=device)
    epochs: dict[str, Callable[[], None]] = {"packed": lambda: go_through(batches.epoch(0), device)}
    for workers in WORKERS:
        loader = DataLoader(
            Files(files, setting.image_size),
            setting.batch,
            shuffle=True,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,  # their start is not what is measured
        )
        epochs[f"{workers} workers"] = partial(go_through, loader, device)
    timers = {name: Timer(epoch, setting.device, setting.seconds) for name, epoch in epochs.items()}

    def measure() -> Figures:
        return {f"data/{name}": count / timer() for name, timer in timers.items()}

    return measure
