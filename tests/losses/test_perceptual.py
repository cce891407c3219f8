"""Perceptual terms against their formula, and the maps of their networks."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate
from torchvision.models import vgg19

from tests.support.ms_ssim import reference_ms_ssim
from tests.support.vgg import write_vgg
from vae.losses import loss_terms, perceptual
from vae.losses.likelihoods import MSEConfig
from vae.losses.perceptual import (
    FaceConfig,
    MSSSIMTermConfig,
    NetworkConfig,
    PerceptualConfig,
    VGGConfig,
)
from vae.models import Posterior
from vae.models.face_net import load_face_net
from vae.utils.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def pictures():
    """Logits and images."""
    generator = torch.Generator().manual_seed(0)
    shape = (4, 3, 32, 32)
    return torch.randn(shape, generator=generator), torch.rand(shape, generator=generator)


@dataclass
class TwoMapsConfig(NetworkConfig):
    """The image itself and its means over 2x2 pixels."""

    def maps(self, device):
        return lambda images: [images, 10 * avg_pool2d(images, 2)]


def test_the_term_is_the_mean_of_relative_distances_and_part_of_the_loss(pictures):
    logits, images = pictures
    made = logits.sigmoid()
    small, small_made = avg_pool2d(images, 2), avg_pool2d(made, 2)
    expected = sum(
        ((b - a) ** 2).sum() / (a**2).sum()
        for original, other in ((images, made), (small, small_made))
        for a, b in zip(original, other, strict=True)
    )
    posterior = Posterior(torch.ones(4, 2), torch.zeros(4, 2))

    def terms(term):
        loss = MSEConfig("mse", 0.1, "latents", perceptual=term)
        return loss_terms(loss, logits, images, posterior, posterior.mean)

    plain, found = terms(PerceptualConfig()), terms(TwoMapsConfig("", weight=3.0))
    assert plain.perceptual is None
    torch.testing.assert_close(found.perceptual, 3 * expected / (2 * 4))
    torch.testing.assert_close(found.loss, plain.loss + found.perceptual)
    assert terms(TwoMapsConfig("", weight=0.0)).loss == plain.loss
    assert TwoMapsConfig("", weight=3.0).term(images.logit(), images) < 1e-9


def test_the_ms_ssim_term_is_of_the_luminance(pictures):
    noise, images = (x.double() for x in pictures)
    logits = images.clamp(0.05, 0.95).logit() + 0.5 * noise
    grey = [
        0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:] for x in (images, logits.sigmoid())
    ]
    similarity = reference_ms_ssim(*grey, scales=2).mean()
    term = MSSSIMTermConfig("ms_ssim", weight=0.3).term(logits, images)
    torch.testing.assert_close(term, 0.3 * (1 - similarity))


def test_vgg_has_torchvisions_maps(tmp_path, monkeypatch, pictures):
    """With random weights in the place of the download."""
    from torchvision.transforms.functional import normalize

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    state = write_vgg(tmp_path)
    with torch.device("meta"):
        layers = vgg19().features[:12]
    layers.load_state_dict(
        {name.removeprefix("features."): value for name, value in state.items()}, assign=True
    )
    logits, images = pictures
    expected = []
    for layer in (1, 6, 11):
        layers[layer].register_forward_hook(lambda _, __, out: expected.append(out.clone()))
    layers(normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    config = VGGConfig("vgg", weight=1.0)
    found = config.maps(CPU)(images)
    assert [tuple(x.shape[1:]) for x in found] == [(64, 32, 32), (128, 16, 16), (256, 8, 8)]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    check_gradients(config, logits, images)


def test_the_face_network_has_the_maps_of_its_forward_pass(pictures):
    logits, images = pictures
    net, expected = load_face_net(), []
    for pair in (2, 6, 9):
        net.pairs[pair].register_forward_hook(lambda _, __, out: expected.append(out))
    net(interpolate(images, (150, 150), mode="bilinear", antialias=True))
    config = FaceConfig("face", weight=1.0)
    found = config.maps(CPU)(images)
    assert [x.shape[1] for x in found] == [32, 64, 128]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    check_gradients(config, logits, images)


def check_gradients(config, logits, images):
    """They reach the logits and nothing else, wherever the network was loaded."""
    with torch.inference_mode():  # as in a validation before the first step
        before = config.term(logits, images)
    leaf = logits.clone().requires_grad_()
    loss = config.term(leaf, images)
    assert loss.item() == pytest.approx(before.item(), rel=1e-5)
    loss.backward()
    assert leaf.grad.any()
    small = leaf.detach() - 0.5 * leaf.grad / leaf.grad.norm()
    assert config.term(small, images) < loss
    in_bf16 = config.term(leaf, images, torch.autocast("cpu", torch.bfloat16))
    assert in_bf16.dtype == torch.float32
    assert in_bf16.item() == pytest.approx(loss.item(), rel=0.02)


@pytest.mark.parametrize("content", [None, b"<html>"])
def test_vgg_without_its_weights(tmp_path, monkeypatch, content):
    """The message says where to put them."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    if content:
        write_vgg(tmp_path, content)
    said = r"loss/perceptual=vgg: .*could not be loaded .*Download \S+vgg19-\S+ to \S+/vgg19-"
    with pytest.raises(UserError, match=said):
        VGGConfig("vgg", weight=1.0).load(CPU)


def test_weights_are_frozen(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    write_vgg(tmp_path)
    for net in (perceptual._face_net(CPU), perceptual._vgg(CPU)):
        assert isinstance(net, nn.Module)
        assert not net.training
        assert not any(weight.requires_grad for weight in net.parameters())
