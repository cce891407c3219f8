"""Probe: a network that reads the factors of drawn faces from pictures.

It is trained on its own drawn faces, which are in no split and have no correlations, and is
independent of the evaluated model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from vae.data.base import SPLITS
from vae.data.synthetic import DRAWING_VERSION, SyntheticConfig
from vae.data.synthetic.faces import FACTOR_NAMES, PRESETS, draw, sample_factors
from vae.evaluation.cache import ArrayCache, require_array
from vae.models.layers import group_norm
from vae.training.muon import MuonConfig

FORMAT = 1  # of the file; a file of another format is made again
MAX_BYTES = 1 << 25  # of the file and of its arrays; at 64 px 2 MB
FACES, HELD_OUT = 8000, 800  # drawn for training and for its R²
STEPS, BATCH, LEARNING_RATE = 1000, 64, 1e-2
MAX_SIZE = 64  # pixels; larger pictures are reduced to it
WIDTHS = (24, 48, 96, 128)  # channels after each convolution
MAX_BLUR = 1.5 / 64  # largest σ of the training blur, relative to the side; decoders blur, too
STREAM = len(SPLITS) + 1  # sequence of faces: unlike those of the splits and of FactorVAE's score


@dataclass(frozen=True)
class FactorProbe:
    """A trained network and its accuracy for each factor that varies in a preset."""

    network: nn.Module  # images (n, 3, size, size) -> factors (n, len(accuracy))
    image_size: int  # of its input, in pixels; larger pictures are averaged
    accuracy: dict[str, float]  # R² on held-out faces, by factor, in the order of the outputs

    @torch.inference_mode()
    def read(self, images: Tensor) -> Tensor:
        """Estimate the factors of images (n, 3, size, size) in [0, 1], size >= image_size.

        Returns:
            (n, factors) float32, in standard deviations from the mean over drawn faces.
        """
        if images.shape[-1] > self.image_size:
            images = F.interpolate(images, (self.image_size, self.image_size), mode="area")
        found: Tensor = self.network(images)
        return found


def factor_probe(config: SyntheticConfig, device: torch.device) -> FactorProbe:
    """Return the probe for a preset and image size; train it once and keep it in `data.root`."""
    size = min(config.image_size, MAX_SIZE)
    name = f"{config.preset}-{size}px"

    def unpack(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> FactorProbe:
        names = PRESETS[config.preset]
        network = build_network(len(names), size)
        shapes = network.state_dict()
        for key, weight in shapes.items():
            require_array(key, arrays[key], tuple(weight.shape), np.float32)
        network.load_state_dict({key: torch.from_numpy(arrays[key]) for key in shapes})
        accuracy = {name: float(about["accuracy"][name]) for name in names}
        return FactorProbe(network.eval().to(device), size, accuracy)

    def pack(probe: FactorProbe) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        arrays = {key: weight.cpu().numpy() for key, weight in probe.network.state_dict().items()}
        return {"accuracy": probe.accuracy}, arrays

    kept = ArrayCache("probe", FORMAT, MAX_BYTES, pack, unpack)
    identity = {"drawing": f"{name}, version {DRAWING_VERSION}"}
    file = Path(config.root) / "probes" / f"{name}.npz"
    return kept.keep(file, identity, lambda: train_probe(config.preset, size, device))


def train_probe(preset: str, image_size: int, device: torch.device, seed: int = 0) -> FactorProbe:
    """Train a probe; drawing and training take about a minute on two cores.

    Args:
        preset: one of PRESETS.
        image_size: pixels.
        device: for training.
        seed: of faces, weights and batches.
    """
    names = PRESETS[preset]
    rows = torch.from_numpy(sample_factors(preset, FACES + HELD_OUT, (seed, STREAM)))
    truth = rows[:, [FACTOR_NAMES.index(name) for name in names]]
    truth = ((truth - truth.mean(0)) / truth.std(0)).to(device)
    images = _draw(rows, image_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(len(names), image_size).to(device)
    settings = MuonConfig("muon", LEARNING_RATE, 0.0, "cosine", 0, betas=[0.9, 0.999], eps=1e-8)
    optimizer = settings.build(network.parameters())
    generator = np.random.default_rng(seed)
    for step in tqdm(range(STEPS), desc="training the probe", unit=" steps", disable=None):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate(step, STEPS)
        chosen = torch.from_numpy(generator.integers(FACES, size=BATCH))
        batch = images[chosen].to(device).float() / 255
        soft = blur(batch, generator.uniform(0, MAX_BLUR * image_size))
        loss = F.mse_loss(network(soft), truth[chosen.to(device)])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    network.eval().requires_grad_(False)
    held_out = zip(
        torch.split(images[FACES:], BATCH), torch.split(truth[FACES:], BATCH), strict=True
    )
    with torch.inference_mode():
        errors = torch.cat([network(some.to(device).float() / 255) - of for some, of in held_out])
    accuracy = 1 - errors.square().mean(0) / truth[FACES:].var(0)
    return FactorProbe(network, image_size, dict(zip(names, accuracy.tolist(), strict=True)))


def build_network(factors: int, image_size: int) -> nn.Sequential:
    """Build convolutions of stride 2, followed by a linear layer."""
    layers: list[nn.Module] = []
    width_in, side = 3, image_size
    for width in WIDTHS:
        layers += [nn.Conv2d(width_in, width, 3, stride=2, padding=1), group_norm(width), nn.SiLU()]
        width_in, side = width, math.ceil(side / 2)
    layers += [nn.Flatten(), nn.Linear(width_in * side**2, factors)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def blur(images: Tensor, sigma: float) -> Tensor:
    """Blur images (n, 3, h, w) with a Gaussian of standard deviation `sigma` >= 0 pixels."""
    radius = math.ceil(2 * sigma)
    if radius == 0:
        return images
    kernel = (
        torch.arange(-radius, radius + 1, device=images.device).div(sigma).square().div(-2).exp()
    )
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    padded = F.pad(images, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.mT, groups=3)


def _draw(rows: Tensor, image_size: int) -> Tensor:
    """Draw faces as uint8, (n, 3, size, size)."""
    parts = tqdm(torch.split(rows, BATCH), desc="drawing for the probe", disable=None)
    return torch.cat([(draw(some, image_size) * 255).round().to(torch.uint8) for some in parts])
