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
    aggregate_kl,
    aggregate_posterior,
    encode_means,
    importance_weighted_bounds,
)
from vae.models.base import VAE
from vae.models.posterior import Posterior
from vae.utils.errors import UserError


@pytest.mark.parametrize("batches", [[500], [1] * 500, [1, 250, 3, 246]])
@pytest.mark.parametrize(("scale", "offset", "dtype"), [(1e-3, 1e6, float), (1, 100, np.float32)])
def test_streamed_moments_equal_one_pass(batches, scale, offset, dtype):
    """Also where the spread is small beside the mean, and of features in float32."""
    random = np.random.default_rng(0)
    features = random.normal(size=(500, 12)) @ random.normal(size=(12, 12)) * scale + offset
    features = features.astype(dtype)
    gaussian = RunningGaussian(12)
    for part in torch.from_numpy(features).split(batches):
        gaussian.update(part)
    assert gaussian.count == 500
    exact = features.astype(float) - offset  # what is in the features, moved without rounding
    np.testing.assert_allclose(gaussian.mean - offset, exact.mean(0), rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(gaussian.covariance, np.cov(exact.T), rtol=1e-4, atol=1e-10)


def test_the_aggregate_posterior_equals_samples_and_torch_distributions():
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(500, 3, generator=generator) @ torch.randn(3, 3, generator=generator) + 1
    logvar = torch.randn(500, 3, generator=generator) - 1
    q = AggregatePosterior(3)
    for part in zip(mean.split(64), logvar.split(64), strict=True):
        q.update(Posterior(*part))
    noise = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(1))
    drawn = (mean.repeat(400, 1) + (logvar / 2).exp().repeat(400, 1) * noise).double()
    assert torch.allclose(q.mean, drawn.mean(0), atol=0.02)
    assert torch.allclose(q.covariance, torch.cov(drawn.T), rtol=0.02, atol=0.03)
    fitted = MultivariateNormal(q.mean, q.covariance)
    prior = MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    assert q.kl_to_prior() == pytest.approx(kl_divergence(fitted, prior).item(), rel=1e-6)


def test_the_aggregate_kl_has_no_bias_of_few_images():
    """The KL of the measured moments is too large by 32² / (4 · 320) nats and more."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(32, 32, generator=generator).double() / 4
    variances = torch.linspace(0.001, 0.02, 32).double()
    truth = kl_divergence(
        MultivariateNormal(torch.ones(32).double(), root @ root.T + variances.diag()),
        MultivariateNormal(torch.zeros(32).double(), torch.eye(32).double()),
    ).item()
    draws = []
    for _ in range(20):
        means = 1 + torch.randn(320, 32, generator=generator, dtype=torch.float64) @ root.T
        draws.append(Posterior(means, variances.log().expand(320, 32)))
    found = np.mean([aggregate_kl(draw) for draw in draws])
    plain = np.mean([aggregate_posterior(draw).kl_to_prior() for draw in draws])
    assert found == pytest.approx(truth, abs=0.3)
    assert plain > truth + 0.6


def test_too_few_images_have_no_aggregate_kl():
    means = torch.randn(31, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(
        UserError, match=r"model of 8 latents needs 32 training images; there are 31"
    ):
        aggregate_kl(Posterior(means, means))


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


@pytest.mark.parametrize(("most", "kept"), [(130, 130), (500, 300)])
def test_an_encoded_split_keeps_the_first_means(most, kept, monkeypatch):
    monkeypatch.setattr("vae.evaluation.latents.MAX_ENCODED", most)
    images = np.random.default_rng(0).integers(256, size=(300, SIZE, SIZE, 3), dtype=np.uint8)
    means = encode_means(Linear(), images, "val")
    expected = Linear().encode(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).mean
    torch.testing.assert_close(means, expected[:kept], atol=1e-5, rtol=1e-5)


def bounds(model, images, samples, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return importance_weighted_bounds(model, images.split(4), samples, VARIANCE, generator)


@pytest.fixture
def images():
    return torch.rand(6, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def test_many_samples_approach_the_likelihood(images):
    model = Linear(wrong=0.1)
    one, many, _ = bounds(model, images, 20_000)
    exact = model.log_likelihood(images)
    assert torch.allclose(many, exact, atol=0.05)
    assert (one < exact).all()
    assert (exact - one).mean() > 0.1  # or it would be nothing to reach


def test_bounds_equal_a_plain_loop(images, monkeypatch):
    monkeypatch.setattr("vae.evaluation.latents.DECODED_AT_ONCE", 2)
    model = Linear(wrong=0.2)
    one, many, effective = bounds(model, images, 3, seed=5)
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
        ratio = weights.exp().sum().square() / weights.exp().square().sum()
        assert effective[i].item() == pytest.approx(ratio.item(), rel=1e-6)


@pytest.mark.parametrize("wrong", [0.0, 0.1])
def test_effective_samples_approach_the_renyi_divergence(wrong, images):
    """(E w)² / E w² = exp(-D₂(p(z|x) || q)), in closed form for Gaussians (Gil et al. 2013)."""
    model, samples = Linear(wrong), 20_000
    _, _, effective = bounds(model, images, samples)
    ours, true = model.covariance.diagonal().diag().double(), model.covariance.double()
    mixed = 2 * ours - true
    shift = torch.full((LATENTS,), wrong).double()
    divergence = shift @ torch.linalg.inv(mixed) @ shift
    divergence -= 0.5 * (mixed.logdet() + true.logdet() - 2 * ours.logdet())
    expected = samples * (-divergence).exp()
    assert expected < 0.97 * samples
    torch.testing.assert_close(effective, expected.expand(6), rtol=0.05, atol=0)


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
