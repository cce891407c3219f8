"""Small data sets on disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.celeba_stand_in import make

CELEBA_IMAGES = 30  # in the stand-ins for CelebA: 24 / 3 / 3
SHARD, GROUP = 15, 7  # rows in their shards: two for training, of two row groups each


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


@pytest.fixture(scope="session")
def celeba_made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`celeba_made(layout)`: CelebA's stand-in in a layout, made once. Not to be changed."""
    above = tmp_path_factory.mktemp("celeba")

    def made(layout: str) -> Path:
        if not (above / layout).exists():
            make(above / layout, layout, CELEBA_IMAGES, SHARD, GROUP)
        return above / layout

    return made


@pytest.fixture
def celeba_in(tmp_path: Path, celeba_made: Callable[[str], Path]) -> Callable[..., Path]:
    """`celeba_in(layout, folder)`: the test's own copy, in `folder` or where `celeba` has it."""

    def copied(layout: str, folder: Path | None = None) -> Path:
        folder = folder or tmp_path / "data" / "celeba"
        return shutil.copytree(celeba_made(layout), folder)

    return copied


@pytest.fixture
def celeba(celeba_in: Callable[..., Path]) -> Path:
    """CelebA's official layout with 30 images."""
    return celeba_in("official")
