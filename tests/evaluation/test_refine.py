"""Optimised posteriors and the amortisation gap, on a model whose posterior is known."""

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from tests.evaluation.test_latents import LATENTS, SIZE, VARIANCE, Linear
from vae.evaluation.refine import amortized_and_optimized, negative_elbo, refine_posterior
from vae.models.posterior import Posterior


class Encoded(Linear):
    """Its encoder is off the optimal diagonal posterior, which has the precision's diagonal."""

    def __init__(self, shift=0.0, scale=1.0):
        super().__init__()
        self.shift, self.scale = shift, scale

    def optimum(self, images):
        logvar = -torch.linalg.inv(self.covariance).diagonal().log()
        mean = super().encode(images).mean
        return Posterior(mean, logvar.expand_as(mean))

    def encode(self, images):
        best = self.optimum(images)
        return Posterior(best.mean + self.shift, best.logvar + 2 * torch.tensor(self.scale).log())

    def negative_elbo(self, images, posterior):
        """KL(q || p(z|x)) - log p(x), by torch.distributions."""
        variances = posterior.logvar.double().exp()
        ours = MultivariateNormal(posterior.mean.double(), variances.diag_embed())
        true = MultivariateNormal(self.optimum(images).mean.double(), self.covariance.double())
        return kl_divergence(ours, true) - self.log_likelihood(images)


@pytest.fixture
def images():
    return torch.rand(6, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("inference", "trainable"), [(False, True), (True, False)])
def test_a_bad_posterior_becomes_the_optimal_one(inference, trainable, images):
    """Also where the caller is in inference mode; the decoder stays as it is."""
    model = Encoded(shift=-2.0, scale=5.0).requires_grad_(trainable)
    weight = model.weight.detach().clone()
    with torch.inference_mode(inference):
        found = refine_posterior(model, images + 0, 500, VARIANCE, generator=seeded())
    best = model.optimum(images)
    torch.testing.assert_close(found.mean, best.mean, atol=0.05, rtol=0)
    torch.testing.assert_close(found.logvar, best.logvar, atol=0.3, rtol=0)
    start, reached, least = (
        model.negative_elbo(images, each) for each in (model.encode(images), found, best)
    )
    assert (start - least).min() > 100
    assert (reached - least).max() < 0.05
    assert not found.mean.requires_grad
    assert not found.logvar.requires_grad
    assert torch.equal(model.weight, weight)
    assert (model.weight.grad, model.weight.requires_grad) == (None, trainable)


def test_the_noise_is_the_seeds_and_other_images_do_not_matter(images, monkeypatch):
    def refine(images, seed=0):
        found = refine_posterior(model, images, 5, generator=seeded(seed))
        return torch.stack([found.mean, found.logvar])

    model = Encoded(shift=0.3)
    found = refine(images)
    assert torch.equal(refine(images), found)
    assert not torch.allclose(refine(images, seed=1), found, atol=1e-3)
    torch.testing.assert_close(refine(images[2:3]), found[:, 2:3])
    monkeypatch.setattr("vae.evaluation.refine.REFINED_AT_ONCE", 4)
    torch.testing.assert_close(refine(images), found)


def test_no_image_gets_a_worse_posterior(images, monkeypatch):
    """Half of the images start at the optimum, which steps of this size leave."""
    monkeypatch.setattr("vae.evaluation.refine.LEARNING_RATE", 1.0)
    model = Encoded(shift=torch.tensor([0.0, 5.0]).repeat(3)[:, None])
    start = model.encode(images)
    found = refine_posterior(model, images, 1, VARIANCE, generator=seeded())
    kept = (found.mean == start.mean).all(1) & (found.logvar == start.logvar).all(1)
    assert kept.tolist() == [True, False] * 3
    before, after = (model.negative_elbo(images, each) for each in (start, found))
    assert (after <= before).all()


def test_without_a_variance_each_image_has_its_optimal_one(images):
    model = Encoded(shift=0.2)
    posterior = model.encode(images)
    noise = torch.randn(3, len(images), LATENTS, generator=seeded())
    found = negative_elbo(model, images, posterior, None, noise)
    grid = torch.logspace(-3, 1, 2000)
    decoded = torch.stack([model.decode(posterior.mean + posterior.std * each) for each in noise])
    likelihoods = [
        Normal(decoded, variance.sqrt()).log_prob(images).flatten(2).sum(2).mean(0)
        for variance in grid
    ]
    prior = Independent(Normal(torch.zeros(LATENTS), torch.ones(LATENTS)), 1)
    rates = kl_divergence(Independent(Normal(posterior.mean, posterior.std), 1), prior)
    expected = rates - torch.stack(likelihoods).amax(0)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.3, 1.0), (-0.2, 2.0)])
def test_the_gap_is_the_difference_of_kl_divergences(shift, scale, images):
    model = Encoded(shift, scale)
    found = amortized_and_optimized(model, images.split(4), 500, VARIANCE, seeded())
    posteriors = model.encode(images), model.optimum(images)
    expected = [model.negative_elbo(images, each) for each in posteriors]
    gap, true_gap = (before - after for before, after in (found, expected))
    assert (true_gap.mean() > 0.5) == (shift != 0)
    torch.testing.assert_close(gap.mean(), true_gap.mean(), atol=0.02, rtol=0.05)
    for nats, exact in zip(found, expected, strict=True):  # few samples, so less exact
        torch.testing.assert_close(nats.mean(), exact.mean(), atol=0.5, rtol=0)
