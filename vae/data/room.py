"""Whether the disk has room for a cache."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vae.data.source import DataConfig
from vae.errors import UserError
from vae.files import free_bytes


def require_room(sizes: dict[str, int], config: DataConfig, there: Iterable[Path]) -> None:
    """Refuse what the disk cannot hold, before any image is decoded.

    Args:
        sizes: images of each split.
        config: `root` is on the disk in question.
        there: folders whose images are gone on with, or removed.
    """
    needed = room_for(sizes, config)
    for folder in there:
        needed -= sum(file.stat().st_blocks * 512 for file in folder.glob("*.npy"))
    free = free_bytes(Path(config.root))
    if needed > free:
        raise UserError(
            f"data.root: {config.root} has {free / 1e9:.2f} GB free, but the packed images need "
            f"{needed / 1e9:.2f} GB. Free some, set data.root to another disk, or lower "
            "data.num_images or data.image_size."
        )


def room_for(sizes: dict[str, int], config: DataConfig) -> int:
    """Bytes that packing takes, labels aside."""
    images = sum(sizes.values())
    if config.skips_corrupt:  # a split is written again without what is left out
        images += max(sizes.values())
    return images * 3 * config.image_size**2
