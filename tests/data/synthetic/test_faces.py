"""The drawn faces: factors, pictures, attributes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vae.data.synthetic.canvas import Scene
from vae.data.synthetic.faces import (
    FACTOR_NAMES,
    FACTORS,
    PRESETS,
    attributes,
    draw,
    sample_factors,
)
from vae.utils.errors import UserError

CELEBA_LIST = """
5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose
Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee
Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard
Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair
Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young
"""
CELEBA_NAMES = CELEBA_LIST.split()

BY_NAME = {factor.name: factor for factor in FACTORS}


def face(**changed: float) -> torch.Tensor:
    """One face with every factor at its default but for those given: (1, factors)."""
    values = {factor.name: factor.default for factor in FACTORS} | changed
    return torch.tensor([[values[name] for name in FACTOR_NAMES]], dtype=torch.float32)


def column(rows: np.ndarray, name: str) -> np.ndarray:
    return rows[:, FACTOR_NAMES.index(name)]


def has(name: str, **changed: float) -> bool:
    names, values = attributes(face(**changed))
    return bool(values[0, names.index(name)])


def difference(**ends: tuple[float, float]) -> torch.Tensor:
    """How much each pixel changes at size 64 between two values of some factors: (64, 64)."""
    low = face(**{name: values[0] for name, values in ends.items()})
    high = face(**{name: values[1] for name, values in ends.items()})
    return (draw(high, 64) - draw(low, 64)).abs().mean(dim=(0, 1))


@pytest.mark.parametrize("preset", PRESETS)
def test_seed_decides_the_factors(preset):
    rows = sample_factors(preset, 50, seed=7)
    assert rows.dtype == np.float32
    assert rows.shape == (50, len(FACTORS))
    assert np.array_equal(rows, sample_factors(preset, 50, seed=7))
    varied = [FACTOR_NAMES.index(name) for name in PRESETS[preset]]
    assert (rows != sample_factors(preset, 50, seed=8))[:, varied].any(axis=0).all()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_face_depends_on_seed_and_index_alone(preset):
    rows = sample_factors(preset, 100, seed=(3, 1))
    assert np.array_equal(rows[:30], sample_factors(preset, 30, seed=(3, 1)))
    assert np.array_equal(rows[41:60], sample_factors(preset, 19, seed=(3, 1), start=41))
    assert not np.array_equal(rows, sample_factors(preset, 100, seed=(3, 2)))


@pytest.mark.parametrize("preset", PRESETS)
def test_factors_keep_to_their_range(preset):
    rows = sample_factors(preset, 2000, seed=0)
    for factor in FACTORS:
        values = column(rows, factor.name)
        assert values.min() >= factor.low, factor.name
        assert values.max() <= factor.high, factor.name
        if factor.name in PRESETS[preset]:
            assert np.ptp(values) > 0.95 * (factor.high - factor.low), factor.name
        else:
            assert np.all(values == np.float32(factor.default)), factor.name


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


def test_the_rich_preset_keeps_rare_factors_rare():
    rows = sample_factors("rich", 4000, seed=1)
    for factor in FACTORS:
        if factor.chance < 1:
            share = (column(rows, factor.name) > factor.low).mean()
            assert abs(share - factor.chance) < 0.04, factor.name


def test_unknown_preset_is_refused():
    with pytest.raises(UserError, match=r"data\.preset.*core, rich"):
        sample_factors("poor", 1, seed=0)


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


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="factors"):
        draw(torch.zeros(2, 5), 64)
    with pytest.raises(ValueError, match="size"):
        draw(face(), 7)


def test_each_core_factor_is_visible():
    lows, highs = (
        torch.cat([face(**{name: getattr(BY_NAME[name], end)}) for name in PRESETS["core"]])
        for end in ("low", "high")
    )
    changes = (draw(highs, 64) - draw(lows, 64)).abs().mean(dim=(1, 2, 3))
    for name, change in zip(PRESETS["core"], changes.tolist(), strict=True):
        assert change > 0.004, name


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
    for factor, change in zip(FACTORS, changes.amax(dim=(1, 2)).tolist(), strict=True):
        assert change > 0.03, factor.name


def test_smile_stays_in_the_face_and_mostly_around_the_mouth():
    change = difference(smile=(-1.0, 1.0))
    assert change[36:].sum() > 0.7 * change.sum()  # below the middle of the face
    assert change[40:56, 20:44].sum() > 0.6 * change.sum()  # the mouth and beside it
    changed = (change > 0.004).nonzero()
    assert changed[:, 0].min() >= 26  # no higher than the eyes
    assert changed[:, 0].max() < 58
    assert changed[:, 1].min() >= 12
    assert changed[:, 1].max() < 52


def test_smile_raises_the_corners_of_the_mouth():
    def lip_row(smile: float, columns: slice) -> float:
        """The middle row of the painted lips in some columns."""
        red, green, _ = draw(face(smile=smile, lip_red=1.0, skin=0.0), 128)[0, :, :, columns]
        return ((red - green) > 0.3).nonzero()[:, 0].float().mean().item()

    corners, middle = slice(55, 58), slice(62, 66)
    assert lip_row(1.0, corners) < lip_row(1.0, middle) - 1
    assert lip_row(-1.0, corners) > lip_row(-1.0, middle) + 1


def test_a_smile_bares_teeth():
    def whites(smile: float) -> int:
        mouth = draw(face(smile=smile, skin=0.8), 128)[0, :, 84:114, 40:88]
        return int(((mouth.amin(0) > 0.5) & (mouth.amax(0) - mouth.amin(0) < 0.15)).sum())

    assert whites(0.0) == whites(-1.0) == 0
    assert whites(1.0) > 2 * whites(0.4) > 10


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


def test_glasses_darken_the_eye_region_only():
    change = difference(glasses=(0.0, 1.0))
    assert change[24:38].mean() > 0.03
    assert change[:20].max() == 0
    assert change[44:].max() == 0


def test_short_hair_ends_above_the_chin():
    # Columns 12 to 15 of the rows below the ears lie between face and shoulder.
    beside = np.s_[:, :, 44:50, 8:13]
    bald, short = draw(face(hair_len=0.0), 64), draw(face(hair_len=0.25), 64)
    assert torch.equal(bald[beside], short[beside])
    assert (bald - draw(face(hair_len=1.0), 64))[beside].abs().max() > 0.1


def test_attributes_bear_celeba_names_and_are_0_or_1():
    rows = torch.from_numpy(sample_factors("rich", 3000, seed=0))
    names, values = attributes(rows)
    assert len(CELEBA_NAMES) == 40
    assert set(names) <= set(CELEBA_NAMES)
    assert len(set(names)) == len(names) == 26
    assert values.shape == (3000, 26)
    assert values.dtype == torch.int8
    assert set(values.unique().tolist()) == {0, 1}
    share = values.float().mean(dim=0)
    for name, value in zip(names, share.tolist(), strict=True):
        assert 0.02 < value < 0.98, name


def test_attributes_follow_the_factors():
    assert has("Smiling", smile=0.8)
    assert not has("Smiling", smile=-0.8)
    assert has("Eyeglasses", glasses=1.0)
    assert not has("Eyeglasses", glasses=0.0)
    assert has("No_Beard", beard=0.0)
    assert not has("No_Beard", beard=0.7)
    assert has("Mustache", beard=0.7)
    assert has("Mouth_Slightly_Open", mouth_open=0.6)
    assert has("Pale_Skin", skin=0.0)
    assert not has("Pale_Skin", skin=0.6)
    assert has("Chubby", face_w=0.9)
    assert has("Oval_Face", face_w=-0.9)


def test_bald_heads_have_no_hair_colour():
    colours = ("Black_Hair", "Brown_Hair", "Blond_Hair")
    for dark, expected in ((0.95, "Black_Hair"), (0.6, "Brown_Hair"), (0.1, "Blond_Hair")):
        assert [name for name in colours if has(name, hair_dark=dark)] == [expected]
        assert not any(has(name, hair_dark=dark, hair_len=0.0) for name in colours)
    assert has("Bald", hair_len=0.0)
    assert has("Bald", hair_len=0.09)
    assert not has("Bald", hair_len=0.11)
    assert not has("Bald", hair_len=0.5)
    assert not has("Bald", hair_len=0.0, hat=1.0)
    assert has("Bangs", fringe=0.9)
    assert not has("Bangs", fringe=0.9, hat=1.0)
