"""How much arithmetic a model is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vae.models import ModelConfig, build_model


def multiply_adds(config: ModelConfig, image_size: int) -> int:
    """Multiplications, each with an addition, of encoding and decoding one image.

    Of the convolutions and matrix products as the architecture has them, upsampled images
    included; what computes them may need fewer (vae/models/layers.py), and the rest (norms,
    activations) is not arithmetic that takes time.
    """
    count = 0

    def add(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal count
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        count += output[0].numel() * layer.weight[0].numel()

    # shapes alone: nothing is computed, and nothing takes memory
    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.inference_mode():
        model = build_model(config, image_size).eval()
        for layer in model.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                layer.register_forward_hook(add)
        images = torch.empty(1, 3, image_size, image_size)
        model(images, torch.empty(1, config.latent_dim))
    return count
