"""CelebA's images as Pillow reads them, and as parquet shards."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from tests.support.celeba_shards import GROUP, IMAGES, SHARD, by_pil
from tests.support.celeba_stand_in import make
from tests.support.data_sets import CELEBA_IMAGES


@pytest.fixture(scope="session")
def jpegs(celeba_made):
    """The image files, in the lists' order."""
    return [file.read_bytes() for file in sorted((celeba_made("official") / IMAGES).iterdir())]


@pytest.fixture(scope="session")
def pixels(jpegs):
    """All images at 16 pixels, in the lists' order."""
    return np.stack([by_pil(jpeg) for jpeg in jpegs])


@pytest.fixture(scope="session")
def shards_made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    make(folder, "parquet", CELEBA_IMAGES, SHARD, GROUP)
    return next(folder.iterdir())


@pytest.fixture
def shards(shards_made, tmp_path):
    """The test's own copy of a folder of four shards."""
    return shutil.copytree(shards_made, tmp_path / "data" / "celeba")
