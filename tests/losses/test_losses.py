"""The loss against its formula, written out independently."""

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from vae.losses import BernoulliConfig, MSEConfig, beta_elbo
from vae.losses import loss_terms as terms_of_latents
from vae.losses.regularizers import FreeBitsConfig, RegularizerConfig
from vae.losses.schedules import WarmupConfig
from vae.models import Posterior

SIZE, LATENTS, BATCH = 8, 5, 4
VALUES = 3 * SIZE**2


def config(name="bce", beta=0.3, kl_reduction="latents", **settings):
    kind = {"bce": BernoulliConfig, "mse": MSEConfig}[name]
    return kind(name=name, beta=beta, kl_reduction=kl_reduction, **settings)


def loss_terms(settings, logits, images, posterior, **moment):
    return terms_of_latents(settings, logits, images, posterior, posterior.mean, **moment)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(BATCH, 3, SIZE, SIZE, generator=generator)
    images = torch.rand(BATCH, 3, SIZE, SIZE, generator=generator)
    mean = torch.randn(BATCH, LATENTS, generator=generator)
    logvar = torch.randn(BATCH, LATENTS, generator=generator)
    return logits, images, mean, logvar


def test_bce_loss_and_its_gradients_equal_the_formula(batch):
    logits, images, mean, logvar = batch
    leaves = [x.requires_grad_() for x in (logits, mean, logvar)]
    kl = -0.5 * torch.mean(1 + logvar - mean**2 - torch.exp(logvar))
    expected = nn.BCELoss()(torch.sigmoid(logits), images) + 0.3 * kl
    loss = loss_terms(config(), logits, images, Posterior(mean, logvar)).loss
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(it, leaves) for it in (loss, expected)))


def test_beta_one_with_kl_over_pixels_is_the_elbo():
    """On binary images BCE is a Bernoulli's likelihood, so the ELBO is that of torch's."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(BATCH, 3, SIZE, SIZE, generator=generator)
    images = (torch.rand(BATCH, 3, SIZE, SIZE, generator=generator) < 0.5).float()
    mean, std = torch.randn(BATCH, LATENTS), torch.rand(BATCH, LATENTS) + 0.1
    prior = Normal(torch.zeros(()), torch.ones(()))
    elbo = Bernoulli(logits=logits).log_prob(images).flatten(1).sum(1)
    elbo = elbo - kl_divergence(Normal(mean, std), prior).sum(1)
    terms = loss_terms(
        config(beta=1, kl_reduction="pixels"), logits, images, Posterior(mean, 2 * std.log())
    )
    torch.testing.assert_close(terms.loss * VALUES, -elbo.mean())
    torch.testing.assert_close(terms.distortion + terms.rate, -elbo.mean())


@pytest.mark.parametrize("name", ["bce", "mse"])
@pytest.mark.parametrize("reduction", ["latents", "pixels"])
def test_beta_elbo_is_the_weight_of_the_penalty_in_nats(batch, name, reduction):
    """loss · D = distortion + beta_elbo · penalty, all in nats per image."""
    logits, images, mean, logvar = batch
    kl = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0))
    for regularizer, penalty in (
        (RegularizerConfig(), kl.sum(1).mean()),
        (FreeBitsConfig("free_bits", nats=0.7), kl.mean(0).clamp(min=0.7).sum()),
    ):
        settings = config(name, kl_reduction=reduction, regularizer=regularizer)
        terms = loss_terms(settings, logits, images, Posterior(mean, logvar))
        weight = beta_elbo(settings, SIZE, LATENTS)
        torch.testing.assert_close(terms.loss * VALUES, terms.distortion + weight * terms.penalty)
        torch.testing.assert_close(terms.penalty, penalty)
        torch.testing.assert_close(terms.rate, kl.sum(1).mean())


def test_beta_elbo_of_the_default():
    """At 64 px and 128 latents, 96 beta."""
    assert beta_elbo(config(beta=1e-4), 64, 128) == pytest.approx(96e-4)
    assert beta_elbo(config(beta=1e-4, kl_reduction="pixels"), 64, 128) == pytest.approx(1e-4)


def test_saturated_logits_stay_finite():
    logits = torch.full((1, 3, 8, 8), 500.0)
    point = Posterior(torch.zeros(1, 2), torch.zeros(1, 2))
    assert loss_terms(config(), logits, torch.zeros(1, 3, 8, 8), point).loss == 500


def test_beta_follows_its_schedule(batch):
    """Half-way up, half of it weighs; the end of a run is where validation stands."""
    logits, images, *moments = batch

    def loss(settings, **moment):
        return loss_terms(settings, logits, images, Posterior(*moments), **moment).loss

    rising = config(schedule=WarmupConfig("warmup", epochs=4.0))
    torch.testing.assert_close(loss(rising, epoch=2.0), loss(config(beta=0.15)))
    torch.testing.assert_close(loss(rising), loss(config()))
