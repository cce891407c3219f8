"""Perceptual terms beside the distortion of the pixels: MS-SSIM, or a frozen network's features.

Hou et al. (2017) train a VAE by squared distances in the hidden maps of a network for
recognition, which compare edges, textures and parts instead of single pixels. A model that is
trained in this way scores well by distances in the features of the same network, and one that is
trained by MS-SSIM by SSIM: judge it by another measure.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from textwrap import shorten

import torch
import torch.nn.functional as F
from omegaconf import MISSING
from torch import Tensor, nn

from vae.losses.ssim import luminance, ms_ssim
from vae.models.face_net import SIDE, FaceNet, load_face_net
from vae.utils.errors import UserError, require_ranges
from vae.utils.registry import register

Maps = Callable[[Tensor], list[Tensor]]  # RGB images in [0, 1] to hidden maps (n, c, h, w)

VGG_LAYERS = (1, 6, 11)  # relu1_1, relu2_1, relu3_1: the three of Hou et al.'s VAE-123
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@register("loss/perceptual", "none")
@dataclass
class PerceptualConfig:
    """`loss/perceptual=none`: pixels alone. The base of every perceptual term."""

    name: str = "none"  # the name it is registered by

    def load(self, device: torch.device) -> None:
        """Load the network, if there is one.

        Raises:
            UserError: its weights are not here.
        """

    def term(
        self, logits: Tensor, images: Tensor, autocast: torch.autocast | None = None
    ) -> Tensor | None:
        """Return what is added to the loss, a scalar; None where nothing is.

        Args:
            logits: (batch, 3, size, size), decoded.
            images: (batch, 3, size, size) in [0, 1].
            autocast: the precision that the network runs in; float32 if None.
        """
        return None


@dataclass
class WeightedConfig(PerceptualConfig):
    """Settings that every term has: its weight."""

    weight: float = MISSING  # beside the distortion of the pixels; a number from 0 to 1e9

    def __post_init__(self) -> None:
        require_ranges("loss.perceptual", self, weight=(0, 1e9))


@register("loss/perceptual", "ms_ssim")
@dataclass
class MSSSIMTermConfig(WeightedConfig):
    """`loss/perceptual=ms_ssim`: weight · (1 - MS-SSIM) of the luminance (Wang et al. 2003).

    The pixels' distortion decides about colours and this term about contrast and structure, also
    where they are faint. Of the luminance alone it takes 0.4 of the time of three channels.
    """

    def term(
        self, logits: Tensor, images: Tensor, autocast: torch.autocast | None = None
    ) -> Tensor:
        similarity = ms_ssim(luminance(images), luminance(logits.sigmoid()))
        return self.weight * (1 - similarity.mean())


@dataclass
class NetworkConfig(WeightedConfig):
    """Settings of the terms that have a network: a subclass has the method `maps`."""

    def maps(self, device: torch.device) -> Maps:
        """Return the network's function from images to hidden maps, loaded once per process.

        Raises:
            UserError: its weights are not here.
        """
        raise TypeError(f"{type(self).__name__} has no method `maps`")

    def load(self, device: torch.device) -> None:
        self.maps(torch.empty(0, device=device).device)  # cuda:0 for cuda, as of the images

    def term(
        self, logits: Tensor, images: Tensor, autocast: torch.autocast | None = None
    ) -> Tensor:
        """Return weight · |Φ(x) - Φ(x̂)|² / |Φ(x)|², the mean over images and layers.

        (The paper adds squared distances as they are. Divided by the size of the features, each
        layer counts as much as the others, and a weight means the same for every network.)
        """
        maps = self.maps(images.device)
        reconstructions = logits.sigmoid()
        with autocast or nullcontext():
            with torch.no_grad():
                expected = maps(images)
            found = maps(reconstructions)
        distances = [relative_distance(*pair) for pair in zip(expected, found, strict=True)]
        return self.weight * torch.stack(distances).mean()


def relative_distance(expected: Tensor, found: Tensor) -> Tensor:
    """Return |expected - found|² / |expected|² of each image, (batch,) float32."""
    expected, found = expected.float().flatten(1), found.float().flatten(1)
    return (found - expected).square().sum(1) / expected.square().sum(1).clamp(min=1e-12)


@register("loss/perceptual", "vgg")
@dataclass
class VGGConfig(NetworkConfig):
    """`loss/perceptual=vgg`: VGG-19, trained on ImageNet (Simonyan & Zisserman 2015)."""

    def maps(self, device: torch.device) -> Maps:
        return _vgg(device)


@register("loss/perceptual", "face")
@dataclass
class FaceConfig(NetworkConfig):
    """`loss/perceptual=face`: dlib's face recognition network (the extra `faces`).

    Images are resized to the size of its faces: as their shapes, so their scale matters to it.
    """

    def maps(self, device: torch.device) -> Maps:
        net = _face_net(device)

        def maps(images: Tensor) -> list[Tensor]:
            return net.maps(F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True))

        return maps


@cache
def _face_net(device: torch.device) -> FaceNet:
    with torch.inference_mode(False):  # or no gradient could pass, where validation loads it
        return load_face_net().to(device)


@cache
def _vgg(device: torch.device) -> VGG:
    with torch.inference_mode(False):
        return load_vgg().to(device)


class VGG(nn.Module):
    """The first layers of VGG-19: RGB images (n, 3, h, w) in [0, 1] to the maps of VGG_LAYERS."""

    mean: Tensor
    std: Tensor

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        x, found = (images - self.mean) / self.std, []
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number in VGG_LAYERS:
                found.append(x)
        return found


def load_vgg() -> VGG:
    """Load VGG-19's first layers, on the CPU, in evaluation mode.

    Torchvision downloads the weights the first time (548 MB) into the cache of torch.hub.

    Raises:
        UserError: they cannot be downloaded, or the file in the cache is damaged.
    """
    from torchvision.models import VGG19_Weights, vgg19

    weights = VGG19_Weights.IMAGENET1K_V1
    try:
        state = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
        with torch.device("meta"):  # the classifier alone would take half a gigabyte
            layers = vgg19().features[: VGG_LAYERS[-1] + 1]
        of_layers = {name: state[f"features.{name}"] for name in layers.state_dict()}
        layers.load_state_dict(of_layers, assign=True)
    except Exception as error:  # no network, no space; reading a damaged file can fail in any way
        reason = shorten(str(error).partition("\n")[0], 120)
        file = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
        raise UserError(
            f"loss/perceptual=vgg: the weights of VGG-19 could not be loaded ({reason}). Download "
            f"{weights.url} to {file}, or take loss/perceptual=ms_ssim, which has no network."
        ) from error
    net = VGG(layers).to(memory_format=torch.channels_last)
    return net.requires_grad_(False).eval()
