"""The convolutional model: shapes, layers, refused settings."""

from unittest import mock

import pytest
import torch
from torch import nn

from vae.models import ConvConfig, build_model
from vae.models.layers import FORMS, SubpixelConv, UpsampleConv, fastest_form
from vae.utils.errors import UserError
from vae.utils.registry import choices


@pytest.mark.parametrize("name", choices("model"))
@pytest.mark.parametrize(
    ("image_size", "channels", "latent_dim"),
    [
        (8, [4], 1),
        (8, [4, 8, 8], 3),  # down to a single pixel
        (48, [4, 8, 8, 8], 7),  # no power of two: 48 = 3 * 2^4
        (64, [32, 64, 128, 256], 128),
        (128, [4, 8, 8, 8, 8], 10),
        (256, [4, 4, 4, 4, 4, 4], 4),
    ],
)
def test_every_size_and_depth_builds(image_size, channels, latent_dim, name):
    settings = choices("model")[name](name=name, latent_dim=latent_dim, channels=channels)
    model = build_model(settings, image_size)
    images = torch.rand(2, 3, image_size, image_size)
    logits, posterior = model(images, torch.randn(2, latent_dim))
    assert logits.shape == images.shape
    assert posterior.mean.shape == posterior.logvar.shape == (2, latent_dim)
    decoded = model.decode(posterior.mode)
    assert decoded.shape == images.shape
    assert decoded.min() >= 0
    assert decoded.max() <= 1
    with pytest.raises(UserError, match=rf"data\.image_size: got {image_size + 1}.*multiple of"):
        build_model(settings, image_size + 1)


def test_the_model_equals_one_of_torchs_own_layers():
    """Stride-2 convolutions and their mirror, BatchNorm, LeakyReLU, Sigmoid at the end."""
    torch.manual_seed(0)
    model = build_model(ConvConfig("conv", 5, [4, 8]), 16).double()

    def after(width):
        return nn.BatchNorm2d(width), nn.LeakyReLU(0.2)

    def upsample(width_in, width, bias):
        return nn.Sequential(
            nn.Upsample(scale_factor=2), nn.Conv2d(width_in, width, 3, padding=1, bias=bias)
        )

    down = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), *after(4),
        nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False), *after(8),
    )  # fmt: skip
    up = nn.Sequential(upsample(8, 4, False), *after(4), upsample(4, 3, True))
    for plain, ours in ((down, model.encoder.blocks), (up, model.decoder.blocks)):
        plain.double()
        for one, other in zip(plain, ours, strict=True):
            (one[1] if isinstance(one, nn.Sequential) else one).load_state_dict(other.state_dict())
    images = torch.rand(6, 3, 16, 16, dtype=torch.float64)
    features = down(images).flatten(1)
    posterior = model.encode(images)
    torch.testing.assert_close(posterior.mean, model.encoder.mean(features).float())
    torch.testing.assert_close(posterior.logvar, model.encoder.logvar(features).float())
    latents = torch.randn(6, 5, dtype=torch.float64)
    maps = model.decoder.project(latents).unflatten(1, (8, 4, 4))
    torch.testing.assert_close(model.decode(latents), torch.sigmoid(up(maps)).float())


@pytest.mark.parametrize("name", ["conv", "residual"])
def test_spatial_latents_belong_to_a_place(name):
    """Those of a place are projected from that place of the smallest map, and onto it."""
    config = choices("model")[name](name, 12, [4, 8], latent_shape="map")
    model = build_model(config, 8, seed=0).eval()
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    features = model.encoder.blocks(images)  # (3, 8, 2, 2)
    posterior = model.encode(images)
    for projection, found in (
        (model.encoder.mean, posterior.mean),
        (model.encoder.logvar, posterior.logvar),
    ):
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
            here = features[:, :, row, column] @ projection.weight[:, :, 0, 0].T + projection.bias
            of_place = found.view(3, 3, 2, 2)[:, :, row, column]
            torch.testing.assert_close(of_place, here)
    latents = torch.randn(3, 12, generator=torch.Generator().manual_seed(1))
    project = model.decoder.project
    maps = torch.einsum("oi,bihw->bohw", project.weight[:, :, 0, 0], latents.view(3, 3, 2, 2))
    maps = maps + project.bias.view(1, -1, 1, 1)
    expected = model.decoder.blocks(maps)
    torch.testing.assert_close(model.decode_logits(latents), expected)


def test_spatial_latents_that_do_not_fit_the_map_are_refused():
    config = ConvConfig("conv", 10, [4, 8], latent_shape="map")
    with pytest.raises(UserError, match=r"model\.latent_dim: got 10, .* a multiple of 16: .*4x4"):
        build_model(config, 16)
    with pytest.raises(UserError, match=r"model\.latent_shape: got 'maps', .* vector or map"):
        ConvConfig("conv", 10, [4, 8], latent_shape="maps")


@pytest.mark.parametrize("name", ["conv", "residual"])
def test_norm_activation_and_last_layer_are_those_that_are_chosen(name):
    chosen = {"norm": "batch", "activation": "silu", "last_layer": "subpixel"}
    other = {"norm": "group", "activation": "leaky_relu", "last_layer": "upsample"}
    kinds = {
        "batch": nn.BatchNorm2d,
        "group": nn.GroupNorm,
        "silu": nn.SiLU,
        "leaky_relu": nn.LeakyReLU,
        "subpixel": SubpixelConv,
        "upsample": UpsampleConv,
    }
    for settings, not_chosen in ((chosen, other), (other, chosen)):
        model = build_model(choices("model")[name](name, 5, [4, 8], **settings), 16)
        layers = list(map(type, model.modules()))
        assert type(model.decoder.blocks[-1]) is kinds[settings["last_layer"]]
        for key in ("norm", "activation"):
            assert kinds[settings[key]] in layers
            assert kinds[not_chosen[key]] not in layers


def test_a_subpixel_convolution_is_torchs_pixel_shuffle():
    layer = SubpixelConv(5, 3)
    x = torch.rand(2, 5, 4, 6).to(memory_format=torch.channels_last)
    maps = torch.nn.functional.conv2d(x, layer.weight, layer.bias, padding=1)
    by_pixel = maps.unflatten(1, (4, 3)).transpose(1, 2).flatten(1, 2)  # pixels within channels
    torch.testing.assert_close(layer(x), torch.pixel_shuffle(by_pixel, 2))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("width_in", "width", "height", "across", "layout"),
    [
        (3, 5, 6, 5, torch.contiguous_format),
        (4, 1, 1, 1, torch.contiguous_format),
        (2, 3, 1, 7, torch.channels_last),
        (5, 9, 2, 2, torch.channels_last),
    ],
)
def test_upsample_conv_equals_upsampling_and_convolution(
    form, width_in, width, height, across, layout
):
    torch.manual_seed(0)
    layer = UpsampleConv(width_in, width).double().to(memory_format=layout)
    layer.form = form
    plain = nn.Conv2d(width_in, width, 3, padding=1).double()
    plain.load_state_dict(layer.state_dict())  # the same parameters under the same names
    reference = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), plain)
    x = torch.randn(2, width_in, height, across, dtype=torch.float64)
    x = x.to(memory_format=layout).requires_grad_()
    y = x.detach().clone().requires_grad_()
    weight = torch.randn(2, width, 2 * height, 2 * across, dtype=torch.float64)
    (layer(x) * weight).sum().backward()
    (reference(y) * weight).sum().backward()
    torch.testing.assert_close(layer(x), reference(y))
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad)
    torch.testing.assert_close(layer.bias.grad, plain.bias.grad)


@pytest.mark.parametrize(
    ("form", "convolution"), [("transposed", "conv_transpose2d"), ("subpixel", "conv2d")]
)
def test_sums_of_taps_are_rounded_once_in_bfloat16(form, convolution, monkeypatch):
    """By the convolution; rounded before, too, they would have 1.16 times the error."""
    convolve = mock.Mock(wraps=getattr(nn.functional, convolution))
    monkeypatch.setattr(nn.functional, convolution, convolve)
    layer = UpsampleConv(4, 3)
    layer.form = form
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.rand(1, 4, 8, 8)).dtype == torch.bfloat16
    assert convolve.call_args.args[1].dtype == torch.float32


def test_gradients_reach_every_parameter():
    model = build_model(ConvConfig("conv", 5, [8, 16]), 16)
    logits, posterior = model(torch.rand(4, 3, 16, 16), torch.randn(4, 5))
    (logits.square().mean() + posterior.kl().mean()).backward()
    assert all(parameter.grad.any() for parameter in model.parameters())


def test_the_form_rule_matches_the_measurements():
    """docs/performance.md, of the default model's layers and of one that is smaller."""
    layers = [(2, 256), (4, 128), (8, 64), (16, 32), (32, 3)]
    on_cpu = [fastest_form("cpu", 32, *layer) for layer in layers]
    assert on_cpu == ["plain", "transposed", "transposed", "transposed", "subpixel"]
    assert {fastest_form("cuda", 32, *layer) for layer in layers} == {"plain"}
    large = [fastest_form("cuda", 512, *layer) for layer in layers]
    assert large == ["plain", "plain", "plain", "transposed", "transposed"]
