"""The FactorVAE score on codes with known scores, and the faces of its votes."""

from collections import Counter

import numpy as np
import pytest
import torch

from vae.data.base import SPLITS
from vae.data.synthetic.faces import FACTOR_NAMES, FACTORS, PRESETS, draw, sample_factors
from vae.evaluation.factorvae import drawn_votes, factorvae_score, vote_factors
from vae.training.metrics import EVALUATION_BATCH


def uniform_votes(held, batch, seed, count):
    """Independent uniform factors (votes, batch, count), one of them held in each vote."""
    values = np.random.default_rng(seed).uniform(size=(len(held), batch, count))
    for vote, factor in enumerate(held):
        values[vote, :, factor] = values[vote, 0, factor]
    return values


def codes_of(transform, count):
    """An `encode` that makes codes of factors by a function."""
    return lambda held, batch, seed: transform(uniform_votes(held, batch, seed, count))


def score_of(transform, count, seed=0, **sizes):
    sample = transform(np.random.default_rng(99).uniform(size=(1, 5000, count)))[0]
    return factorvae_score(codes_of(transform, count), count, sample.std(axis=0), seed, **sizes)


def test_perfect_codes():
    assert score_of(lambda v: np.array([3.0, -1, 50, 2]) * v[..., [2, 0, 3, 1]] + 7, 4) == 1


def test_independent_codes_are_at_chance():
    """So they are only if the votes that tell are not those that are asked."""
    noise = np.random.default_rng(5)
    score = score_of(lambda v: noise.normal(size=(*v.shape[:2], 100)), 5)
    assert score == pytest.approx(1 / 5, abs=0.05)


def test_noise_lowers_the_score_by_its_share():
    """Undivided, the latent of the smallest scale would win every vote."""
    noise = np.random.default_rng(5)
    scales = np.array([1.0, 20, 400])
    assert score_of(lambda v: scales * (v + 0.1 * noise.normal(size=v.shape)), 3) > 0.99


def test_a_latent_that_carries_two_factors():
    """Whichever of the two the majority says, it is wrong when the other is held."""
    score = score_of(
        lambda v: np.stack([v[..., 0], v[..., 1], v[..., 2] + v[..., 3]], axis=-1), 4, batch=100
    )
    assert score == pytest.approx(3 / 4, abs=0.04)


def test_a_factor_in_two_latents_keeps_the_full_score():
    assert score_of(lambda v: v[..., [0, 0, 1, 2, 2]], 3) == 1


def test_codes_rotated_by_45_degrees_are_at_chance():
    """Both latents lose half of their variance whichever factor is held: a tie.

    At another angle this score would be 1: of two factors it sees the nearer, however near.
    """
    assert score_of(lambda v: v @ np.array([[1, 1], [-1, 1]]), 2) == pytest.approx(0.5, abs=0.06)
    assert score_of(lambda v: v @ np.array([[1, 0.9], [-0.9, 1]]), 2) == 1


def test_inactive_latents_have_no_vote():
    """Active is a variance above 0.01, so a standard deviation above 0.1."""
    encode = codes_of(lambda v: np.append(np.zeros_like(v[..., :1]), v, axis=-1), 3)
    assert factorvae_score(encode, 3, np.array([0.09, 0.29, 0.29, 0.29]), 0) == 1
    assert factorvae_score(encode, 3, np.array([0.11, 0.29, 0.29, 0.29]), 0) < 0.5


def test_no_active_latents_need_no_encoding():
    def encode(held, batch, seed):
        raise AssertionError

    assert factorvae_score(encode, 3, np.array([0.0, 0.099]), 0) == 0


def test_votes_equal_a_plain_loop():
    """Each third of the votes, by place, is asked what the other two say."""
    count, seen = 6, {}
    mixing = np.eye(count) + 0.5 * np.random.default_rng(3).normal(size=(count, count))
    stds = np.linspace(0.3, 0.6, count)

    def encode(held, batch, seed):
        seen.update(held=held, batch=batch, seed=seed)
        seen["codes"] = uniform_votes(held, batch, seed, count) @ mixing
        return seen["codes"]

    score = factorvae_score(encode, count, stds, seed=8, votes=100, batch=9)
    assert (seen["batch"], seen["seed"]) == (9, 8)
    assert set(seen["held"]) == set(range(count))
    votes = []
    for factor, codes in zip(seen["held"], seen["codes"], strict=True):
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


def test_the_score_depends_on_the_seed():
    mixing = np.eye(4) + 0.5

    def score(seed):
        return score_of(lambda v: v @ mixing, 4, seed, votes=90, batch=4)

    assert score(1) == score(1)
    assert len({score(seed) for seed in range(5)}) > 1


def test_another_seed_holds_other_factors():
    seen = []

    def encode(held, batch, seed):
        seen.append(held)
        return uniform_votes(held, batch, seed, 4)

    for seed in (0, 1, 1):
        factorvae_score(encode, 4, np.ones(4), seed, votes=30, batch=2)
    assert (seen[0] != seen[1]).any()
    assert (seen[1] == seen[2]).all()


def columns_of(preset):
    return [FACTOR_NAMES.index(name) for name in PRESETS[preset]]


@pytest.mark.parametrize(("preset", "least"), [("core", 1), ("rich", 0.97)])
def test_the_default_batch_suffices_for_both_presets(preset, least):
    """Codes that are the factors themselves. `rich` has some that few faces have."""
    columns = columns_of(preset)
    stds = 10 * sample_factors(preset, 5000, 1)[:, columns].std(axis=0)

    def encode(held, batch, seed):
        return 10 * vote_factors(held, batch, seed, preset)[..., columns]

    assert factorvae_score(encode, len(columns), stds, 0) >= least


@pytest.mark.parametrize("preset", PRESETS)
def test_one_factor_is_held_in_each_vote(preset):
    columns = columns_of(preset)
    held = np.arange(len(columns))[::-1]
    rows = vote_factors(held, 200, 7, preset)
    assert rows.shape == (len(held), 200, len(FACTORS))
    assert rows.dtype == np.float32
    for vote, factor in enumerate(held):
        varied = np.flatnonzero(np.ptp(rows[vote], axis=0))
        assert set(varied) == set(columns) - {columns[factor]}
    still = [column for column in range(len(FACTORS)) if column not in columns]
    assert (rows[..., still] == np.float32([FACTORS[column].default for column in still])).all()


@pytest.mark.parametrize("name", ["hat", "beard", "smile"])
def test_held_factors_have_their_own_distribution(name):
    """Over votes it has the distribution that it has over faces."""
    place = PRESETS["rich"].index(name)
    held = vote_factors(np.full(4000, place), 2, 3, "rich")[:, 1, FACTOR_NAMES.index(name)]
    free = sample_factors("rich", 4000, 11)[:, FACTOR_NAMES.index(name)]
    quantiles = np.linspace(0.005, 0.995, 20)
    np.testing.assert_allclose(
        [np.mean(held <= x) for x in np.quantile(free, quantiles)],
        [np.mean(free <= x) for x in np.quantile(free, quantiles)],
        atol=0.04,
    )


def test_vote_faces_are_in_no_split():
    free = FACTOR_NAMES.index("smile")
    held = np.full(20, PRESETS["core"].index("skin"))
    voted = set(vote_factors(held, 10, 5, "core")[..., free].ravel().tolist())
    assert len(voted) == 200
    for split in range(len(SPLITS)):
        assert not voted & set(sample_factors("core", 200, (5, split))[:, free].tolist())


def test_seeds_draw_different_faces():
    held = np.zeros(2, dtype=int)
    assert (vote_factors(held, 3, 1, "core") != vote_factors(held, 3, 2, "core")).any()


def test_pictures_are_ordered_by_vote_and_quantised():
    held = np.array([0, 3, 5])
    batches = list(drawn_votes(held, 50, 4, "core", 8, torch.device("cpu")))
    assert [len(batch) for batch in batches] == [EVALUATION_BATCH, 150 - EVALUATION_BATCH]
    images = torch.cat(batches)
    assert images.shape == (150, 3, 8, 8)
    assert images.dtype == torch.float32
    levels = 255 * images
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    rows = vote_factors(held, 50, 4, "core").reshape(150, -1)
    exact = draw(torch.from_numpy(rows), 8)
    torch.testing.assert_close(images, exact, atol=0.5 / 255 + 1e-5, rtol=0)
