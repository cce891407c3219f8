"""How much arithmetic a model is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vae.models.vae import VAE


@torch.inference_mode()
def multiply_adds(model: VAE, image_size: int) -> int:
    """Multiplications, each with an addition, of encoding and decoding one image.

    Of the convolutions and matrix products as the architecture has them, upsampled images
    included; what computes them may need fewer (vae/models/layers.py), and the rest (norms,
    activations) is not arithmetic that takes time. Counted while one image goes through the
    model, which stays as it was. (On torch's meta device nothing would be computed, but its
    shape functions import the compiler, which takes longer than the image by far.)
    """
    count = 0

    def add(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal count
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        count += output[0].numel() * layer.weight[0].numel()

    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    was_training = model.training
    device = next(model.parameters()).device
    try:
        images = torch.zeros(1, 3, image_size, image_size, device=device)
        model.eval()(images, torch.zeros(1, model.latent_dim, device=device))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return count
