"""Little data sets on the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vae.data.celeba import ATTRIBUTES, IMAGES, PARTITION

NAMES = (*(f"Attribute_{number}" for number in range(39)), "Young")


def save_noise(file: Path, width: int = 40, height: int = 30, seed: int = 0) -> Path:
    """A smooth picture (noise, enlarged), so that JPEG keeps it."""
    small = np.random.default_rng(seed).integers(0, 255, (5, 4, 3), dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(file)
    return file


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of 60 PNGs in two subfolders."""
    for number in range(60):
        save_noise(tmp_path / "pictures" / "ab"[number % 2] / f"{number}.png", seed=number)
    return tmp_path / "pictures"


@pytest.fixture
def celeba(tmp_path: Path) -> Path:
    """CelebA's official layout with 30 images: 20 / 6 / 4."""
    root = tmp_path / "data" / "celeba"
    values = attribute_values()
    partition, attributes = [], ["30", " ".join(NAMES) + " "]
    for number in range(1, 31):
        name = f"{number:06d}.jpg"
        save_noise(root / IMAGES / name, 178, 218, seed=number)
        partition.append(f"{name} {0 if number <= 20 else 1 if number <= 26 else 2}")
        row = " ".join(" 1" if value else "-1" for value in values[number - 1])
        attributes.append(f"{name} {row}")
    (root / PARTITION).write_text("\n".join(partition) + "\n")
    (root / ATTRIBUTES).write_text("\n".join(attributes) + "\n")
    return root


def attribute_values() -> np.ndarray:
    """What the `celeba` fixture's attributes are: (30, 40) of 0 and 1."""
    return np.random.default_rng(0).integers(0, 2, (30, len(NAMES)))
