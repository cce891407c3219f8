"""The drawn faces: factors, pictures, attributes."""

from __future__ import annotations

import math
from functools import partial
from statistics import NormalDist

import numpy as np
import pytest
import torch

from tests.support.celeba_stand_in import ATTRIBUTES
from vae.data.synthetic.canvas import Scene
from vae.data.synthetic.faces import (
    FACTOR_NAMES,
    FACTORS,
    PRESETS,
    attributes,
    draw,
    sample_factors,
)

BY_NAME = {factor.name: factor for factor in FACTORS}


def face(**changed: float) -> torch.Tensor:
    """One face with every factor at its default but for those given: (1, factors)."""
    values = {factor.name: factor.default for factor in FACTORS} | changed
    return torch.tensor([[values[name] for name in FACTOR_NAMES]], dtype=torch.float32)


def column(rows: np.ndarray, name: str) -> np.ndarray:
    return rows[:, FACTOR_NAMES.index(name)]


@pytest.mark.parametrize("preset", PRESETS)
def test_factors_keep_to_their_range_and_share(preset):
    rows = sample_factors(preset, 4000, seed=0)
    for factor in FACTORS:
        values = column(rows, factor.name)
        assert values.min() >= factor.low, factor.name
        assert values.max() <= factor.high, factor.name
        if factor.name not in PRESETS[preset]:
            assert np.all(values == np.float32(factor.default)), factor.name
            continue
        assert np.ptp(values) > 0.95 * (factor.high - factor.low), factor.name
        chance = factor.chance if preset == "rich" else 0.5 if factor.switch else 1.0
        assert abs((values > factor.low).mean() - chance) < 0.04, factor.name


def test_core_factors_are_uniform_and_independent():
    rows = sample_factors("core", 4000, seed=1)
    varied = np.stack([column(rows, name) for name in PRESETS["core"]], axis=1)
    correlation = np.corrcoef(varied.T) - np.eye(varied.shape[1])
    assert np.abs(correlation).max() < 0.08
    for name, values in zip(PRESETS["core"], varied.T, strict=True):
        factor = BY_NAME[name]
        unit = (values - factor.low) / (factor.high - factor.low)
        assert abs(unit.mean() - 0.5) < 0.03, name
        if factor.switch:
            assert set(values.tolist()) == {factor.low, factor.high}
        else:
            assert abs(np.quantile(unit, 0.25) - 0.25) < 0.04, name


@pytest.mark.parametrize("correlation", [0.4, 0.9])
def test_pairs_are_correlated_by_a_gaussian_copula(correlation):
    """Against its formulas; each factor alone is as without it."""
    pairs = [("smile", "mouth_open"), ("glasses", "beard")]
    sample = partial(sample_factors, "core", 20_000, 1)
    plain, rows = sample(), sample(correlation=correlation, pairs=pairs)
    changed = (plain != rows).any(axis=0)
    assert [name for name, of in zip(FACTOR_NAMES, changed, strict=True) if of] == [
        "mouth_open",
        "beard",
    ]
    quantiles = np.linspace(0.05, 0.95, 10)
    for _, name in pairs:
        spread = np.quantile(column(rows, name), quantiles)
        assert np.abs(spread - quantiles).max() < 0.015, name  # uniform on 0 to 1
    uniform = (column(rows, "smile") + 1) / 2, column(rows, "mouth_open")
    normal = [[*map(NormalDist().inv_cdf, of.clip(1e-6, 1 - 1e-6).tolist())] for of in uniform]
    assert abs(np.corrcoef(normal)[0, 1] - correlation) < 0.015
    both = (column(rows, "glasses") == 1) & (column(rows, "beard") > 0.5)
    assert abs(both.mean() - (1 / 4 + math.asin(correlation) / (2 * math.pi))) < 0.015


@pytest.mark.parametrize("size", [8, 32, 48, 64, 100])
@pytest.mark.parametrize("preset", PRESETS)
def test_pictures_have_their_shape_and_range(preset, size):
    pictures = draw(torch.from_numpy(sample_factors(preset, 33, seed=2)), size)
    assert pictures.shape == (33, 3, size, size)
    assert pictures.dtype == torch.float32
    assert torch.isfinite(pictures).all()
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert (pictures.flatten(1).std(dim=1) > 0.03).all()  # none is blank


def test_a_small_picture_shows_the_same_face():
    rows = torch.from_numpy(sample_factors("rich", 16, seed=5))
    shrunk = torch.nn.functional.avg_pool2d(draw(rows, 128), 4)
    assert (draw(rows, 32) - shrunk).abs().mean() < 0.04


def test_parts_stay_within_their_window(monkeypatch):
    # Random faces, and those whose pose is at both ends in every combination.
    rows = torch.from_numpy(sample_factors("rich", 96, seed=4))
    names = ("pos_y", "roll", "scale", "yaw", "pitch")
    for k in range(2 ** len(names)):
        for bit, name in enumerate(names):
            rows[k, FACTOR_NAMES.index(name)] = 1.0 if k >> bit & 1 else -1.0
    in_windows = draw(rows, 64)
    monkeypatch.setattr(Scene, "window", lambda scene, rows: scene)
    # Soft spots never end; what a window leaves out of them cannot be seen.
    assert (draw(rows, 64) - in_windows).abs().max() < 2.5 / 255


def test_each_factor_changes_the_picture():
    lows, highs = [], []
    for factor in FACTORS:
        # What covers or colours another thing shows on faces that wear it.
        worn = {"glasses": 1.0, "hat": 1.0, "hair_len": 0.7}
        if factor.name in ("hair_vol", "fringe", "part"):
            worn["hat"] = 0.0
        # What goes round once ends where it began, so its other end is halfway.
        round_trip = "once round" in factor.meaning
        high = (factor.low + factor.high) / 2 if round_trip else factor.high
        lows.append(face(**(worn | {factor.name: factor.low})))
        highs.append(face(**(worn | {factor.name: high})))
    changes = (draw(torch.cat(highs), 64) - draw(torch.cat(lows), 64)).abs().mean(dim=1)
    for factor, change in zip(FACTORS, changes, strict=True):
        assert change.max() > 0.03, factor.name
        assert change.mean() > 0.004 * factor.core, factor.name


@pytest.mark.parametrize(
    "pose",
    [{"yaw": -1.0}, {"yaw": 1.0}, {"pitch": -1.0}, {"pitch": 1.0}, {"face_w": 1.0}],
    ids=str,
)
def test_the_eyes_stay_in_place_whatever_the_pose(pose):
    """As in CelebA, whose pictures are aligned by the eyes."""

    def middle(**pose: float) -> torch.Tensor:
        brown, blue = (draw(face(iris=tone, **pose), 64) for tone in (1.0, 0.0))
        change = (brown - blue).abs().sum(dim=(0, 1))
        rows, columns = change.sum(1), change.sum(0)
        place = torch.arange(64.0)
        return torch.stack([rows @ place, columns @ place]) / change.sum()

    assert (middle(**pose) - middle()).abs().max() < 1.5  # pixels


def test_attributes_bear_celeba_names_and_are_0_or_1():
    rows = torch.from_numpy(sample_factors("rich", 3000, seed=0))
    names, values = attributes(rows)
    assert set(names) <= set(ATTRIBUTES)
    assert len(set(names)) == len(names) == 26
    assert values.shape == (3000, 26)
    assert values.dtype == torch.int8
    assert set(values.unique().tolist()) == {0, 1}
    share = values.float().mean(dim=0)
    for name, value in zip(names, share.tolist(), strict=True):
        assert 0.02 < value < 0.98, name


@pytest.mark.parametrize(
    ("changed", "gained", "lost"),
    [
        ({"smile": 0.8}, ["Smiling"], []),
        ({"smile": -0.8}, [], []),
        ({"glasses": 1.0}, ["Eyeglasses"], []),
        ({"beard": 0.7}, ["Goatee", "Mustache"], ["No_Beard"]),
        ({"mouth_open": 0.6}, ["Mouth_Slightly_Open"], []),
        ({"skin": 0.0}, ["Pale_Skin"], []),
        ({"face_w": 0.9}, ["Chubby"], []),
        ({"face_w": -0.9}, ["Oval_Face"], []),
        ({"hair_dark": 0.95}, ["Black_Hair"], ["Brown_Hair"]),
        ({"hair_dark": 0.1}, ["Blond_Hair"], ["Brown_Hair"]),
        ({"hair_len": 0.09}, ["Bald"], ["Brown_Hair"]),
        ({"hair_len": 0.09, "hair_dark": 0.95}, ["Bald"], ["Brown_Hair"]),
        ({"hair_len": 0.11}, [], []),
        ({"hair_len": 0.0, "hat": 1.0}, ["Wearing_Hat"], ["Brown_Hair"]),
        ({"fringe": 0.9}, ["Bangs"], []),
        ({"fringe": 0.9, "hat": 1.0}, ["Wearing_Hat"], []),
        ({"wave": 0.9}, ["Wavy_Hair"], []),
    ],
    ids=str,
)
def test_attributes_follow_the_factors(changed, gained, lost):
    (names, plain), (_, other) = attributes(face()), attributes(face(**changed))
    changes = dict(zip(names, (other - plain)[0].tolist(), strict=True))
    assert {name for name, change in changes.items() if change > 0} == set(gained)
    assert {name for name, change in changes.items() if change < 0} == set(lost)
