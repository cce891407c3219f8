"""Each likelihood against torch's distribution of that name."""

import math
from functools import partial

import pytest
import torch
from torch.distributions import Bernoulli, Laplace, Normal

from vae.losses.likelihoods import LEAST_VARIANCE
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


@pytest.mark.parametrize(
    ("name", "settings", "of_means"),
    [
        ("bce", {}, lambda means: Bernoulli(means)),
        *(("mse", {"sigma": s}, partial(Normal, scale=s)) for s in (0.05, 0.5**0.5, 3.0)),
        ("mse", {}, partial(Normal, scale=0.5**0.5)),  # the plain squared error
        *(("laplace", {"scale": b}, partial(Laplace, scale=b)) for b in (0.05, 1.0, 3.0)),
    ],
)
def test_a_distortion_is_torchs_negative_log_likelihood(name, settings, of_means, pictures):
    """Up to the value of a perfect reconstruction, which for binary images is 0."""
    logits, images = pictures
    images = images.round() if name == "bce" else images
    distribution = of_means(logits.sigmoid())
    perfect = 0.0 if name == "bce" else distribution.log_prob(distribution.mean)
    expected = (perfect - distribution.log_prob(images)).mean()
    torch.testing.assert_close(distortion(name, logits, images, **settings), expected)


def test_the_optimal_sigma_minimises_the_loss(pictures):
    logits, images = pictures[0].requires_grad_(), pictures[1]
    means = logits.sigmoid()
    found = distortion("gaussian", logits, images)
    best = (means - images).square().mean().sqrt()
    torch.testing.assert_close(found, -Normal(means, best).log_prob(images).mean())
    for share in (0.9, 1.1):
        assert found < -Normal(means, share * best).log_prob(images).mean()
    # Its gradient is that of a Gaussian with just that σ, held fixed.
    held = distortion("mse", logits, images, sigma=best.item())
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (found, held)))


def test_perfect_reconstructions_stay_finite():
    logits = torch.full(SHAPE, 100.0)
    perfect = distortion("gaussian", logits, torch.ones(SHAPE))
    assert perfect.item() == pytest.approx(0.5 * (math.log(2 * math.pi * LEAST_VARIANCE) + 1))
