"""Measure the start on CelebA beyond the imports, and the reading of its lists.

    python -m tests.profiling.starting data/celeba [--root data] [--rounds 5]

Each round is a process of its own. The images must be packed: `vae pack celeba` does it.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

SETTINGS = {"image_size": 64, "batch_size": 32, "num_images": None, "flip": True, "crop": 148}


def peak_mb() -> float:
    """Return this process's peak memory in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measure(folder: str, root: str, what: str) -> None:
    """Print how long, in seconds, and how much memory, in MB, beyond the imports."""
    import torch

    from vae.data import CelebAConfig, open_data
    from vae.data.loader import TrainingBatches

    config = CelebAConfig("celeba", root, num_workers=None, path=folder, **SETTINGS)
    memory, started = peak_mb(), time.perf_counter()
    if what == "lists":
        source = config.source()
        for split in source.sizes():
            source.labels(split)
    else:
        images = open_data(config).images["train"]
        next(TrainingBatches(images, 32, 0, True, torch.device("cpu")).epoch(0))
    seconds = time.perf_counter() - started
    print(json.dumps([seconds, peak_mb() - memory]))


def main() -> None:
    """Measure each in processes of their own and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="CelebA")
    parser.add_argument("--root", default="data", help="where it is packed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("lists", "first batch"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        measure(options.folder, options.root, options.only)
        return
    again = [sys.executable, "-m", "tests.profiling.starting", options.folder]
    for what in ("lists", "first batch"):
        command = [*again, "--root", options.root, "--only", what]
        rounds = [
            json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
            for _ in range(options.rounds)
        ]
        seconds, memory = (statistics.median(values) for values in zip(*rounds, strict=True))
        print(f"{what:12} {seconds:5.2f} s {memory:6.0f} MB")


if __name__ == "__main__":
    main()
