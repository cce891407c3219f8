"""CelebA's images as Pillow reads them, and as parquet shards."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.celeba_shards import SHARDS, by_pil, read_jpegs, write_shard


@pytest.fixture
def jpegs(celeba_made):
    return read_jpegs(celeba_made("official"))


@pytest.fixture(scope="session")
def pixels(celeba_made):
    """All images at 16 pixels, in the lists' order."""
    return np.stack([by_pil(jpeg) for jpeg in read_jpegs(celeba_made("official"))])


@pytest.fixture
def shards(tmp_path, jpegs):
    """A folder of the four shards."""
    for name, numbers in SHARDS.items():
        write_shard(tmp_path / "shards" / f"{name}.parquet", numbers, jpegs)
    return tmp_path / "shards"
