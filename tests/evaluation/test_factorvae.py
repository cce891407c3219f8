"""The FactorVAE score on codes with known scores, and the faces of its votes."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vae.data import SyntheticConfig
from vae.data.base import SPLITS
from vae.data.synthetic.faces import FACTOR_NAMES, FACTORS, PRESETS, draw, sample_factors
from vae.evaluation.factorvae import (
    BATCH,
    VOTES,
    drawn_factorvae_score,
    drawn_votes,
    factorvae_score,
    vote_factors,
)
from vae.training.metrics import EVALUATION_BATCH

CPU = torch.device("cpu")


def uniform_votes(count, votes=VOTES, batch=BATCH):
    """Independent uniform factors (votes, batch, count), one of them held in each vote."""
    random = np.random.default_rng(0)
    held, values = random.integers(count, size=votes), random.uniform(size=(votes, batch, count))
    values[np.arange(votes), :, held] = values[np.arange(votes), 0, held][:, None]
    return values, held


def rotated(by):
    return lambda v: v @ np.array([[1, by], [-by, 1]])


noise = np.random.default_rng(5)
SCALES = np.array([1.0, 20, 400])


@pytest.mark.parametrize(
    ("codes", "count", "expected", "within"),
    [
        (lambda v: np.array([3.0, -1, 50, 2]) * v[..., [2, 0, 3, 1]] + 7, 4, 1, 0),
        (lambda v: v[..., [0, 0, 1, 2, 2]], 3, 1, 0),  # factors in two latents
        # Undivided, the latent of the smallest scale would win every vote.
        (lambda v: SCALES * (v + 0.1 * noise.normal(size=v.shape)), 3, 1, 0.01),
        # Chance only if the votes that tell are not those that are asked.
        (lambda v: noise.normal(size=(*v.shape[:2], 100)), 5, 1 / 5, 0.05),
        # Both latents lose half of their variance whichever factor is held: a tie. At another
        # angle the score is 1: of two factors it sees the nearer, however near.
        (rotated(1), 2, 1 / 2, 0.06),
        (rotated(0.9), 2, 1, 0),
    ],
)
def test_codes_with_known_scores(codes, count, expected, within):
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


def columns_of(preset):
    return [FACTOR_NAMES.index(name) for name in PRESETS[preset]]


@pytest.mark.parametrize(("preset", "least"), [("core", 1), ("rich", 0.97)])
def test_the_batch_suffices_for_both_presets(preset, least):
    """Codes that are the factors themselves. `rich` has some that few faces have."""
    columns = columns_of(preset)
    stds = 10 * sample_factors(preset, 5000, 1)[:, columns].std(axis=0)
    held = np.random.default_rng(0).integers(len(columns), size=VOTES)
    codes = 10 * vote_factors(held, 0, preset)[..., columns]
    assert factorvae_score(codes, held, stds) >= least


@pytest.mark.parametrize("preset", PRESETS)
def test_one_factor_is_held_in_each_vote(preset, monkeypatch):
    monkeypatch.setattr("vae.evaluation.factorvae.BATCH", 200)
    columns = columns_of(preset)
    held = np.arange(len(columns))[::-1]
    rows = vote_factors(held, 7, preset)
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
    held = vote_factors(np.full(4000, place), 3, "rich")[:, 1, FACTOR_NAMES.index(name)]
    free = sample_factors("rich", 4000, 11)[:, FACTOR_NAMES.index(name)]
    quantiles = np.linspace(0.005, 0.995, 20)
    np.testing.assert_allclose(
        [np.mean(held <= x) for x in np.quantile(free, quantiles)],
        [np.mean(free <= x) for x in np.quantile(free, quantiles)],
        atol=0.04,
    )


def test_vote_faces_are_in_no_split_and_depend_on_the_seed():
    free = FACTOR_NAMES.index("smile")
    held = np.full(20, PRESETS["core"].index("skin"))
    voted = set(vote_factors(held, 5, "core")[..., free].ravel().tolist())
    assert len(voted) == 20 * BATCH
    others = [vote_factors(held, 6, "core").reshape(20 * BATCH, -1)]
    others += [sample_factors("core", 200, (5, split)) for split in range(len(SPLITS))]
    assert not any(voted & set(rows[:, free].tolist()) for rows in others)


def test_pictures_are_ordered_by_vote_and_quantised():
    held = np.array([0, 3, 5, 1, 2])
    batches = list(drawn_votes(held, 4, "core", 8, CPU))
    assert [len(batch) for batch in batches] == [EVALUATION_BATCH, 160 - EVALUATION_BATCH]
    images = torch.cat(batches)
    assert images.shape == (160, 3, 8, 8)
    assert images.dtype == torch.float32
    levels = 255 * images
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    exact = draw(torch.from_numpy(vote_factors(held, 4, "core").reshape(160, -1)), 8)
    torch.testing.assert_close(images, exact, atol=0.5 / 255 + 1e-5, rtol=0)


def test_a_model_is_scored_by_its_means(monkeypatch):
    class Colours(torch.nn.Linear):
        def encode(self, images):
            return SimpleNamespace(mode=images.mean((2, 3)))

    monkeypatch.setattr("vae.evaluation.factorvae.VOTES", 30)
    sizes = {"image_size": 8, "batch_size": 2, "num_images": 10, "num_workers": 1}
    config = SyntheticConfig("synthetic", "data", flip=False, preset="core", seed=0, **sizes)
    stds = np.full(3, 0.2)
    score = drawn_factorvae_score(Colours(1, 1), config, stds, seed=2)
    held = np.random.default_rng(2).integers(len(PRESETS["core"]), size=30)
    means = torch.cat(list(drawn_votes(held, 2, "core", 8, CPU))).mean((2, 3))
    assert score == factorvae_score(means.view(30, BATCH, 3).numpy(), held, stds)
    assert drawn_factorvae_score(None, config, np.array([0.0, 0.099]), 0) == 0  # draws nothing
