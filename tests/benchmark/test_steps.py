"""The variants of the training step compute the same; the FLOPs of a step."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from vae.benchmark.steps import (
    BF16,
    COMPILED,
    DEFAULT,
    FAST,
    FOLDED,
    LOSS,
    OPTIMIZERS,
    PLAIN,
    VARIANTS,
    Setting,
    build_variant,
    image_flops,
    prepare_training,
    training_step,
)
from vae.losses import loss_terms
from vae.models.layers import UpsampleConv
from vae.runs.compose import compose

TINY = Setting(batch=3, image_size=16, channels=(8, 12), latent_dim=5, seconds=0.001)


def upsampling_layers(model):
    return [layer for layer in model.modules() if isinstance(layer, UpsampleConv)]


def reference(model, images, noise):
    """Logits of the model's weights in torch's own layers, contiguous, nothing folded."""
    parts = []
    for layer in model.decoder.blocks:
        if isinstance(layer, UpsampleConv):
            plain = nn.Conv2d(layer.in_channels, layer.out_channels, 3, padding=1)
            plain.weight, plain.bias = layer.weight, layer.bias
            parts += [nn.Upsample(scale_factor=2), plain]
        else:
            parts.append(layer)
    mean, logvar = model.encoder(images)
    z = mean + torch.exp(logvar / 2) * noise
    return nn.Sequential(*parts)(model.decoder.project(z).view(len(z), *model.decoder.map_shape))


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != BF16], ids=lambda v: v.name)
def test_every_variant_computes_the_default_model(variant):
    images, noise = TINY.inputs(3)
    gradients = []
    for model in (build_variant(TINY, variant), build_variant(TINY, DEFAULT)):
        logits, posterior = model(images, noise)
        torch.testing.assert_close(logits, reference(model, images, noise), atol=1e-5, rtol=1e-5)
        loss = loss_terms(LOSS, logits, images, posterior, posterior.mean).loss
        names, parameters = zip(*model.named_parameters(), strict=True)
        found = torch.autograd.grad(loss, parameters)
        gradients.append(dict(zip(names, found, strict=True)))
    for name, wanted in gradients[1].items():
        scale = wanted.abs().max().clamp(min=1e-5).item()
        torch.testing.assert_close(gradients[0][name], wanted, atol=1e-3 * scale, rtol=0)


def test_the_plain_twin_is_contiguous_and_folds_nothing():
    plain, folded, default = (build_variant(TINY, variant) for variant in (PLAIN, FOLDED, DEFAULT))
    assert [layer.form for layer in upsampling_layers(plain)] == ["plain", "plain"]
    for model in (folded, default):  # as the rule says
        assert [layer.form for layer in upsampling_layers(model)] == [None, None]

    def layouts(model):
        """Whether each input of a convolution, and its kernel, is channels-last."""
        seen = []

        def look(layer, inputs):
            for tensor in (inputs[0], layer.weight):
                strided = tensor.is_contiguous(memory_format=torch.channels_last)
                seen.append(strided and not tensor.is_contiguous())

        for layer in upsampling_layers(model):
            layer.register_forward_pre_hook(look)
        model(*TINY.inputs(3))
        return seen

    assert not any(layouts(plain) + layouts(folded))
    assert all(layouts(default))


@pytest.mark.parametrize(
    ("variant", "has_bf16", "bytes_a_value"),
    [(FAST, True, 4), (BF16, False, 2), (DEFAULT, False, 4), (DEFAULT, True, 2)],
)
def test_a_step_trains_in_its_precision(variant, has_bf16, bytes_a_value, map_bytes, monkeypatch):
    monkeypatch.setattr("vae.utils.devices.computes_in_bf16", lambda _: has_bf16)
    model = build_variant(TINY, variant).train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = OPTIMIZERS[variant.optimizer].build(model.parameters())
    training_step(TINY, variant, model, optimizer)(*TINY.inputs(3))
    assert map_bytes == {bytes_a_value}
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_only_marked_variants_keep_memory(kept_memory, monkeypatch):
    monkeypatch.setattr("vae.benchmark.steps.timer", lambda *_: lambda: 0.5)
    for variant in VARIANTS:
        kept_memory.clear()
        rate = prepare_training(TINY, variant)()
        assert rate == {f"training/{variant.name}": 6.0}  # 3 images in half a second
        assert bool(kept_memory) == variant.keeps_memory
    assert [v.keeps_memory for v in VARIANTS] == [False, False, False, True, True, True]
    assert [v.compiled for v in (*VARIANTS, COMPILED)] == [False] * len(VARIANTS) + [True]


@pytest.mark.parametrize("side", [2, 4])  # of the smallest map; at 2 the rule does not fold
def test_flops_equal_a_count_by_hand(side):
    # Widths 8 and 12, 5 latents; a multiply-add is two operations.
    half, small = (2 * side) ** 2, side**2  # pixels of the two maps
    encoder = [3 * 8 * 9 * half, 8 * 12 * 9 * small]
    linear = [2 * (12 * small) * 5, 5 * (12 * small)]  # mean and logvar; the projection
    # a 4x4 kernel at each input pixel, for every pair of channels
    decoder = [12 * 8 * 16 * small, 8 * 3 * 16 * half]
    forward = sum(encoder) + sum(linear) + sum(decoder)
    backward = 2 * forward - encoder[0]  # nobody asks for the images' gradient
    assert image_flops(replace(TINY, image_size=4 * side)) == 2 * (forward + backward)


def test_the_setting_is_the_default_run():
    config = compose([])
    default = Setting()
    assert default.model == config.model
    assert default.image_size == config.data.image_size
    assert default.batch == config.data.batch_size
    assert config.loss == LOSS
    assert DEFAULT.precision == config.trainer.precision
    muon = OPTIMIZERS[DEFAULT.optimizer]  # at the rate that the default run begins with
    assert replace(muon, schedule=config.optimizer.schedule) == config.optimizer
