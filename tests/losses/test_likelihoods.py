"""Each likelihood against torch's distribution of that name."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Laplace, Normal

from vae.losses import GaussianConfig, LaplaceConfig, MSEConfig, loss_terms
from vae.losses.likelihoods import LEAST_VARIANCE
from vae.models import Posterior
from vae.utils.errors import UserError
from vae.utils.registry import choices

SHAPE = (4, 3, 8, 8)


@pytest.fixture
def pictures():
    """Logits and images."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    return logits, torch.rand(SHAPE, generator=generator, dtype=torch.float64)


def distortion(name, logits, images, **settings):
    """Of the likelihood with that name."""
    loss = choices("loss")[name](name, 0.0, "pixels", **settings)
    return loss.distortion(logits, images, lambda rows: rows)


def without_constant(distribution, images):
    """-log p(images), minus its value for a perfect reconstruction."""
    return (distribution.log_prob(distribution.mean) - distribution.log_prob(images)).mean()


def test_bce(pictures):
    logits, images = pictures
    images = images.round()
    expected = -Bernoulli(logits=logits).log_prob(images).mean()
    torch.testing.assert_close(distortion("bce", logits, images), expected)


@pytest.mark.parametrize("sigma", [0.05, 0.5**0.5, 3.0])
def test_mse(pictures, sigma):
    logits, images = pictures
    expected = without_constant(Normal(logits.sigmoid(), sigma), images)
    torch.testing.assert_close(distortion("mse", logits, images, sigma=sigma), expected)


def test_mse_is_the_plain_squared_error_by_default(pictures):
    logits, images = pictures
    plain = MSEConfig("mse", 0.0, "latents")
    terms = loss_terms(plain, logits, images, *a_posterior())
    torch.testing.assert_close(terms.loss, (logits.sigmoid() - images).square().mean())


@pytest.mark.parametrize("scale", [0.05, 1.0, 3.0])
def test_laplace(pictures, scale):
    logits, images = pictures
    expected = without_constant(Laplace(logits.sigmoid(), scale), images)
    torch.testing.assert_close(distortion("laplace", logits, images, scale=scale), expected)


def test_the_optimal_sigma_minimises_the_loss(pictures):
    logits, images = pictures
    means = logits.sigmoid()
    found = distortion("gaussian", logits, images)
    best = (means - images).square().mean().sqrt()
    torch.testing.assert_close(found, -Normal(means, best).log_prob(images).mean())
    for share in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0):
        assert found < -Normal(means, share * best).log_prob(images).mean()


def test_the_optimal_sigma_has_no_gradient(pictures):
    """The gradient is that of a Gaussian with just that σ, held fixed."""
    logits, images = pictures
    logits.requires_grad_()
    settings = GaussianConfig("gaussian", 0.0, "pixels")
    loss_terms(settings, logits, images, *a_posterior()).loss.backward()
    found, logits.grad = logits.grad, None
    sigma = (logits.sigmoid() - images).square().mean().sqrt().item()
    distortion("mse", logits, images, sigma=sigma).backward()
    torch.testing.assert_close(found, logits.grad)


def test_perfect_reconstructions_stay_finite():
    logits = torch.full(SHAPE, 100.0)
    perfect = distortion("gaussian", logits, torch.ones(SHAPE))
    assert perfect.item() == pytest.approx(0.5 * (math.log(2 * math.pi * LEAST_VARIANCE) + 1))


def a_posterior():
    return Posterior(torch.zeros(4, 2), torch.zeros(4, 2)), torch.zeros(4, 2)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_invalid_scales_are_refused(value):
    with pytest.raises(UserError, match=r"loss\.sigma: got"):
        MSEConfig("mse", 1.0, "pixels", sigma=value)
    with pytest.raises(UserError, match=r"loss\.scale: got"):
        LaplaceConfig("laplace", 1.0, "pixels", scale=value)
