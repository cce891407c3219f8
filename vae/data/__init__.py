"""Images from a source, packed once into a cache, served in batches."""

from __future__ import annotations

from vae.data.base import DataConfig, ImageSource
from vae.data.cache import Packed, open_or_pack, verify
from vae.data.celeba import CelebAConfig, CelebASource
from vae.data.folder import FolderConfig, FolderSource
from vae.data.synthetic import SyntheticConfig, SyntheticSource
from vae.utils.errors import UserError, require

__all__ = [
    "CelebAConfig",
    "DataConfig",
    "FolderConfig",
    "ImageSource",
    "Packed",
    "SyntheticConfig",
    "open_data",
    "open_or_pack",
    "open_source",
    "verify",
]


def open_source(config: DataConfig) -> ImageSource:
    """Open the source that a configuration names; its images are located but not read.

    Raises:
        UserError: there is no such source, or it is not where the configuration says.
    """
    if isinstance(config, SyntheticConfig):
        return SyntheticSource(config)
    if isinstance(config, FolderConfig):
        return FolderSource(config)
    if isinstance(config, CelebAConfig):
        return CelebASource(config)
    raise UserError(f"data.name: there is no source {config.name!r}.")


def open_data(config: DataConfig) -> Packed:
    """Open the packed images of a configuration; pack them the first time.

    Raises:
        UserError: as `open_source`; also when a batch is larger than the training
            split (before anything is packed) or when an image cannot be read.
    """
    source = open_source(config)
    _require_a_batch(config, source.sizes()["train"])
    packed = open_or_pack(source, config)
    _require_a_batch(config, len(packed.images["train"]))  # some may have been skipped
    return packed


def _require_a_batch(config: DataConfig, available: int) -> None:
    takes = f"at most the number of training images, here {available}"
    require(config.batch_size <= available, "data.batch_size", config.batch_size, takes)
