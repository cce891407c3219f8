"""Streamed statistics, the aggregate posterior and the importance-weighted bound.

Against NumPy, samples, torch.distributions and a model whose likelihood is known.
"""

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from vae.evaluation.latents import (
    AggregatePosterior,
    RunningGaussian,
    encode_split,
    importance_weighted_bounds,
)
from vae.models.base import VAE
from vae.models.posterior import Posterior


@pytest.mark.parametrize("batches", [[500], [1] * 500, [499, 1], [1, 0, 250, 3, 246]])
@pytest.mark.parametrize(("scale", "offset"), [(1, 3.0), (1e-3, 1e6)])
def test_streamed_moments_equal_one_pass(batches, scale, offset):
    """Also where the spread is small beside the mean."""
    random = np.random.default_rng(0)
    features = random.normal(size=(500, 12)) @ random.normal(size=(12, 12)) * scale + offset
    gaussian = RunningGaussian(12)
    for part in torch.from_numpy(features).split(batches):
        gaussian.update(part)
    assert gaussian.count == 500
    exact = features - offset  # what is in the features, moved without rounding
    np.testing.assert_allclose(gaussian.mean, features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(gaussian.covariance, np.cov(exact.T), rtol=1e-4, atol=1e-10)


def test_float32_features_are_summed_in_float64():
    features = torch.randn(2000, 4, generator=torch.Generator().manual_seed(3)) + 100
    exact = features.double().numpy()
    gaussian = RunningGaussian(4)
    gaussian.update(features)
    np.testing.assert_allclose(gaussian.mean, exact.mean(0), rtol=1e-12)
    np.testing.assert_allclose(gaussian.covariance, np.cov(exact.T), rtol=1e-9)


@pytest.mark.parametrize("count", [0, 1])
def test_a_covariance_needs_two_samples(count):
    gaussian = RunningGaussian(3)
    gaussian.update(torch.zeros(count, 3))
    with pytest.raises(ValueError, match=f"at least 2 features; there are {count}"):
        _ = gaussian.covariance


def aggregate(mean, logvar, batch):
    q = AggregatePosterior(mean.shape[1])
    for m, v in zip(mean.split(batch), logvar.split(batch), strict=True):
        q.update(Posterior(m, v))
    return q


@pytest.fixture
def posteriors():
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(500, 3, generator=generator) @ torch.randn(3, 3, generator=generator) + 1
    return mean, torch.randn(500, 3, generator=generator) - 1


@pytest.mark.parametrize("batch", [1, 64, 500])
def test_aggregate_moments_match_samples(posteriors, batch):
    q = aggregate(*posteriors, batch)
    mean, logvar = posteriors
    noise = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(1))
    drawn = (mean.repeat(400, 1) + (logvar / 2).exp().repeat(400, 1) * noise).double()
    assert torch.allclose(q.mean, drawn.mean(0), atol=0.02)
    assert torch.allclose(q.covariance, torch.cov(drawn.T), rtol=0.02, atol=0.03)


def test_aggregate_kl_equals_torch_distributions(posteriors):
    q = aggregate(*posteriors, 100)
    fitted = MultivariateNormal(q.mean, q.covariance)
    prior = MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    assert q.kl_to_prior() == pytest.approx(kl_divergence(fitted, prior).item(), rel=1e-6)


def test_aggregate_kl_is_zero_for_the_prior_and_at_most_the_rate(posteriors):
    collapsed = aggregate(torch.zeros(100, 3), torch.zeros(100, 3), 10)
    assert collapsed.kl_to_prior() == pytest.approx(0, abs=1e-9)
    rate = Posterior(*posteriors).kl().sum(1).mean().item()
    assert 0 < aggregate(*posteriors, 100).kl_to_prior() < rate


SIZE, LATENTS = 2, 2
VALUES = 3 * SIZE**2
VARIANCE = 0.04


class Linear(VAE):
    """x = W z + b + noise: p(x) is a Gaussian, and the posterior is known."""

    def __init__(self, wrong=0.0):
        super().__init__(nn.Identity(), nn.Identity(), LATENTS)
        torch.manual_seed(0)
        self.weight, self.bias = nn.Parameter(torch.randn(VALUES, LATENTS) / 4), torch.rand(VALUES)
        self.requires_grad_(False)
        precision = torch.eye(LATENTS) + self.weight.T @ self.weight / VARIANCE
        self.covariance = torch.linalg.inv(precision)
        self.wrong = wrong

    def encode(self, images):
        x = images.flatten(1) - self.bias
        mean = x @ self.weight @ self.covariance / VARIANCE
        logvar = self.covariance.diagonal().log().expand_as(mean)
        return Posterior(mean + self.wrong, logvar)

    def decode(self, latents):
        return (latents @ self.weight.T + self.bias).view(-1, 3, SIZE, SIZE)

    def log_likelihood(self, images):
        covariance = self.weight @ self.weight.T + VARIANCE * torch.eye(VALUES)
        return MultivariateNormal(self.bias.double(), covariance.double()).log_prob(
            images.flatten(1).double()
        )


@pytest.mark.parametrize(("most", "kept"), [(1, 1), (128, 128), (130, 130), (500, 300)])
def test_an_encoded_split_keeps_the_first_means(most, kept):
    images = np.random.default_rng(0).integers(256, size=(300, SIZE, SIZE, 3), dtype=np.uint8)
    means, q = encode_split(Linear(), images, most, "val")
    expected = Linear().encode(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).mean
    torch.testing.assert_close(means, expected[:kept], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(q.mean, expected.double().mean(0), atol=1e-5, rtol=1e-5)


def bounds(model, images, samples, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return importance_weighted_bounds(model, images.split(4), samples, VARIANCE, generator)


@pytest.fixture
def images():
    return torch.rand(6, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def test_many_samples_approach_the_likelihood(images):
    model = Linear(wrong=0.1)
    one, many = bounds(model, images, 20_000)
    exact = model.log_likelihood(images)
    assert torch.allclose(many, exact, atol=0.05)
    assert (one < exact).all()
    assert (exact - one).mean() > 0.1  # or it would be nothing to reach


@pytest.mark.parametrize("decoded_at_once", [2, 256])
def test_bounds_equal_a_plain_loop(images, monkeypatch, decoded_at_once):
    monkeypatch.setattr("vae.evaluation.latents.DECODED_AT_ONCE", decoded_at_once)
    model = Linear(wrong=0.2)
    one, many = bounds(model, images, 3, seed=5)
    generator = torch.Generator().manual_seed(5)
    posterior = model.encode(images)
    for i, image in enumerate(images):
        noise = torch.randn(3, LATENTS, generator=generator)
        z = posterior.mean[i] + posterior.std[i] * noise
        weights = (
            Normal(model.decode(z).double(), VARIANCE**0.5).log_prob(image).flatten(1).sum(1)
            + Normal(0, 1).log_prob(z.double()).sum(1)
            - Normal(posterior.mean[i].double(), posterior.std[i].double()).log_prob(z).sum(1)
        )
        assert one[i].item() == pytest.approx(weights.mean().item(), rel=1e-6)
        expected = weights.exp().mean().log()
        assert many[i].item() == pytest.approx(expected.item(), rel=1e-6)


class OnMPS(torch.Tensor):
    """As on a Mac's GPU: float32 at most, until it is brought to the CPU."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        found = super().__torch_function__(func, types, args, kwargs or {})
        if func is torch.Tensor.cpu:
            return found.as_subclass(torch.Tensor)
        if isinstance(found, OnMPS) and found.dtype == torch.float64:
            raise TypeError("the MPS framework doesn't support float64")
        return found


def test_no_float64_before_the_cpu(images):
    expected = bounds(Linear(), images, 5)
    found = bounds(Linear(), images.as_subclass(OnMPS), 5)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    moments, q = RunningGaussian(LATENTS), AggregatePosterior(LATENTS)
    q.update(Linear().encode(images.as_subclass(OnMPS)))
    moments.update(images.as_subclass(OnMPS).flatten(1)[:, :LATENTS])
    assert (q.means.count, moments.count) == (6, 6)
