"""Images from a source, packed once into a cache, served in batches."""

from __future__ import annotations

from vae.data.base import DataConfig, ImageSource
from vae.data.cache import Packed, open_or_pack, verify
from vae.data.celeba import CelebAConfig
from vae.data.folder import FolderConfig
from vae.data.synthetic import SyntheticConfig
from vae.utils.errors import require
from vae.utils.registry import import_modules

__all__ = [
    "CelebAConfig",
    "DataConfig",
    "FolderConfig",
    "ImageSource",
    "Packed",
    "SyntheticConfig",
    "open_data",
    "open_or_pack",
    "verify",
]

import_modules(__name__)


def open_data(config: DataConfig) -> Packed:
    """Open the packed images of a configuration; pack them the first time.

    Raises:
        UserError: as `config.source()`; also when a batch is larger than the training
            split (before anything is packed) or when an image cannot be read.
    """
    source = config.source()
    _require_a_batch(config, source.sizes()["train"])
    packed = open_or_pack(source, config)
    _require_a_batch(config, len(packed.images["train"]))  # some may have been skipped
    return packed


def _require_a_batch(config: DataConfig, available: int) -> None:
    takes = f"at most the number of training images, here {available}"
    require(config.batch_size <= available, "data.batch_size", config.batch_size, takes)
