"""MIG, SAP and DCI on codes with known scores, and against scikit-learn and SciPy."""

import math

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mutual_info_score

from vae.evaluation import disentanglement
from vae.evaluation.disentanglement import DCI, dci, mig, mutual_information, sap
from vae.utils.errors import UserError

STILL = 0.7  # its mean over 600 rows is rounded
METRICS = (mig, sap, lambda codes, factors: dci(codes, factors, seed=0))


def grid(*levels, repeats=1):
    """Each combination of whole-numbered factors once: independent to the last digit."""
    columns = np.meshgrid(*(np.arange(count) for count in levels), indexing="ij")
    return np.tile(np.stack([column.ravel() for column in columns], axis=1), (repeats, 1)) * 1.0


def rotation(degrees):
    angle = math.radians(degrees)
    return np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def factors():
    return grid(5, 4, 3, 2, repeats=5)


def test_perfect_codes(factors):
    codes = np.array([1e-3, -7, 100, 2]) * factors[:, [2, 0, 3, 1]] + 5
    assert mig(codes, factors) == pytest.approx(1)
    assert sap(codes, factors) == pytest.approx(1)
    assert dci(codes, factors, seed=0) == DCI(*[pytest.approx(1, abs=1e-6)] * 3)


def test_perfect_codes_among_noise(rng):
    factors = rng.uniform(size=(1200, 3))
    codes = np.concatenate([rng.normal(size=(1200, 20)), 3 - 2 * factors], axis=1)
    assert mig(codes, factors) == pytest.approx(0.93, abs=0.015)  # as the docstring says
    assert sap(codes, factors) == pytest.approx(1, abs=0.02)
    assert dci(codes, factors, seed=0) == DCI(*[pytest.approx(1, abs=0.01)] * 3)


def test_independent_codes(rng):
    codes, factors = rng.normal(size=(1500, 8)), rng.uniform(size=(1500, 4))
    assert 0 <= mig(codes, factors) < 0.01
    assert 0 <= sap(codes, factors) < 0.01
    scores = dci(codes, factors, seed=0)
    assert 0 <= scores.disentanglement < 0.03
    assert 0 <= scores.completeness < 0.03
    assert scores.informativeness == 0  # R² below 0


def test_codes_rotated_by_45_degrees(rng):
    factors = grid(20, 20)
    codes = factors @ rotation(45)
    assert sap(codes, factors) == pytest.approx(0, abs=1e-12)
    assert mig(codes, factors) == pytest.approx(0, abs=0.01)
    scores = dci(codes, factors, seed=0)
    assert scores.disentanglement < 0.05
    assert scores.completeness < 0.05
    assert scores.informativeness > 0.9  # nothing is lost


def test_a_factor_split_over_two_latents():
    """u = 2a + b of two bits: a is 4/5 of its variance and b 1/5, each half of its entropy."""
    factors = grid(4, 3, repeats=100)
    codes = np.stack([factors[:, 0] // 2, factors[:, 0] % 2, factors[:, 1]], axis=1)
    assert mig(codes, factors) == pytest.approx((0 + 1) / 2)
    assert sap(codes, factors) == pytest.approx((4 / 5 - 1 / 5 + 1) / 2)
    scores = dci(codes, factors, seed=0)
    assert scores.disentanglement == pytest.approx(1, abs=1e-6)
    completeness = (1 - entropy([0.8, 0.2], base=3) + 1) / 2
    assert scores.completeness == pytest.approx(completeness, abs=0.02)
    assert scores.informativeness == pytest.approx(1)


def test_a_latent_that_carries_two_factors():
    """Of three latents that one has two thirds of the importance, in equal parts."""
    factors = grid(4, 4, 3, repeats=20)
    codes = np.stack([4 * factors[:, 0] + factors[:, 1], factors[:, 2]], axis=1)
    assert mig(codes, factors) == pytest.approx(1)  # it is blind to this
    scores = dci(codes, factors, seed=0)
    expected = (2 * (1 - math.log(2) / math.log(3)) + 1) / 3
    assert scores.disentanglement == pytest.approx(expected, abs=1e-3)
    assert scores.completeness == pytest.approx(1, abs=1e-3)


def test_informativeness_is_the_mean_over_factors_on_unseen_rows(rng):
    factors = rng.uniform(size=(800, 4))
    scores = dci(factors[:, :1], factors, seed=0)
    assert scores.informativeness == pytest.approx(1 / 4, abs=0.005)


def test_mutual_information_equals_scikit_learns(rng):
    codes = rng.normal(size=(300, 3)) ** 3
    factors = np.stack([codes[:, 0] + rng.normal(size=300), rng.integers(5, size=300) ** 2], axis=1)
    bins = [np.digitize(z, np.histogram_bin_edges(z, 20)[1:-1]) for z in codes.T]
    levels = [
        np.digitize(factors[:, 0], np.histogram_bin_edges(factors[:, 0], 20)[1:-1]),
        factors[:, 1],  # of 5 values that are not evenly apart
    ]
    expected = [[mutual_info_score(z, v) for v in levels] for z in bins]
    found = mutual_information(codes, factors)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    entropies = [entropy(np.unique(v, return_counts=True)[1]) for v in levels]
    best, second = np.sort(expected, axis=0)[::-1][:2]
    assert mig(codes, factors) == pytest.approx(np.mean((best - second) / entropies))


def test_factors_with_few_values_are_not_binned(rng):
    factor = 2.0 ** np.arange(20)[:, None]  # equal bins would put half of them into the first
    assert mutual_information(factor, factor)[0, 0] < 0.7 * math.log(20)
    assert mutual_information(np.arange(20)[:, None], factor)[0, 0] == pytest.approx(math.log(20))
    factor = 2.0 ** np.arange(21)[:, None]  # one more than there are bins
    assert mutual_information(np.arange(21)[:, None], factor)[0, 0] < 0.7 * math.log(20)


def test_sap_equals_scikit_learns_linear_fit(rng):
    factors = np.stack([rng.uniform(size=400), rng.integers(2, size=400)], axis=1)
    codes = factors @ rng.normal(size=(2, 5)) + 0.3 * rng.normal(size=(400, 5))
    gaps = []
    for factor in factors.T:
        fits = [
            LinearRegression().fit(z[:, None], factor).score(z[:, None], factor) for z in codes.T
        ]
        gaps.append(sorted(fits)[-1] - sorted(fits)[-2])
    assert sap(codes, factors) == pytest.approx(np.mean(gaps))


@pytest.mark.parametrize("metric", METRICS)
def test_constant_factors_and_latents(metric, factors, rng):
    codes = factors + rng.normal(size=factors.shape)
    score = metric(codes, factors)
    assert metric(codes, np.insert(factors, 1, STILL, axis=1)) == score
    if metric in METRICS[:2]:
        still = np.insert(codes, 1, STILL, axis=1)
        assert metric(still, factors) == pytest.approx(score, rel=1e-12)
        assert mutual_information(still, factors)[1].tolist() == [0] * 4
    nothing = DCI(0, 0, 0) if metric is METRICS[2] else pytest.approx(0, abs=1e-12)
    assert metric(np.full((len(factors), 3), STILL), factors) == nothing
    with pytest.raises(UserError, match=r"none of the 4 factors .* 1 images"):
        metric(factors[:1], factors[:1])


def test_dci_leaves_out_factors_constant_in_one_part(factors):
    rare = np.append(factors, np.eye(len(factors), 1), axis=1)
    assert dci(factors, rare, seed=0) == dci(factors, factors, seed=0)


def test_a_single_latent(factors):
    """The second best of one latent is 0."""
    assert mig(factors[:, :1], factors) == pytest.approx(1 / 4)
    assert sap(factors[:, :1], factors) == pytest.approx(1 / 4)
    assert dci(factors[:, :1], factors[:, :1], seed=0) == DCI(*[pytest.approx(1)] * 3)


def test_dci_depends_on_the_seed_alone(rng):
    codes = rng.normal(size=(200, 3))
    factors = codes @ rng.normal(size=(3, 2))
    np.random.seed(1)
    first = dci(codes, factors, seed=3)
    np.random.seed(2)
    assert dci(codes, factors, seed=3) == first
    other = dci(codes, factors, seed=4)
    assert first.disentanglement != other.disentanglement
    assert first.informativeness != other.informativeness


def test_dci_splits_rows_at_random(rng):
    """Sorted by the factor, the last rows alone would be out of every tree's sight."""
    factors = np.sort(rng.uniform(size=(400, 1)), axis=0)
    assert dci(factors, factors, seed=0).informativeness > 0.99


def test_trees_see_at_most_the_row_limit(factors, monkeypatch):
    monkeypatch.setattr(disentanglement, "TREE_ROWS", 12)  # two leaves
    assert dci(factors, factors, seed=0).informativeness < 0.9


def test_sap_of_float32_codes_far_from_zero(rng):
    """A mean that is summed in float32 would be off by more than a hundredth."""
    factors = rng.uniform(size=(20000, 2)).astype(np.float32)
    codes = (factors + 0.2 * rng.normal(size=(20000, 2)) + 1000).astype(np.float32)
    exact = sap(codes.astype(float), factors.astype(float))
    assert sap(codes, factors) == pytest.approx(exact, abs=1e-6)


def test_information_is_never_below_zero():
    for levels in ((7, 5, 3), (6, 7, 11), (9, 10)):
        factors = grid(*levels)
        assert mutual_information(factors, factors).min() == 0
