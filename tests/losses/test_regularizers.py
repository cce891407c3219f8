"""Regularizers against torch.distributions, enumerations and samples."""

import itertools
import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from vae.losses.regularizers import (
    BANDWIDTHS,
    CapacityConfig,
    FreeBitsConfig,
    MMDConfig,
    RegularizerConfig,
    TotalCorrelationConfig,
    batch_weights,
    prior_discrepancy,
    total_correlation,
)
from vae.models import Posterior
from vae.utils.registry import choices

BATCH, LATENTS = 6, 3
END = math.inf


@pytest.fixture
def batch():
    """A posterior and a sample of it; float64, which Posterior would make float32."""
    generator = torch.Generator().manual_seed(0)
    mean, logvar, noise = (
        torch.randn(BATCH, LATENTS, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    posterior = Posterior(mean, logvar - 1)
    posterior.mean, posterior.logvar = mean, logvar - 1
    return posterior, posterior.rsample(noise)


def kl_of(posterior):
    return kl_divergence(Normal(posterior.mean, posterior.std), Normal(0.0, 1.0))


def test_kl(batch):
    posterior, latents = batch
    expected = kl_of(posterior).sum(1).mean()
    torch.testing.assert_close(RegularizerConfig().penalty(posterior, latents, END, 100), expected)


def test_rates_below_the_threshold_are_constant(batch):
    posterior, latents = batch
    posterior.mean.requires_grad_()
    rates = kl_of(posterior).mean(0)
    found = FreeBitsConfig("free_bits", nats=0.8).penalty(posterior, latents, END, 100)
    assert found.item() == pytest.approx(sum(max(0.8, rate.item()) for rate in rates))
    found.backward()
    assert posterior.mean.grad.any(dim=0).tolist() == (rates > 0.8).tolist()
    assert rates.min() < 0.8 < rates.max()


@pytest.mark.parametrize(
    ("epochs", "epoch", "capacity"),
    [(2.0, 0, 0), (2.0, 1, 2.5), (2.0, 2, 5), (2.0, 9, 5), (2.0, END, 5), (0.0, 0, 5)],
)
def test_capacity(batch, epochs, epoch, capacity):
    posterior, latents = batch
    config = CapacityConfig("capacity", nats=5.0, epochs=epochs)
    rate = kl_of(posterior).sum(1).mean().item()
    found = config.penalty(posterior, latents, epoch, 100).item()
    assert found == pytest.approx(abs(rate - capacity))


@pytest.mark.parametrize("stratified", [False, True])
def test_total_correlation_of_the_full_data_set(batch, stratified):
    """Both estimates are then of the exact q(z), a mixture."""
    posterior, latents = batch
    parts = Normal(posterior.mean, posterior.std)
    same = Categorical(torch.ones(BATCH, dtype=torch.float64))
    together = MixtureSameFamily(same, Independent(parts, 1)).log_prob(latents)
    each = Normal(posterior.mean.T, posterior.std.T)
    of_each = Categorical(torch.ones(LATENTS, BATCH, dtype=torch.float64))
    alone = MixtureSameFamily(of_each, each).log_prob(latents).sum(1)
    found = total_correlation(posterior, latents, BATCH, stratified)
    expected = (together - alone).mean()
    if not stratified:  # 1 / (B·N) for 1/N: log B too low, once together and L times alone
        expected = expected + (LATENTS - 1) * math.log(BATCH)
    torch.testing.assert_close(found, expected)


def test_stratified_weights_are_unbiased():
    """Whatever the densities of the images: over all batches with image 0, the mean is exact."""
    densities = torch.rand(BATCH, generator=torch.Generator().manual_seed(0))
    (own, *others), *_ = batch_weights(3, BATCH, stratified=True)
    batches = [
        own * densities[0] + sum(w * densities[j] for w, j in zip(others, rest, strict=True))
        for rest in itertools.combinations(range(1, BATCH), 2)
    ]
    torch.testing.assert_close(torch.stack(batches).mean(), densities.mean())
    plain = batch_weights(3, BATCH, stratified=False)
    assert plain.unique().tolist() == pytest.approx([1 / (BATCH * 3)])


def test_total_correlation_at_weight_one_is_the_kl(batch):
    posterior, latents = batch
    one = TotalCorrelationConfig("tc", weight=1.0, estimator="stratified")
    six = TotalCorrelationConfig("tc", weight=6.0, estimator="stratified")
    kl = kl_of(posterior).sum(1).mean()
    torch.testing.assert_close(one.penalty(posterior, latents, END, 100), kl)
    correlation = total_correlation(posterior, latents, 100, stratified=True)
    torch.testing.assert_close(six.penalty(posterior, latents, END, 100), kl + 5 * correlation)


@pytest.mark.parametrize("stratified", [False, True])
def test_total_correlation_needs_two_images(stratified):
    posterior = Posterior(torch.zeros(1, 3), torch.zeros(1, 3))
    found = total_correlation(posterior, torch.ones(1, 3), 100, stratified)
    assert math.isfinite(found.item())
    assert prior_discrepancy(torch.ones(1, 3)) == 0


def test_mmd_equals_an_estimate_from_prior_samples():
    """The sum over kernels, with expectations replaced by means over many samples."""
    generator = torch.Generator().manual_seed(0)
    latents = 0.7 * torch.randn(50, 4, generator=generator) + 0.5
    half = torch.randn(1500, 4, generator=generator)
    prior = torch.cat([half, -half]) / half.square().mean(0).sqrt()  # less noise, still the prior
    expected = 0.0
    for share in BANDWIDTHS:

        def kernel(a, b, width=2 * share * 4):
            return torch.exp(-torch.cdist(a, b).square() / width)

        ours, theirs = kernel(latents, latents), kernel(prior, prior)
        ours, theirs = ours.fill_diagonal_(0).sum() / 50 / 49, theirs.fill_diagonal_(0).sum()
        expected += ours + theirs / 3000 / 2999 - 2 * kernel(latents, prior).mean()
    assert prior_discrepancy(latents).item() == pytest.approx(expected.item(), abs=0.01)


def test_mmd(batch):
    posterior, latents = batch
    config = MMDConfig("mmd", alpha=0.25, weight=10.0)
    kl = kl_of(posterior).sum(1).mean()
    expected = 0.75 * kl + 9.25 * prior_discrepancy(latents)
    torch.testing.assert_close(config.penalty(posterior, latents, END, 100), expected)


@pytest.mark.parametrize("name", ["dip_i", "dip_ii"])
def test_dip_of_gaussians(name):
    """Means whose covariance is known exactly; the penalty in closed form."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(200, LATENTS, generator=generator, dtype=torch.float64)
    centred = raw - raw.mean(0)
    white = centred @ torch.linalg.inv(torch.linalg.cholesky(centred.T @ centred / 200)).T
    wanted = torch.tensor([[1.5, 0.3, -0.2], [0.3, 0.8, 0.1], [-0.2, 0.1, 0.25]]).double()
    mean = white @ torch.linalg.cholesky(wanted).T + torch.tensor([3.0, 0, -1])
    variances = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)
    posterior = Posterior(mean, variances.log().expand(200, 3))
    config = choices("loss/regularizer")[name](name, off_diagonal=2.0, diagonal=5.0)
    found = config.penalty(posterior, mean, END, 200) - kl_of(posterior).sum(1).mean()
    diagonal = {"dip_i": [1.5, 0.8, 0.25], "dip_ii": [1.6, 1.0, 0.95]}[name]
    expected = 2 * 2 * (0.3**2 + 0.2**2 + 0.1**2) + 5 * sum((c - 1) ** 2 for c in diagonal)
    assert found.item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["dip_i", "dip_ii"])
def test_dip_removes_correlation(name):
    """By gradient descent on the means."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(64, 1, generator=generator)
    mean = shared + 0.3 * torch.randn(64, LATENTS, generator=generator)
    mean.requires_grad_()
    config = choices("loss/regularizer")[name](name, off_diagonal=10.0, diagonal=10.0)
    before = torch.corrcoef(mean.detach().T)
    optimizer = torch.optim.Adam([mean], lr=0.03)
    for _ in range(200):
        optimizer.zero_grad()
        posterior = Posterior(mean, torch.full((64, LATENTS), -3.0))
        config.penalty(posterior, mean, END, 64).backward()
        optimizer.step()
    after = torch.corrcoef(mean.detach().T)
    assert before.min() > 0.8
    assert after.triu(1).abs().max() < 0.05
