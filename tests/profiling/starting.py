"""Measure the start on CelebA beyond the imports, and the reading of its lists.

    python -m tests.profiling.starting data/celeba

Each round is a process of its own. The images must be packed: `vae pack celeba` does it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

import torch

from vae.benchmark.cases import peak_bytes
from vae.benchmark.timing import Measure, measure_in_turns, summarize
from vae.data import CelebAConfig, open_data
from vae.data.loader import TrainingBatches

ROUNDS = 5


def read_lists(config: CelebAConfig) -> None:
    source = config.source()
    for split in source.sizes():
        source.labels(split)


def load_first_batch(config: CelebAConfig) -> None:
    images = open_data(config).images["train"]
    next(TrainingBatches(images, 32, 0, True, torch.device("cpu")).epoch(0))


def prepare(folder: str, work: Callable[[CelebAConfig], None]) -> Measure:
    """Measure seconds and bytes."""
    config = CelebAConfig("celeba", "data", 64, 32, None, True, None, path=folder, crop=148)

    def measure() -> dict[str, float]:
        memory, started = peak_bytes("cpu"), time.perf_counter()
        work(config)
        return {"seconds": time.perf_counter() - started, "bytes": peak_bytes("cpu") - memory}

    return measure


def main() -> None:
    """Measure each in processes of their own and print medians."""
    for name, work in (("lists", read_lists), ("first batch", load_first_batch)):
        prepares = {name: partial(prepare, sys.argv[1], work)}
        rounds = [measure_in_turns(prepares, None, 1) for _ in range(ROUNDS)]
        medians = [summarize([r[key][0] for r in rounds])["median"] for key in ("seconds", "bytes")]
        print(f"{name:12} {medians[0]:5.2f} s {medians[1] / 1e6:6.0f} MB")


if __name__ == "__main__":
    main()
