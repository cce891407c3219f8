"""Attribute directions on latents with known factors."""

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import balanced_accuracy_score

from vae.evaluation.directions import (
    METHODS,
    MIN_FACES,
    LatentStatistics,
    balanced_accuracy,
    find_directions,
)

NAMES = ("Smiling", "Beard", "Male")
LATENTS = 6


def faces(count=4000, seed=0, together=0.0):
    """Latents = attributes @ AXES + correlated noise; Beard and Male go together by `together`."""
    rng = np.random.default_rng(seed)
    has = rng.random((count, 3)) < (0.5, 0.3, 0.5)
    follows = rng.random(count) < together
    has[follows, 1] = has[follows, 2]
    noise = rng.normal(size=(count, LATENTS)) @ MIX
    return has @ AXES * 2 + noise + 3, has.astype(np.int8)


AXES = np.linalg.qr(np.random.default_rng(7).normal(size=(LATENTS, LATENTS)))[0][:3]
MIX = np.random.default_rng(8).normal(size=(LATENTS, LATENTS)) / 2


def directions(latents, has, names=NAMES, batch=333):
    found = LatentStatistics(latents.shape[1], has.shape[1])
    for start in range(0, len(latents), batch):
        rows = slice(start, start + batch)
        found.update(torch.from_numpy(latents[rows]).float(), torch.from_numpy(has[rows]))
    return find_directions(found, names)


def test_means_lead_from_class_to_class():
    latents, has = faces(1000)
    found = directions(latents, has)
    halves = [[latents[has[:, i] == side].mean(0) for side in (0, 1)] for i in range(3)]
    assert np.allclose(found.middles, np.mean(halves, axis=1), atol=1e-5)
    assert np.allclose(found.means, np.diff(halves, axis=1)[:, 0], atol=1e-5)


def test_classifiers_equal_fishers_discriminant():
    latents, has = faces()
    found = directions(latents, has)
    for column in range(3):
        theirs = LinearDiscriminantAnalysis(solver="eigen", shrinkage=1e-3, priors=[0.5, 0.5])
        theirs.fit(latents, has[:, column])
        ours, expected = found.weights[column].numpy(), theirs.coef_[0]
        cosine = ours @ expected / np.linalg.norm(ours) / np.linalg.norm(expected)
        assert cosine > 0.999
        says = found.scores(torch.from_numpy(latents))[:, column].numpy() > 0
        assert (says == theirs.predict(latents)).mean() > 0.995


def test_balanced_accuracy_equals_scikit_learns():
    latents, has = faces(500, seed=3)
    scores, has = directions(*faces()).scores(torch.from_numpy(latents)), torch.from_numpy(has)
    ours = balanced_accuracy(scores > 0, has)
    for column in range(3):
        expected = balanced_accuracy_score(has[:, column], scores[:, column].numpy() > 0)
        assert ours[column].item() == pytest.approx(expected)
    for column in (has[:, :1] * 0, has[:, :1] * 0 + 1):  # a class has no face
        assert balanced_accuracy(scores[:, :1] > 0, column).isnan().all()


def test_normals_equal_a_regression():
    latents, has = faces(3000, together=0.5)
    design = np.concatenate([np.ones((3000, 1)), has], axis=1)
    expected = np.linalg.lstsq(design, latents, rcond=None)[0][1:]
    assert np.allclose(directions(latents, has).normal, expected, atol=0.02)


@pytest.mark.parametrize("together", [0.0, 0.6])
def test_conditional_directions_leave_the_other_classifiers_as_they_are(together):
    """By Gram and Schmidt, one classifier after the other."""
    latents, has = faces(together=together)
    found = directions(latents, has)
    planes = found.weights.numpy()
    for row in range(3):
        rest, basis = planes[row].copy(), []
        for other in np.delete(planes, row, axis=0):
            for one in basis:
                other = other - (other @ one) * one
            basis.append(other / np.linalg.norm(other))
            rest -= (rest @ basis[-1]) * basis[-1]
        way = found.conditional[row].numpy()
        assert np.allclose(way / np.linalg.norm(way), rest / np.linalg.norm(rest))
        scores = planes @ way  # what a step of 1 adds to each classifier
        assert np.allclose(np.delete(scores, row), 0, atol=1e-6)
        assert scores[row] == pytest.approx(planes[row] @ found.means[row].numpy())


def expected_limits(latents, has, way):
    """Places and limits along one direction, of all faces."""
    place = np.linalg.solve(np.cov(latents.T), way)
    places = latents @ place / (way @ place)
    without, having = places[has == 0], places[has == 1]
    low, high = without.mean() - 2 * without.std(ddof=1), having.mean() + 2 * having.std(ddof=1)
    return places, low, high


@pytest.mark.parametrize("method", METHODS)
def test_edits_end_two_standard_deviations_beyond_the_classes(method):
    latents, has = faces(together=0.5)
    found = directions(latents, has)
    codes = torch.from_numpy(latents)
    for column, name in enumerate(NAMES):
        way = getattr(found, method)[column].numpy()
        places, low, high = expected_limits(latents, has[:, column], way)
        assert (places < low).any()
        assert (places > high).any()
        for strength in (-100.0, -1.0, 0.0, 0.5, 100.0):
            applied = found.limited(codes, name, strength, method).numpy()
            least, most = np.minimum(low - places, 0), np.maximum(high - places, 0)
            assert np.allclose(applied, np.clip(strength, least, most), atol=0.02)
            unlimited = (least + 0.02 < strength) & (strength < most - 0.02)
            assert (applied[unlimited] == strength).all()
            assert (abs(applied) <= abs(strength)).all()
        shown = found.strength_limits()[name][method]
        for side, key in enumerate(("without", "with")):
            mean = places[has[:, column] == side].mean()
            assert shown[key] == pytest.approx([low - mean, high - mean], abs=0.02)


def test_few_faces_of_a_class_have_the_spread_of_all(monkeypatch):
    latents, has = faces()
    order = np.argsort(has[:, 1], kind="stable")  # beards last
    latents, has = latents[order], has[order]
    kept = int((has[:, 1] == 0).sum()) + MIN_FACES
    for most, few in ((kept, False), (kept - 1, True), (kept - MIN_FACES, True)):
        monkeypatch.setattr("vae.evaluation.directions.MAX_ENCODED", most)
        found = directions(latents, has)
        assert found.limits.isfinite().all()
        places, _, _ = expected_limits(latents, has[:, 1], found.means[1].numpy())
        members = places[:most][has[:most, 1] == 1]
        spread = np.std(places if few else members, ddof=1)
        mean = places[has[:, 1] == 1].mean()  # of all faces, kept or not
        high = found.limits[METHODS.index("means"), 1, 1].item()
        assert high == pytest.approx(mean + 2 * spread, abs=0.01)


def test_latents_without_spread_are_not_edited():
    _, has = faces(100)
    found = directions(np.ones((100, LATENTS)), has)
    assert found.limits.isfinite().all()
    assert found.limited(torch.ones(2, LATENTS), "Male", 3.0, "normal").tolist() == [0, 0]


def test_exclusive_attributes_are_not_held():
    """Blond hair must be free to end black hair: their scores are opposite."""
    rng = np.random.default_rng(0)
    hair = rng.integers(3, size=6000)  # black, blond, and the rest
    has = np.stack([hair == 0, hair == 1, rng.random(6000) < 0.5], axis=1).astype(np.int8)
    latents = rng.normal(size=(6000, 4)) * 0.3
    latents[:, 0] += np.select([hair == 0, hair == 1], [-1.0, 1.0])
    latents[:, 1] += has[:, 2]
    found = directions(latents, has, ("Black", "Blond", "Smiling"))
    scores = found.weights @ found.normal[1]
    assert scores[1] > 0
    assert scores[0] < -0.2 * scores[1]  # black must go
    assert abs(scores[2]) < 0.05 * scores[1]
    assert found.normal[1, 0].item() == pytest.approx(1.5, abs=0.05)  # from the mean of the rest


@pytest.mark.parametrize("side", [0, 1])
def test_attributes_with_too_few_faces_are_left_out(side):
    latents, has = faces(200)
    has[:, 1] = 1 - side
    has[: MIN_FACES - 1, 1] = side
    assert directions(latents, has).names == ("Smiling", "Male")
    has[:MIN_FACES, 1] = side
    assert directions(latents, has).names == NAMES


def test_doubled_attributes_and_dead_latents_stay_finite():
    latents, has = faces(1000)
    latents[:, 5] = 1.0
    has = np.concatenate([has, has[:, :1], 1 - has[:, :1]], axis=1)
    found = directions(latents, has, (*NAMES, "Smile", "Serious"))
    for steps in (
        found.means,
        found.normal,
        found.conditional,
        found.weights,
        found.places,
        found.limits,
    ):
        assert steps.isfinite().all()
    assert found.normal.norm(dim=1).max() < 10 * found.means.norm(dim=1).max()
    assert torch.allclose(found.conditional[1:3], directions(latents, has[:, :3]).conditional[1:])


def test_conditional_directions_are_no_leaps_where_others_leave_little():
    """Six latents and five more attributes, of noise: hardly a direction is left to any."""
    latents, has = faces()
    noise = np.random.default_rng(1).normal(size=(len(latents), 5))
    others = (latents @ np.random.default_rng(2).normal(size=(latents.shape[1], 5)) + noise) > 0
    has = np.concatenate([has[:, :1], others.astype(has.dtype)], axis=1)
    found = directions(latents, has, ("Smiling", *"abcde"))
    assert found.conditional.norm(dim=1).max() < 5 * found.means.norm(dim=1).max()
