"""Disentanglement metrics on codes with known scores, against scikit-learn, SciPy and a loop."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mutual_info_score

from vae.data import SyntheticConfig
from vae.data.base import SPLITS
from vae.data.synthetic.faces import FACTOR_NAMES, PRESETS, draw, sample_factors
from vae.evaluation import disentanglement
from vae.evaluation.disentanglement import (
    BATCH,
    DCI,
    VOTES,
    dci,
    drawn_factorvae_score,
    factorvae_score,
    mig,
    mutual_information,
    sap,
    vote_factors,
)
from vae.models.posterior import Posterior
from vae.utils.errors import UserError

STILL = 0.7  # its mean over 600 rows is rounded
METRICS = (mig, sap, lambda codes, factors: dci(codes, factors, seed=0))


def grid(*levels, repeats=1):
    """Each combination of whole-numbered factors once: independent to the last digit."""
    columns = np.meshgrid(*(np.arange(count) for count in levels), indexing="ij")
    return np.tile(np.stack([column.ravel() for column in columns], axis=1), (repeats, 1)) * 1.0


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def factors():
    return grid(5, 4, 3, 2, repeats=5)


def test_perfect_codes(factors, rng):
    codes = np.array([1e-3, -7, 100, 2]) * factors[:, [2, 0, 3, 1]] + 5
    assert mig(codes, factors) == pytest.approx(1)
    assert sap(codes, factors) == pytest.approx(1)
    assert dci(codes, factors, seed=0) == DCI(*[pytest.approx(1, abs=1e-6)] * 3)

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
    assert dci(codes, factors, seed=1).completeness != scores.completeness


def test_codes_rotated_by_45_degrees():
    factors = grid(20, 20)
    codes = factors @ np.array([[1, 1], [-1, 1]])
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
    completeness = (1 - entropy([0.8, 0.2], base=3) + 1) / 2
    expected = DCI(pytest.approx(1, abs=1e-6), pytest.approx(completeness, abs=0.02), 1)
    assert dci(codes, factors, seed=0) == expected


def test_a_latent_that_carries_two_factors():
    """Of three latents that one has two thirds of the importance, in equal parts."""
    factors = grid(4, 4, 3, repeats=20)
    codes = np.stack([4 * factors[:, 0] + factors[:, 1], factors[:, 2]], axis=1)
    assert mig(codes, factors) == pytest.approx(1)  # it is blind to this
    scores = dci(codes, factors, seed=0)
    expected = (2 * (1 - math.log(2) / math.log(3)) + 1) / 3
    assert scores.disentanglement == pytest.approx(expected, abs=1e-3)
    assert scores.completeness == pytest.approx(1, abs=1e-3)


def test_mutual_information_equals_scikit_learns(rng):
    codes = rng.normal(size=(600, 3)) ** 3
    # The second has 20 values, most of which equal bins would put into the first.
    factors = np.stack([codes[:, 0] + rng.normal(size=600), 2.0 ** rng.integers(20, size=600)], 1)

    def binned(values):
        return np.digitize(values, np.histogram_bin_edges(values, 20)[1:-1])

    levels = [binned(factors[:, 0]), factors[:, 1]]
    expected = [[mutual_info_score(binned(z), v) for v in levels] for z in codes.T]
    np.testing.assert_allclose(mutual_information(codes, factors), expected, atol=1e-12)
    entropies = [entropy(np.unique(v, return_counts=True)[1]) for v in levels]
    best, second = np.sort(expected, axis=0)[::-1][:2]
    assert mig(codes, factors) == pytest.approx(np.mean((best - second) / entropies))
    independent = grid(6, 7, 11)
    assert mutual_information(independent, independent).min() == 0  # whatever rounding says


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
    codes, factors = np.tile(codes, (50, 1)), np.tile(factors, (50, 1))
    far = (codes + 1000).astype(np.float32)  # a sum in float32 would lose the mean
    assert sap(far, factors) == pytest.approx(sap(codes, factors), abs=1e-4)


@pytest.mark.parametrize("metric", METRICS)
def test_constant_factors_and_latents(metric, factors, rng):
    codes = factors + rng.normal(size=factors.shape)
    score = metric(codes, factors)
    assert metric(codes, np.insert(factors, 1, STILL, axis=1)) == score
    if metric in METRICS[:2]:
        assert metric(np.insert(codes, 1, STILL, axis=1), factors) == pytest.approx(score)
    nothing = DCI(0, 0, 0) if metric is METRICS[2] else pytest.approx(0, abs=1e-12)
    assert metric(np.full((len(factors), 3), STILL), factors) == nothing
    with pytest.raises(UserError, match=r"no factor of 4 .* 1 image "):
        metric(factors[:1], factors[:1])


def test_dci_leaves_out_factors_constant_in_one_part(factors):
    rare = np.append(factors, np.eye(len(factors), 1), axis=1)
    assert dci(factors, rare, seed=0) == dci(factors, factors, seed=0)


def test_a_single_latent(factors):
    """The second best of one latent is 0."""
    assert mig(factors[:, :1], factors) == pytest.approx(1 / 4)
    assert sap(factors[:, :1], factors) == pytest.approx(1 / 4)
    assert dci(factors[:, :1], factors[:, :1], seed=0) == DCI(*[pytest.approx(1)] * 3)


def test_trees_see_at_most_the_row_limit(factors, monkeypatch):
    monkeypatch.setattr(disentanglement, "TREE_ROWS", 12)  # two leaves
    assert dci(factors, factors, seed=0).informativeness < 0.9


def uniform_votes(count, votes=VOTES, batch=BATCH):
    """Independent uniform factors (votes, batch, count), one of them held in each vote."""
    random = np.random.default_rng(0)
    held, values = random.integers(count, size=votes), random.uniform(size=(votes, batch, count))
    values[np.arange(votes), :, held] = values[np.arange(votes), 0, held][:, None]
    return values, held


def noise(size):
    return np.random.default_rng(5).normal(size=size)


SCALES = np.array([1.0, 20, 400])


@pytest.mark.parametrize(
    ("codes", "count", "expected", "within"),
    [
        (lambda v: np.array([3.0, -1, 50, 2]) * v[..., [2, 0, 3, 1]] + 7, 4, 1, 0),
        (lambda v: v[..., [0, 0, 1, 2, 2]], 3, 1, 0),  # factors in two latents
        # Undivided, the latent of the smallest scale would win every vote.
        (lambda v: SCALES * (v + 0.1 * noise(v.shape)), 3, 1, 0.01),
        # Chance only if the votes that tell are not those that are asked.
        (lambda v: noise((*v.shape[:2], 100)), 5, 1 / 5, 0.05),
        # Both latents lose half of their variance whichever factor is held: a tie.
        (lambda v: v @ np.array([[1, 1], [-1, 1]]), 2, 1 / 2, 0.06),
    ],
)
def test_factorvae_scores_of_known_codes(codes, count, expected, within):
    values, held = uniform_votes(count)
    stds = codes(np.random.default_rng(99).uniform(size=(1, 5000, count)))[0].std(axis=0)
    assert factorvae_score(codes(values), held, stds) == pytest.approx(expected, abs=within)


def test_inactive_latents_have_no_vote():
    """Active is a variance above 0.01, so a standard deviation above 0.1."""
    values, held = uniform_votes(3)
    codes = np.append(np.zeros_like(values[..., :1]), values, axis=-1)
    assert factorvae_score(codes, held, np.array([0.09, 0.29, 0.29, 0.29])) == 1
    assert factorvae_score(codes, held, np.array([0.11, 0.29, 0.29, 0.29])) < 0.5


def test_votes_equal_a_plain_loop():
    """Each third of the votes, by place, is asked what the other two say."""
    count = 6
    values, held = uniform_votes(count, votes=100, batch=9)
    mixed = values @ (np.eye(count) + 0.5 * np.random.default_rng(3).normal(size=(count, count)))
    stds = np.linspace(0.3, 0.6, count)
    score = factorvae_score(mixed, held, stds)
    votes = []
    for factor, codes in zip(held, mixed, strict=True):
        relative = [np.std(codes[:, j]) / stds[j] for j in range(count)]
        votes.append((relative.index(min(relative)), factor))
    right = 0
    for place, (latent, factor) in enumerate(votes):
        others = [f for i, (z, f) in enumerate(votes) if z == latent and i % 3 != place % 3]
        most = Counter(others).most_common()
        first = min((f for f, times in most if times == most[0][1]), default=0)
        right += first == factor
    assert score == right / 100
    assert 0.2 < score < 0.9  # neither chance nor perfect


@pytest.mark.parametrize(("preset", "least"), [("core", 1), ("rich", 0.97)])
def test_the_batch_suffices_for_both_presets(preset, least):
    """Codes that are the factors themselves. `rich` has some that few faces have."""
    columns = [FACTOR_NAMES.index(name) for name in PRESETS[preset]]
    stds = 10 * sample_factors(preset, 5000, 1)[:, columns].std(axis=0)
    held = np.random.default_rng(0).integers(len(columns), size=VOTES)
    codes = 10 * vote_factors(held, 0, preset)[..., columns]
    assert factorvae_score(codes, held, stds) >= least


def test_held_factors_have_their_own_distribution():
    """As many votes as faces are without a hat."""
    hat = FACTOR_NAMES.index("hat")
    held = np.full(4000, PRESETS["rich"].index("hat"))
    shares = [
        np.mean(rows[:, hat] < 0.5)
        for rows in (vote_factors(held, 3, "rich")[:, 1], sample_factors("rich", 4000, 11))
    ]
    assert shares[0] == pytest.approx(shares[1], abs=0.04)
    assert 0.1 < shares[0] < 0.95


def test_vote_faces_are_in_no_split_and_depend_on_the_seed():
    free = FACTOR_NAMES.index("smile")
    held = np.full(20, PRESETS["core"].index("skin"))
    voted = set(vote_factors(held, 5, "core")[..., free].ravel().tolist())
    assert len(voted) == 20 * BATCH
    others = [vote_factors(held, 6, "core").reshape(20 * BATCH, -1)]
    others += [sample_factors("core", 200, (5, split)) for split in range(len(SPLITS))]
    assert not any(voted & set(rows[:, free].tolist()) for rows in others)


class Colours(torch.nn.Linear):
    """Encodes pictures to the means of their channels, and keeps them."""

    def encode(self, images):
        self.seen = [*getattr(self, "seen", []), images]
        return Posterior(images.mean((2, 3)), torch.zeros(len(images), 3))


def test_a_model_is_scored_by_its_means_of_drawn_votes(monkeypatch):
    monkeypatch.setattr(disentanglement, "VOTES", 12)
    sizes = {"image_size": 8, "batch_size": 2, "num_images": 10, "num_workers": 1}
    config = SyntheticConfig("synthetic", "data", flip=False, preset="core", seed=0, **sizes)
    stds, model = np.full(3, 0.2), Colours(1, 1)
    score = drawn_factorvae_score(model, config, stds, seed=2)
    held = np.random.default_rng(2).integers(len(PRESETS["core"]), size=12)
    faces = draw(torch.from_numpy(vote_factors(held, 2, "core").reshape(12 * BATCH, -1)), 8)
    images = torch.cat(model.seen)
    levels = 255 * images  # as in a packed cache
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    torch.testing.assert_close(images, faces, atol=0.5 / 255 + 1e-5, rtol=0)
    means = images.mean((2, 3)).view(12, BATCH, 3)
    assert score == factorvae_score(means.numpy(), held, stds)
    assert drawn_factorvae_score(None, config, np.array([0.0, 0.099]), 0) == 0  # draws nothing
