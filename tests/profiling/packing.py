"""Measure packing of CelebA per core, beside the usual reading image by image.

    python -m tests.profiling.packing data/celeba

The usual way is what a data set class does for each image in every epoch: Pillow decodes,
crops and resizes, torchvision makes a tensor. Packing is all that `vae pack` does in one
process: finding, reading, decoding, cropping, resizing, writing, checksums, flushing to disk.
Both run on one thread, in turns, on the same files of a folder.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

from PIL import Image
from torchvision.transforms.functional import to_tensor

from vae.benchmark.timing import Measure, measure_in_turns, median_ratio, summarize, timer
from vae.data import CelebAConfig, open_or_pack

IMAGES, ROUNDS = 4000, 5


def settings(folder: str, root: str) -> CelebAConfig:
    """The first images of each split, `IMAGES` in all, packed by one process."""
    return CelebAConfig("celeba", root, 64, 2, IMAGES, True, 1, path=folder, crop=148)


def packing(folder: str) -> None:
    """`vae pack celeba`."""
    with tempfile.TemporaryDirectory() as root:
        config = settings(folder, root)
        open_or_pack(config.source(), config)


def usual(files: list[Path]) -> None:
    """Pillow and torchvision, as for one epoch."""
    for file in files:
        image = Image.open(file).convert("RGB").crop((15, 35, 163, 183))
        to_tensor(image.resize((64, 64), Image.Resampling.BILINEAR))


def prepare(folder: str, way: str) -> Measure:
    """Measure images per second."""
    source = settings(folder, "").source()
    images, names = source.layout.store.path, source.layout.names
    files = [images / name for split, n in source.sizes().items() for name in names[split][:n]]
    work = {"usual": partial(usual, files), "packing": partial(packing, folder)}[way]
    seconds = timer(work, "cpu", 1e-3)
    return lambda: {way: len(files) / seconds()}


def main() -> None:
    """Measure in turns and print medians."""
    prepares = {way: partial(prepare, sys.argv[1], way) for way in ("usual", "packing")}
    rates = measure_in_turns(prepares, 1, ROUNDS)
    for way, values in rates.items():
        print(f"{way:8} {summarize(values)['median']:7.0f} images/s a core")
    print(f"ratio    {median_ratio(rates['packing'], rates['usual']):7.2f}")


if __name__ == "__main__":
    main()
