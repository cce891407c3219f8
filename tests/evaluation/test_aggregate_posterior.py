"""The aggregate posterior's moments and its KL, against torch.distributions and samples."""

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from vae.evaluation.latents import AggregatePosterior
from vae.models.posterior import Posterior


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
def test_moments_match_samples(posteriors, batch):
    q = aggregate(*posteriors, batch)
    mean, logvar = posteriors
    generator = torch.Generator().manual_seed(1)
    drawn = Posterior(mean.repeat(400, 1), logvar.repeat(400, 1)).sample(generator).double()
    assert torch.allclose(q.mean, drawn.mean(0), atol=0.02)
    assert torch.allclose(q.covariance, torch.cov(drawn.T), rtol=0.02, atol=0.03)


def test_kl_equals_torch_distributions(posteriors):
    q = aggregate(*posteriors, 100)
    fitted = MultivariateNormal(q.mean, q.covariance)
    prior = MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    assert q.kl_to_prior() == pytest.approx(kl_divergence(fitted, prior).item(), rel=1e-6)


def test_kl_is_zero_for_the_prior_and_at_most_the_rate(posteriors):
    collapsed = aggregate(torch.zeros(100, 3), torch.zeros(100, 3), 10)
    assert collapsed.kl_to_prior() == pytest.approx(0, abs=1e-9)
    rate = Posterior(*posteriors).kl().sum(1).mean().item()
    assert 0 < aggregate(*posteriors, 100).kl_to_prior() < rate
