"""The residual model against its definition, written out with torch's functions."""

import pytest
import torch
import torch.nn.functional as F

from vae.models import ConvConfig, ResidualConfig, build_model
from vae.models.base import multiply_adds
from vae.models.layers import group_norm
from vae.utils.registry import choices


def randomised(module):
    """Randomise all weights, so that none is zero."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return module


def test_a_block_equals_its_formula_and_a_new_block_is_the_identity():
    block = ResidualConfig("residual", 5, [8]).block(8)
    x = torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(1))
    assert (block(x) == x).all()
    norm, _, first, again, _, last = randomised(block).body
    y = F.silu(F.group_norm(x, 2, norm.weight, norm.bias))
    y = F.conv2d(y, first.weight, None, padding=1)
    y = F.silu(F.group_norm(y, 2, again.weight, again.bias))
    torch.testing.assert_close(block(x), x + F.conv2d(y, last.weight, last.bias, padding=1))


@pytest.mark.parametrize(
    ("width", "groups"), [(1, 1), (3, 1), (4, 1), (8, 2), (16, 4), (32, 8), (48, 4), (256, 8)]
)
def test_groups_have_several_channels(width, groups):
    assert group_norm(width).num_groups == groups


@pytest.mark.parametrize(
    "config",
    [ResidualConfig("residual", 5, [8, 16]), ConvConfig("conv", 5, [8, 16], norm="group")],
    ids=lambda config: config.name,
)
def test_images_of_a_batch_are_independent(config):
    """BatchNorm does not have this property in training."""
    model = randomised(build_model(config, 16)).train()
    images, noise = torch.rand(4, 3, 16, 16), torch.randn(4, 5)
    together, _ = model(images, noise)
    alone, _ = model(images[:1], noise[:1])
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-4)
    assert not any("running" in name for name, _ in model.named_buffers())


@pytest.mark.parametrize("name", choices("model"))
def test_multiply_adds_equal_torchs_count(name):
    from torch.utils.flop_counter import FlopCounterMode

    model = build_model(choices("model")[name](name, 7, [8, 16]), 32)
    for layer in model.modules():
        if hasattr(layer, "form"):
            layer.form = "plain"  # as the architecture has it
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.rand(1, 3, 32, 32), torch.randn(1, 7))
    before = {key: value.clone() for key, value in model.train().state_dict().items()}
    for _ in range(2):  # it leaves the model as it was
        assert multiply_adds(model, 32) == counter.get_total_flops() / 2
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
