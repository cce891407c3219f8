"""The discretized Gaussian against SciPy, brute force, and noise of a known σ."""

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
from torch import nn

from vae.data.loader import evaluation_batches
from vae.evaluation.likelihood import discretized_distortion, level_log_probability
from vae.losses import BernoulliConfig
from vae.models import ConvConfig, build_model
from vae.models.base import VAE
from vae.models.posterior import Posterior
from vae.training.metrics import evaluate_split

CPU = torch.device("cpu")
SIZE = 8
VALUES = 3 * SIZE**2


def log_probabilities(decoded, sigma):
    """Of the levels 0 to 255; both arguments in [0, 1]."""
    levels = torch.arange(256).double()
    distance = (levels - 255 * decoded).abs()
    return level_log_probability(distance, (levels == 0) | (levels == 255), 255 * sigma)


@pytest.mark.parametrize("sigma", [1e-4, 1e-3, 0.05, 1.0, 30.0])
@pytest.mark.parametrize("decoded", [0.0, 0.0011, 0.3, 0.5, 1.0])
def test_probabilities_of_the_levels(decoded, sigma):
    """They sum to 1 and are SciPy's, also where a probability is below the least float."""
    found = log_probabilities(decoded, sigma)
    assert found.exp().sum().item() == pytest.approx(1, abs=1e-10)
    assert (found <= 0).all()
    edges = np.array([-np.inf, *(np.arange(255) + 0.5), np.inf]) / 255
    # Of the mirrored interval above the mean, where SciPy's log of the survival has all digits.
    flip = edges[:-1] + edges[1:] < 2 * decoded
    near = np.where(flip, decoded - edges[1:], edges[:-1] - decoded) / sigma
    far = np.where(flip, decoded - edges[:-1], edges[1:] - decoded) / sigma
    logs = scipy.stats.norm.logsf(near), scipy.stats.norm.logsf(far)
    expected = logs[0] + np.log(-np.expm1(logs[1] - logs[0]))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-12)


def test_a_residual_of_the_whole_range_stays_finite():
    log_p = log_probabilities(0.0, 1e-4)
    assert log_p[-1].item() == pytest.approx(-0.5 * (254.5 / 255 / 1e-4) ** 2, rel=1e-3)
    assert log_p[-2].item() == pytest.approx(-0.5 * (253.5 / 255 / 1e-4) ** 2, rel=1e-3)


class Offset(VAE):
    """Decodes to the image that it encoded, plus a constant and noise of the latents."""

    def __init__(self, offset=0.0, spread=0.0):
        super().__init__(nn.Identity(), nn.Identity(), VALUES)
        self.offset, self.logvar = offset, 2 * math.log(spread) if spread else -30.0

    def encode(self, images):
        mean = images.flatten(1) + self.offset
        return Posterior(mean, torch.full_like(mean, self.logvar))

    def decode(self, latents):
        return latents.view(-1, 3, SIZE, SIZE).clamp(0, 1)


def pictures(low, high, count=300):
    shape = (count, SIZE, SIZE, 3)
    return np.random.default_rng(0).integers(low, high + 1, shape, dtype=np.uint8)


def measure(model, images, seed=0):
    return discretized_distortion(model, evaluation_batches(images, 128, CPU), seed)


class Constant(Offset):
    """Decodes to the grey level 128."""

    def decode(self, latents):
        return torch.full((len(latents), 3, SIZE, SIZE), 128 / 255)


@pytest.mark.parametrize("sigma", [0.004, 0.02, 0.1])
def test_sigma_is_that_of_the_noise(sigma):
    """Before its rounding to levels, which the plain variance would count too."""
    noise = 255 * sigma * np.random.default_rng(1).normal(size=(300, SIZE, SIZE, 3))
    nats, found = measure(Constant(), np.round(128 + noise).astype(np.uint8))
    assert found == pytest.approx(sigma, rel=0.01)
    entropy = scipy.stats.norm(scale=math.sqrt((255 * sigma) ** 2 + 1 / 12)).entropy()
    assert nats / VALUES == pytest.approx(entropy, abs=0.01)


@pytest.mark.parametrize(("low", "high"), [(0, 255), (0, 12), (60, 190), (250, 255)])
def test_the_bound_equals_brute_force(low, high):
    """On images with and without end levels, from the noise of `evaluate_split`."""
    images, model = pictures(low, high), Offset(0.01, 0.03)
    nats, sigma = measure(model, images, seed=3)
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    generator = torch.Generator().manual_seed(3)
    noise = torch.cat([torch.randn(n, VALUES, generator=generator) for n in (128, 128, 44)])
    decoded = model.decode(model.encode(x / 255).rsample(noise)).double().numpy()
    levels = x.numpy()

    def brute_force(log_sigma):
        normal = scipy.stats.norm(decoded, math.exp(log_sigma))
        above = np.where(levels == 255, 1, normal.cdf((levels + 0.5) / 255))
        below = np.where(levels == 0, 0, normal.cdf((levels - 0.5) / 255))
        return -np.log(above - below).sum() / len(images)

    best = scipy.optimize.minimize_scalar(brute_force, bounds=(-5, -1), method="bounded")
    assert sigma == pytest.approx(math.exp(best.x), rel=1e-3)
    assert nats == pytest.approx(best.fun, rel=1e-5)


def test_perfect_reconstructions_cost_nothing():
    nats, sigma = measure(Offset(), pictures(0, 255))
    assert 0 <= nats / VALUES < 1e-6
    assert 0 < sigma < 1 / 255


def test_grey_for_black_and_white_costs_one_bit():
    nats, sigma = measure(Constant(), 255 * pictures(0, 1))
    assert nats / VALUES == pytest.approx(math.log(2), rel=0.02)
    assert sigma > 10


@pytest.mark.parametrize(("low", "high"), [(40, 215), (0, 255)])
def test_the_bound_is_the_bpd_and_lower_with_end_levels(low, high):
    """With the noise of `evaluate_split`; σ is tens of levels, so that their width is small."""
    torch.manual_seed(0)
    model = build_model(ConvConfig(name="conv", latent_dim=6, channels=[8, 16]), SIZE).eval()
    loss = BernoulliConfig(name="bce", beta=0.1, kl_reduction="latents")
    images = np.where(pictures(0, 2) > 0, pictures(40, 215), pictures(low, high))
    images = images.astype(np.uint8)
    found = evaluate_split(model, evaluation_batches(images, 128, CPU), loss, seed=5).metrics
    nats, _ = measure(model, images, seed=5)
    bits = (nats + found["rate"]) / (VALUES * math.log(2))
    assert bits == pytest.approx(found["bpd"], abs=1e-4) if low else bits < found["bpd"] - 1e-3
