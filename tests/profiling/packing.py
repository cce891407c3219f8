"""Measure packing of CelebA per core, beside the usual reading image by image.

    python -m tests.profiling.packing data/celeba [--images 4000] [--rounds 5]

The usual way is what a data set class does for each image in every epoch: Pillow decodes,
crops and resizes, torchvision makes a tensor. Packing is all that `vae pack` does in one
process: finding, reading, decoding, cropping, resizing, writing, checksums, flushing to disk.
Both run on one thread, in turns, on the same files.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from vae.data import CelebAConfig, open_or_pack


def usual(files: list[Path]) -> None:
    """Pillow and torchvision, as for one epoch."""
    for file in files:
        image = Image.open(file).convert("RGB").crop((15, 35, 163, 183))
        to_tensor(image.resize((64, 64), Image.Resampling.BILINEAR))


def settings(folder: Path, count: int, root: str = "") -> CelebAConfig:
    """The first images of each split, `count` in all, packed by one process."""
    return CelebAConfig("celeba", root, 64, 2, count, True, 1, path=str(folder), crop=148)


def packing(folder: Path, count: int) -> None:
    """`vae pack celeba`."""
    with tempfile.TemporaryDirectory() as root:
        config = settings(folder, count, root)
        open_or_pack(config.source(), config)


def packed_files(folder: Path, count: int) -> list[Path]:
    """The image files that are packed."""
    source = settings(folder, count).source()
    images = source.layout.store.path
    names = source.layout.names
    return [images / name for split, n in source.sizes().items() for name in names[split][:n]]


def seconds(work: Callable[[], None]) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Measure in turns and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="CelebA, with its images in a folder")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    files = packed_files(options.folder, options.images)
    count = len(files)
    usual(files)  # brings the files into memory, for both
    rates: dict[str, list[float]] = {"usual": [], "packing": []}
    for _ in range(options.rounds):
        rates["usual"].append(count / seconds(lambda: usual(files)))
        rates["packing"].append(count / seconds(lambda: packing(options.folder, count)))
    for name, values in rates.items():
        print(f"{name:8} {statistics.median(values):7.0f} images/s a core")
    pairs = zip(rates["packing"], rates["usual"], strict=True)
    print(f"ratio    {statistics.median(ours / theirs for ours, theirs in pairs):7.2f}")


if __name__ == "__main__":
    main()
