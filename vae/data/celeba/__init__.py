"""CelebA in the shapes in which people have it: found, checked and read."""

from vae.data.celeba.source import CelebAConfig, CelebASource

__all__ = ["CelebAConfig", "CelebASource"]
