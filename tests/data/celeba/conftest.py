"""CelebA as parquet shards."""

from __future__ import annotations

import pytest

from tests.support.celeba_shards import SHARDS, read_jpegs, write_shard


@pytest.fixture
def jpegs(celeba_made):
    return read_jpegs(celeba_made("official"))


@pytest.fixture
def shards(tmp_path, jpegs):
    """A folder of the four shards."""
    for name, numbers in SHARDS.items():
        write_shard(tmp_path / "shards" / f"{name}.parquet", numbers, jpegs)
    return tmp_path / "shards"
