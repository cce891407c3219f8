"""CelebA's images, and their pixels as Pillow reads them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.celeba_shards import IMAGES, by_pil


@pytest.fixture(scope="session")
def jpegs(celeba_made):
    """The image files, in the lists' order."""
    return [file.read_bytes() for file in sorted((celeba_made("official") / IMAGES).iterdir())]


@pytest.fixture(scope="session")
def pixels(jpegs):
    """All images at 16 pixels, in the lists' order."""
    return np.stack([by_pil(jpeg) for jpeg in jpegs])
