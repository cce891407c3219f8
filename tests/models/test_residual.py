"""The residual model against its definition, written out with torch's functions."""

import pytest
import torch
import torch.nn.functional as F

from vae.models import ConvConfig, ResidualConfig, build_model
from vae.models.base import multiply_adds
from vae.models.layers import group_norm
from vae.models.residual import ResidualBlock
from vae.utils.registry import choices


def config(**changes):
    return ResidualConfig(**{"name": "residual", "latent_dim": 5, "channels": [8, 16], **changes})


def randomised(module):
    """Randomise all weights, so that none is zero."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return module


def test_a_block_equals_its_formula():
    block = randomised(ResidualBlock(8))
    x = torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(1))
    norm, _, first, again, _, last = block.body
    y = F.silu(F.group_norm(x, 2, norm.weight, norm.bias))
    y = F.conv2d(y, first.weight, None, padding=1)
    y = F.silu(F.group_norm(y, 2, again.weight, again.bias))
    torch.testing.assert_close(block(x), x + F.conv2d(y, last.weight, last.bias, padding=1))


def test_a_new_block_is_the_identity():
    x = torch.randn(2, 8, 5, 5)
    assert (ResidualBlock(8)(x) == x).all()


@pytest.mark.parametrize(
    ("width", "groups"), [(1, 1), (3, 1), (4, 1), (8, 2), (16, 4), (32, 8), (48, 4), (256, 8)]
)
def test_groups_have_several_channels(width, groups):
    assert group_norm(width).num_groups == groups


def test_images_of_a_batch_are_independent():
    """BatchNorm does not have this property in training."""
    for model in (
        build_model(config(), 16),
        build_model(ConvConfig("conv", 5, [8, 16], norm="group"), 16),
    ):
        randomised(model).train()
        images, noise = torch.rand(4, 3, 16, 16), torch.randn(4, 5)
        together, _ = model(images, noise)
        alone, _ = model(images[:1], noise[:1])
        torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-4)
        assert not any("running" in name for name, _ in model.named_buffers())


@pytest.mark.parametrize("name", choices("model"))
def test_multiply_adds_equal_torchs_count(name):
    from torch.utils.flop_counter import FlopCounterMode

    settings = {"name": name, "latent_dim": 7, "channels": [8, 16]}
    config = choices("model")[name](**settings)
    model = build_model(config, 32)
    for layer in model.modules():
        if hasattr(layer, "form"):
            layer.form = "plain"  # as the architecture has it
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.rand(1, 3, 32, 32), torch.randn(1, 7))
    assert multiply_adds(model, 32) == counter.get_total_flops() / 2


def test_counting_leaves_the_model_as_it_was():
    model = build_model(ConvConfig("conv", 7, [8, 16]), 32).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    multiply_adds(model, 32)
    assert model.training
    assert not any(layer._forward_hooks for layer in model.modules())
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
