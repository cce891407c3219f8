"""Priors fitted to the aggregate posterior, the flow and its file, and prior errors."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from tests.evaluation.test_evaluate import stand_in
from vae.evaluation import flow
from vae.evaluation.flow import fit_flow
from vae.evaluation.latents import aggregate_posterior
from vae.evaluation.mixture import MixturePrior, fit_mixture, gaussian_prior
from vae.evaluation.priors import (
    StandardPrior,
    encode_training,
    fit_prior,
    measure_priors,
)
from vae.models import Posterior
from vae.runs.checkpoint import load_checkpoint, save_checkpoint
from vae.runs.load import load_run
from vae.utils.errors import UserError


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def mixture():
    roots = torch.tril(torch.randn(3, 4, 4, generator=seeded(1), dtype=torch.float64))
    means = 5 * torch.randn(3, 4, generator=seeded(2), dtype=torch.float64)
    return MixturePrior(torch.tensor([0.5, 0.2, 0.3]).double(), means, roots)


def test_a_mixture_has_the_moments_of_torchs():
    prior = mixture()
    theirs = MixtureSameFamily(
        Categorical(prior.weights), MultivariateNormal(prior.means, prior.roots @ prior.roots.mT)
    )
    ours = prior.sample(100_000, seeded())
    assert ours.dtype == torch.float32
    assert torch.allclose(ours.mean(0).double(), theirs.mean, atol=0.1)
    assert torch.allclose(ours.var(0).double(), theirs.variance, rtol=0.05)
    # The mean log density of the samples is minus the entropy, for those of the other as well.
    with torch.random.fork_rng(devices=[]):
        expected = theirs.log_prob(theirs.sample((100_000,))).mean().item()
    assert theirs.log_prob(ours.double()).mean().item() == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 2.0])
def test_temperature_scales_the_covariance_within_a_component(temperature):
    prior = mixture()
    one = MixturePrior(torch.ones(1).double(), prior.means[:1], prior.roots[:1])
    drawn = one.sample(50_000, seeded(), temperature).double()
    covariance = temperature**2 * prior.roots[0] @ prior.roots[0].T
    assert torch.allclose(drawn.mean(0), prior.means[0], atol=0.1)
    assert torch.allclose(torch.cov(drawn.T), covariance, atol=0.05 * temperature**2 * 10)
    standard = StandardPrior(3).sample(50_000, seeded(), temperature)
    assert torch.allclose(torch.cov(standard.T), temperature**2 * torch.eye(3), atol=0.1)


def random_posteriors(count, latent_dim, seed=0):
    """Posteriors with correlated means and different variances."""
    mix = torch.randn(latent_dim, latent_dim, generator=seeded(seed))
    means = torch.randn(count, latent_dim, generator=seeded(seed + 1)) @ mix + 3
    return Posterior(means, torch.randn(count, latent_dim, generator=seeded(seed + 2)) - 1)


def test_the_gaussian_has_the_moments_of_many_samples():
    posteriors = random_posteriors(500, 3)
    samples = torch.cat([posteriors.sample(seeded(seed)) for seed in range(400)])
    prior = gaussian_prior(aggregate_posterior(posteriors))
    drawn = prior.sample(200_000, seeded())
    scale = samples.var(0).max().item()
    assert torch.allclose(drawn.mean(0), samples.mean(0), atol=0.02 * scale)
    assert torch.allclose(torch.cov(drawn.T), torch.cov(samples.T), atol=0.02 * scale)


def test_a_fitted_mixture_finds_separate_clusters():
    centres = torch.tensor([[0.0, 0], [30, 0], [0, 30]])
    means = centres.repeat(100, 1) + torch.randn(300, 2, generator=seeded())
    prior = fit_mixture(Posterior(means, torch.full((300, 2), -4.0)), seed=0)
    nearest = torch.cdist(prior.sample(3000, seeded()), centres).min(1)
    assert nearest.values.max() < 8
    assert nearest.indices.bincount() / 3000 == pytest.approx([1 / 3] * 3, abs=0.05)


def energy_distance(first, second):
    between, within, other = (
        cdist(x, y).mean() for x, y in ((first, second), (first, first), (second, second))
    )
    return 2 * between - within - other


def test_a_flow_is_nearer_to_a_ring_than_a_gaussian(monkeypatch):
    """A ring in two of four dimensions, rotated."""
    monkeypatch.setattr(flow, "STEPS", 200)
    monkeypatch.setattr(flow, "BATCH", 128)

    def ring(seed):
        angle = 2 * math.pi * torch.rand(1500, generator=seeded(seed))
        wide = torch.stack([angle.cos(), angle.sin(), *(0 * angle).repeat(2, 1)], dim=1)
        noise = torch.randn(1500, 4, generator=seeded(seed + 1))
        turn = torch.linalg.qr(torch.randn(4, 4, generator=seeded(9))).Q
        return wide @ turn, noise

    means, _ = ring(0)
    posteriors = Posterior(means, torch.full((1500, 4), 0.1).square().log())
    other, noise = ring(5)
    held_out = other + 0.1 * noise
    gaussian = gaussian_prior(aggregate_posterior(posteriors))
    fitted = fit_flow(posteriors, gaussian)
    ours, theirs = (
        energy_distance(held_out, prior.sample(1500, seeded(2))) for prior in (fitted, gaussian)
    )
    assert ours < theirs / 2


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_an_untrained_flow_of_a_gaussian_is_the_gaussian(temperature, monkeypatch):
    monkeypatch.setattr(flow, "STEPS", 1)
    monkeypatch.setattr(flow, "LEARNING_RATE", 0.0)
    posteriors = random_posteriors(50, 3)
    gaussian = gaussian_prior(aggregate_posterior(posteriors))
    noise = torch.randn(7, 3, generator=seeded()).double()
    expected = gaussian.means[0] + temperature * noise @ gaussian.roots[0].T
    found = fit_flow(posteriors, gaussian).sample(7, seeded(), temperature)
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-4)


def test_an_untrained_flow_samples_the_mixture(monkeypatch):
    """Its velocity is known in closed form, and the network only learns the difference."""
    monkeypatch.setattr(flow, "STEPS", 1)
    monkeypatch.setattr(flow, "LEARNING_RATE", 0.0)
    prior = mixture()
    found = fit_flow(random_posteriors(50, 4), prior).sample(2000, seeded())
    drawn, others = prior.sample(2000, seeded(1)), prior.sample(2000, seeded(2))
    gaussian = MultivariateNormal(drawn.mean(0), torch.cov(drawn.T))
    with torch.random.fork_rng(devices=[]):
        far = energy_distance(drawn, gaussian.sample((2000,)))
    assert energy_distance(drawn, found) < energy_distance(drawn, others) + far / 10


@pytest.mark.parametrize("name", ["gaussian", "mixture", "flow"])
@pytest.mark.parametrize(("count", "latent_dim"), [(2, 1), (2, 40), (25, 1), (25, 40)])
def test_few_images_and_any_number_of_latents(name, count, latent_dim, monkeypatch):
    """More latents than images: the covariance of the means has no full rank."""
    monkeypatch.setattr(flow, "STEPS", 3)
    posteriors = Posterior(
        torch.randn(count, latent_dim, generator=seeded()), torch.full((count, latent_dim), -30.0)
    )
    model = torch.nn.Module()
    model.latent_dim = latent_dim
    trained = type("Trained", (), {"model": model})
    before = torch.get_rng_state()
    drawn = fit_prior(trained, name, posteriors=posteriors).sample(100, seeded())
    assert drawn.shape == (100, latent_dim)
    assert drawn.isfinite().all()
    assert torch.equal(torch.get_rng_state(), before)


def test_one_image_is_too_few_for_a_fit():
    model = torch.nn.Module()
    model.latent_dim = 2
    trained = type("Trained", (), {"model": model})
    one = Posterior(torch.zeros(1, 2), torch.zeros(1, 2))
    for name in ("gaussian", "mixture", "flow"):
        with pytest.raises(UserError, match=f"prior {name}: needs at least 2 training images"):
            fit_prior(trained, name, posteriors=one)


def test_the_error_of_the_aggregate_posterior_is_about_the_ceiling(finished):
    run = load_run("run")
    posteriors = encode_training(run)
    samples = torch.cat([posteriors.sample(seeded(seed)) for seed in range(20)])

    def resampled(shift):
        generator = seeded(30)
        return lambda count: (
            samples[torch.randint(len(samples), (count,), generator=generator)] + shift
        )

    latents = {name: resampled(shift) for name, shift in (("own", 0.0), ("shifted", 1.0))}
    found = measure_priors(run, "val", latents, stand_in())
    assert found.errors["own"] < 3 * found.ceiling
    assert found.errors["shifted"] > 10 * found.ceiling
    again = {"own": resampled(0.0)}
    assert measure_priors(run, "val", again, stand_in()).errors["own"] == found.errors["own"]


@pytest.fixture
def trained_flows(monkeypatch):
    """The number of flows that were trained, each for a few steps."""
    monkeypatch.setattr(flow, "STEPS", 3)
    counted = []

    def count(*arguments):
        counted.append(1)
        return fit_flow(*arguments)

    monkeypatch.setattr("vae.evaluation.priors.fit_flow", count)
    return counted


def draw_from_flow(**changes):
    run = load_run("run", **changes)
    return fit_prior(run, "flow", flow_file=run.flow_file).sample(5, seeded())


def test_the_flow_is_kept_per_checkpoint(finished, trained_flows, caplog, monkeypatch):
    first = draw_from_flow()
    (file,) = (finished / "priors").iterdir()
    assert file.name == "last.npz"
    before = file.read_bytes()
    with monkeypatch.context() as none_there:
        none_there.setattr("vae.runs.load.SavedRun.data", None)  # not needed again
        assert torch.equal(draw_from_flow(), first)
    assert len(trained_flows) == 1

    file.write_bytes(before[:-40])
    assert torch.equal(draw_from_flow(), first)
    assert "damaged" in caplog.text
    assert file.read_bytes() == before  # the same bytes, made again
    assert len(trained_flows) == 2

    stored = finished / "checkpoints" / "last.pt"
    state = load_checkpoint(stored)
    weights = state["model"]
    weights["encoder.mean.weight"] = weights["encoder.mean.weight"] * 1.1
    save_checkpoint(stored, state)
    assert not torch.equal(draw_from_flow(), first)
    assert file.read_bytes() != before
    assert len(trained_flows) == 3


@pytest.mark.parametrize(
    ("name", "forge"),
    [
        ("roots", lambda v: v[:1]),
        ("roots", lambda v: v.astype("f8")),
        ("means", lambda v: v * np.nan),
        ("weights", lambda v: -v),
        ("weights", lambda v: np.repeat(v, 3)),
        ("last.bias", lambda v: v + 1e38),  # finite, but not the samples
        ("blocks.0.first.weight", None),
        ("more", lambda v: np.zeros(3, "f4")),
    ],
)
def test_a_forged_flow_is_made_again(name, forge, finished, trained_flows):
    first = draw_from_flow()
    file = finished / "priors" / "last.npz"
    before = file.read_bytes()
    with np.load(file) as stored:
        arrays = dict(stored)
    if forge:
        arrays[name] = forge(arrays.get(name))
    else:
        del arrays[name]
    np.savez(file, **arrays)
    assert torch.equal(draw_from_flow(), first)
    assert file.read_bytes() == before
    assert len(trained_flows) == 2
