"""The importance-weighted bound, against models whose likelihood is known."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, Normal

from vae.evaluation.latents import AggregatePosterior, RunningGaussian, importance_weighted_bounds
from vae.models import build_model
from vae.models.base import VAE
from vae.models.conv import ConvConfig
from vae.training.metrics import bits_per_dim, evaluate_split, gaussian_distortion

SIZE, LATENTS = 2, 2
VALUES = 3 * SIZE**2
VARIANCE = 0.04


class Linear(VAE):
    """x = W z + b + noise: p(x) is a Gaussian, and the posterior is known."""

    def __init__(self, wrong=0.0):
        super().__init__(nn.Identity(), nn.Identity(), LATENTS)
        torch.manual_seed(0)
        self.weight, self.bias = torch.randn(VALUES, LATENTS) / 4, torch.rand(VALUES)
        precision = torch.eye(LATENTS) + self.weight.T @ self.weight / VARIANCE
        self.covariance = torch.linalg.inv(precision)
        self.wrong = wrong

    def encode(self, images):
        from vae.models.posterior import Posterior

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


def bounds(model, images, samples, seed=0, batch=4):
    generator = torch.Generator().manual_seed(seed)
    return importance_weighted_bounds(model, images.split(batch), samples, VARIANCE, generator)


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


def test_the_bound_grows_with_the_samples(images):
    often = images.repeat(50, 1, 1, 1)  # in the mean, that is
    means = [bounds(Linear(wrong=0.3), often, k)[1].mean() for k in (1, 2, 4, 16, 64)]
    assert means == sorted(means)
    assert means[-1] - means[0] > 0.5


def test_one_sample_equals_the_elbo(images):
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


def test_the_bound_does_not_depend_on_batches(images):
    model = Linear()
    for a, b in zip(
        bounds(model, images, 7, batch=1), bounds(model, images, 7, batch=6), strict=True
    ):
        assert torch.allclose(a, b, atol=1e-4)


def test_samples_are_decoded_in_chunks(images, monkeypatch):
    whole = bounds(Linear(wrong=0.1), images, 10)
    monkeypatch.setattr("vae.evaluation.latents.DECODED_AT_ONCE", 4)
    parts = bounds(Linear(wrong=0.1), images, 10)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(whole, parts, strict=True))


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
    moments, aggregate = RunningGaussian(LATENTS), AggregatePosterior(LATENTS)
    aggregate.update(Linear().encode(images.as_subclass(OnMPS)))
    moments.update(images.as_subclass(OnMPS).flatten(1)[:, :LATENTS])
    assert (aggregate.means.count, moments.count) == (6, 6)


def test_one_sample_agrees_with_bpd():
    """The same likelihood and prior as val/bpd: with many images the ELBOs agree."""
    torch.manual_seed(0)
    model = build_model(ConvConfig("conv", latent_dim=3, channels=[4, 8]), 16).eval()
    images = torch.rand(64, 3, 16, 16)
    from vae.losses import BernoulliConfig

    measured = evaluate_split(model, [images], BernoulliConfig("bce", 1.0, "latents")).metrics
    values = 3 * 16**2
    variance = math.exp(2 * measured["distortion"] / values - 1) / (2 * math.pi)
    assert gaussian_distortion(variance, values) == pytest.approx(measured["distortion"])
    one, _ = importance_weighted_bounds(
        model, [images], 64, variance, torch.Generator().manual_seed(0)
    )
    assert bits_per_dim(-one.mean().item(), 0, values) == pytest.approx(measured["bpd"], abs=5e-3)
