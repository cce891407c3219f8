"""The Fréchet distance against closed forms, SciPy's matrix root and torchmetrics."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torchmetrics.image.fid import FrechetInceptionDistance

from vae.evaluation.distances import frechet_distance
from vae.evaluation.latents import RunningGaussian


def fitted(features):
    gaussian = RunningGaussian(features.shape[1])
    gaussian.update(torch.as_tensor(features))
    return gaussian


def correlated(count, dimensions, seed, offset=0.0):
    """Features with a covariance that is not diagonal, (count, dimensions) float64."""
    random = np.random.default_rng(seed)
    return random.normal(size=(count, dimensions)) @ random.normal(size=2 * (dimensions,)) + offset


def whitened(count, dimensions, seed):
    """Features whose sample mean is 0 and whose sample covariance is I, to rounding."""
    sample = np.random.default_rng(seed).normal(size=(count, dimensions))
    sample -= sample.mean(0)
    return sample @ np.linalg.inv(np.linalg.cholesky(np.cov(sample.T))).T


@pytest.mark.parametrize("batches", [[500], [1] * 500, [499, 1], [1, 0, 250, 3, 246]])
def test_streamed_covariance_equals_one_pass(batches):
    features = correlated(500, 12, 0, offset=3.0)
    gaussian = RunningGaussian(12)
    for part in torch.from_numpy(features).split(batches):
        gaussian.update(part)
    assert gaussian.count == 500
    np.testing.assert_allclose(gaussian.mean, features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(gaussian.covariance, np.cov(features.T), rtol=1e-10, atol=1e-10)


def test_the_order_of_batches_does_not_matter():
    features = torch.from_numpy(correlated(300, 6, 1))
    forwards, backwards = RunningGaussian(6), RunningGaussian(6)
    for part in features.split(70):
        forwards.update(part)
    for part in features.flip(0).split(31):
        backwards.update(part)
    torch.testing.assert_close(forwards.covariance, backwards.covariance, rtol=1e-11, atol=1e-11)


def test_small_variance_beside_a_large_mean_is_exact():
    features = torch.from_numpy(correlated(400, 5, 2) * 1e-3 + 1e6)
    gaussian = RunningGaussian(5)
    for part in features.split(17):
        gaussian.update(part)
    exact = np.cov((features - 1e6).numpy().T)  # what is in the features, moved without rounding
    np.testing.assert_allclose(gaussian.covariance, exact, rtol=1e-4, atol=1e-10)


def test_float32_features_are_summed_in_float64():
    features = torch.from_numpy(correlated(2000, 4, 3, offset=100.0)).float()
    exact = features.double().numpy()
    gaussian = fitted(features)
    np.testing.assert_allclose(gaussian.mean, exact.mean(0), rtol=1e-12)
    np.testing.assert_allclose(gaussian.covariance, np.cov(exact.T), rtol=1e-9)


def test_features_are_not_changed():
    features = torch.from_numpy(correlated(20, 3, 4))
    before = features.clone()
    fitted(features)
    assert torch.equal(features, before)


@pytest.mark.parametrize("count", [0, 1])
def test_covariance_needs_two_samples(count):
    gaussian = fitted(torch.zeros(count, 3))
    with pytest.raises(ValueError, match=f"at least 2 features; there are {count}"):
        frechet_distance(gaussian, fitted(torch.rand(5, 3)))


def test_a_shift_gives_its_square():
    features = correlated(200, 8, 5)
    shift = np.linspace(-1, 2, 8)
    distance = frechet_distance(fitted(features), fitted(features + shift))
    assert distance == pytest.approx((shift**2).sum(), rel=1e-10)


def test_a_scale_gives_its_closed_form():
    features = whitened(200, 8, 6)
    # Each of 8 dimensions: 1 + 3² - 2·3.
    assert frechet_distance(fitted(features), fitted(3 * features)) == pytest.approx(8 * 4)


def test_diagonal_gaussians_differ_by_their_means_and_deviations():
    random = np.random.default_rng(7)
    means, deviations = random.normal(size=(2, 10)), random.uniform(0.1, 3, size=(2, 10))
    sides = [
        fitted(whitened(300, 10, seed) * s + m)
        for seed, m, s in zip((8, 9), means, deviations, strict=True)
    ]
    expected = (np.diff(means, axis=0) ** 2 + np.diff(deviations, axis=0) ** 2).sum()
    assert frechet_distance(*sides) == pytest.approx(expected, rel=1e-9)


def test_non_commuting_covariances_equal_scipy():
    first, second = correlated(90, 20, 10), correlated(150, 20, 11, offset=0.3)
    ours, theirs = np.cov(first.T), np.cov(second.T)
    root = sqrtm(ours @ theirs).real
    expected = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(ours + theirs - 2 * root)
    sides = fitted(first), fitted(second)
    assert frechet_distance(*sides) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(*sides[::-1]) == pytest.approx(expected, rel=1e-9)


def test_fewer_images_than_dimensions_equal_singular_values():
    first, second = correlated(12, 40, 12), correlated(15, 40, 13)
    # With X the centred features / sqrt(n - 1), C = XᵀX, and the trace of the root of C₁C₂
    # is the sum of the singular values of X₁ X₂ᵀ.
    x, y = ((f - f.mean(0)) / np.sqrt(len(f) - 1) for f in (first, second))
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    means = ((first.mean(0) - second.mean(0)) ** 2).sum()
    expected = means + (x**2).sum() + (y**2).sum() - 2 * root
    assert frechet_distance(fitted(first), fitted(second)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("count", [3, 30, 300])
def test_equal_sets_have_distance_zero(count):
    for seed in range(4):
        features = correlated(count, 25, seed)
        distance = frechet_distance(fitted(features), fitted(features))
        assert 0 <= distance < 1e-5


def test_constant_features():
    assert frechet_distance(fitted(torch.ones(9, 4)), fitted(torch.zeros(7, 4))) == 4.0


def test_frechet_distance_equals_torchmetrics():
    class Pixels(torch.nn.Module):
        num_features = 48

        def forward(self, images):
            return images.double().flatten(1) / 255

    generator = torch.Generator().manual_seed(14)
    first = torch.randint(0, 256, (200, 3, 4, 4), generator=generator, dtype=torch.uint8)
    second = torch.randint(30, 200, (100, 3, 4, 4), generator=generator, dtype=torch.uint8)
    theirs = FrechetInceptionDistance(feature=Pixels(), input_img_size=(3, 4, 4))
    theirs.set_dtype(torch.float64)
    theirs.update(first, real=True)
    theirs.update(second, real=False)
    ours = frechet_distance(fitted(Pixels()(first)), fitted(Pixels()(second)))
    assert ours == pytest.approx(theirs.compute().item(), rel=1e-6)
