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


def test_components_of_fewer_images_than_latents_are_fitted():
    """Their covariances are singular, and the latents are of different scales."""
    turn = torch.linalg.qr(torch.randn(64, 64, generator=seeded(1))).Q
    means = torch.randn(300, 64, generator=seeded()) * torch.logspace(1.5, -1.5, 64) @ turn
    prior = fit_mixture(Posterior(means, torch.full((300, 64), -8.0)))
    assert len(prior.weights) == 10
    drawn = prior.sample(20_000, seeded())
    assert drawn.var(0).sum().item() == pytest.approx(means.var(0).sum().item(), rel=0.1)


def energy_distance(first, second):
    between, within, other = (
        cdist(x, y).mean() for x, y in ((first, second), (first, first), (second, second))
    )
    return 2 * between - within - other


def ring(seed):
    """A ring in two of four dimensions, rotated: means, and noise for them."""
    angle = 2 * math.pi * torch.rand(1500, generator=seeded(seed))
    wide = torch.stack([angle.cos(), angle.sin(), *(0 * angle).repeat(2, 1)], dim=1)
    noise = torch.randn(1500, 4, generator=seeded(seed + 1))
    turn = torch.linalg.qr(torch.randn(4, 4, generator=seeded(9))).Q
    return wide @ turn, noise


def test_a_flow_is_nearer_to_a_ring_than_a_gaussian(monkeypatch):
    monkeypatch.setattr(flow, "LAYERS", 20)
    means, _ = ring(0)
    posteriors = Posterior(means, torch.full((1500, 4), 0.1).square().log())
    other, noise = ring(5)
    held_out = other + 0.1 * noise
    gaussian = gaussian_prior(aggregate_posterior(posteriors))
    fitted = fit_flow(posteriors)
    ours, theirs = (
        energy_distance(held_out, prior.sample(1500, seeded(2))) for prior in (fitted, gaussian)
    )
    assert ours < theirs / 10


def test_a_flow_of_a_gaussian_stays_as_near_to_it_as_its_samples(monkeypatch):
    monkeypatch.setattr(flow, "LAYERS", 20)
    root = torch.randn(5, 5, generator=seeded(3))
    held_out, other = (torch.randn(3000, 5, generator=seeded(n)) @ root.T + 2 for n in (1, 2))
    means = torch.randn(3000, 5, generator=seeded(4)) @ root.T + 2
    fitted = fit_flow(Posterior(means, torch.full((3000, 5), -30.0)))
    drawn = fitted.sample(3000, seeded(5))
    assert energy_distance(held_out, drawn) < energy_distance(held_out, other) + 0.01
    none, half, full = (fitted.sample(3000, seeded(5), t).std(0) for t in (0.0, 0.5, 1.0))
    assert none.max() == 0
    assert half.tolist() == pytest.approx((full / 2).tolist(), rel=0.15)


def test_the_directions_are_those_in_which_samples_differ(monkeypatch):
    """Equal means and covariances, but two peaks along one direction."""
    monkeypatch.setattr(flow, "DIRECTIONS", 1)
    first, second = (torch.randn(4000, 10, generator=seeded(n)) for n in (1, 2))
    second[:, 0] = 0.3 * second[:, 0] + 0.954 * second[:, 0].sign()
    turn = torch.linalg.qr(torch.randn(10, 10, generator=seeded(3))).Q
    found = flow.find_directions(first @ turn, second @ turn, seeded())
    assert found.shape == (10, 1)
    assert found.norm().item() == pytest.approx(1, abs=1e-5)
    assert abs(turn[0] @ found[:, 0]) > 0.95


def test_maps_between_knots_are_numpys_and_have_a_slope_of_1_beyond():
    source = torch.tensor([[-1.0, 0, 2], [0, 1, 1]])
    target = torch.tensor([[0.0, 5, 6], [1, 1, 3]])
    x = torch.linspace(-1, 2, 40)
    mapped = flow.interpolate(x.repeat(2, 1), source, target)
    expected = np.interp(x, [-1, 0, 2], [0, 5, 6])
    assert mapped[0].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert (mapped.diff(dim=1) >= 0).all()  # also where two knots are at one place
    outside = flow.interpolate(torch.tensor([[-3.0, 7], [-3, 7]]), source, target)
    assert outside.tolist() == [[-2.0, 11], [-2, 9]]


@pytest.mark.parametrize("name", ["gaussian", "mixture", "flow"])
@pytest.mark.parametrize(("count", "latent_dim"), [(2, 1), (2, 40), (25, 1), (25, 40)])
def test_few_images_and_any_number_of_latents(name, count, latent_dim, monkeypatch):
    """More latents than images: the covariance of the means has no full rank."""
    monkeypatch.setattr(flow, "LAYERS", 3)
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
def fitted_flows(monkeypatch):
    """The flows that were fitted, each of a few layers."""
    monkeypatch.setattr(flow, "LAYERS", 3)
    counted = []

    def count(*arguments):
        counted.append(1)
        return fit_flow(*arguments)

    monkeypatch.setattr("vae.evaluation.priors.fit_flow", count)
    return counted


def draw_from_flow(**changes):
    run = load_run("run", **changes)
    return fit_prior(run, "flow", flow_file=run.flow_file).sample(5, seeded())


def test_the_flow_is_kept_per_checkpoint(finished, fitted_flows, caplog, monkeypatch):
    first = draw_from_flow()
    (file,) = (finished / "priors").iterdir()
    assert file.name == "last.npz"
    before = file.read_bytes()
    with monkeypatch.context() as none_there:
        none_there.setattr("vae.runs.load.SavedRun.data", None)  # not needed again
        assert torch.equal(draw_from_flow(), first)
    assert len(fitted_flows) == 1

    file.write_bytes(before[:-40])
    assert torch.equal(draw_from_flow(), first)
    assert "damaged" in caplog.text
    assert file.read_bytes() == before  # the same bytes, made again
    assert len(fitted_flows) == 2

    stored = finished / "checkpoints" / "last.pt"
    state = load_checkpoint(stored)
    weights = state["model"]
    weights["encoder.mean.weight"] = weights["encoder.mean.weight"] * 1.1
    save_checkpoint(stored, state)
    assert not torch.equal(draw_from_flow(), first)
    assert file.read_bytes() != before
    assert len(fitted_flows) == 3


@pytest.mark.parametrize(
    ("name", "forge"),
    [
        ("root", lambda v: v[:1]),
        ("root", lambda v: v.astype("f8")),
        ("mean", lambda v: v * np.nan),
        ("directions", lambda v: v[:, :, :1]),
        ("targets", lambda v: np.full_like(v, 3e38)),  # finite, but not the samples
        ("sources", None),
        ("more", lambda v: np.zeros(3, "f4")),
    ],
)
def test_a_forged_flow_is_made_again(name, forge, finished, fitted_flows):
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
    assert len(fitted_flows) == 2
