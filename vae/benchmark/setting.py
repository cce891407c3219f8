"""What all measurements of one benchmark have in common."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from vae.errors import require
from vae.losses import BernoulliConfig
from vae.models.conv import ConvConfig

LOSS = BernoulliConfig("bce", beta=1e-4, kl_reduction="latents")


@dataclass(frozen=True)
class Setting:
    """The sizes of model and batch, and where and for how long to measure.

    The defaults are the default run's, so that its speed is what is measured.
    """

    batch: int = 32  # images a step; int >= 1
    image_size: int = 64  # pixels; a multiple of 2 ** len(channels)
    channels: tuple[int, ...] = (32, 64, 128, 256)
    latent_dim: int = 128
    device: str = "cpu"  # cpu, cuda or mps
    threads: int | None = None  # CPU threads; None: torch's own choice
    seed: int = 0
    pictures: int = 512  # JPEG files to load; int >= 1
    matrix_side: int = 2048  # of the square matrices whose product is timed
    seconds: float = 0.5  # that a piece of work is repeated for in a round, at the least

    def __post_init__(self) -> None:
        require(self.batch >= 1, "--batch", self.batch, "an int >= 1")
        step = 2 ** len(self.channels)
        fits = self.image_size >= step and self.image_size % step == 0
        takes = f"a multiple of {step}: the model halves it {len(self.channels)} times"
        require(fits, "--image-size", self.image_size, takes)
        fits = self.threads is None or self.threads >= 1
        require(fits, "--threads", self.threads, "an int >= 1")
        require(0 <= self.seed < 2**32, "--seed", self.seed, "an int from 0 to 2**32 - 1")

    @property
    def model(self) -> ConvConfig:
        """The configuration of the model."""
        return ConvConfig("conv", self.latent_dim, list(self.channels))

    def images(self, count: int) -> Tensor:
        """Noise as images, (count, 3, size, size) in [0, 1], contiguous, on the device.

        How long a step takes does not depend on what is in the picture.
        """
        generator = torch.Generator().manual_seed(self.seed)
        shape = (count, 3, self.image_size, self.image_size)
        return torch.rand(shape, generator=generator).to(self.device)

    def noise(self, count: int) -> Tensor:
        """Standard normal noise for the latents, (count, latent_dim), on the device."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn((count, self.latent_dim), generator=generator).to(self.device)

    def as_record(self) -> dict[str, Any]:
        """The sizes, for the report."""
        return asdict(self)
