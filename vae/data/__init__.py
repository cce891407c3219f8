"""Images from a source, packed once into a cache, served in batches."""

from __future__ import annotations

from vae.data.cache import Packed, open_or_pack
from vae.data.celeba import CelebAConfig, CelebASource
from vae.data.folder import FolderConfig, FolderSource
from vae.data.source import DataConfig, ImageSource
from vae.data.synthetic import SyntheticConfig, SyntheticSource
from vae.errors import UserError, require

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
]


def open_source(config: DataConfig) -> ImageSource:
    """The source that a configuration names, with its images found but not yet read.

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
    """The packed images of a configuration, packing them if this is the first time.

    Raises:
        UserError: as `open_source`; also when a batch is larger than the training
            split (before anything is packed) or when an image cannot be read.
    """
    source = open_source(config)
    available = source.sizes()["train"]
    require(
        config.batch_size <= available,
        "data.batch_size",
        config.batch_size,
        f"at most the number of training images, here {available}",
    )
    return open_or_pack(source, config)
