"""Drawn faces: the factors, their random distribution, and the attributes derived from them.

These are drawings, not photographs, framed and aligned by the eyes as CelebA's centre crop
of 148 pixels is. A face is a row of numbers, one a factor of
`FACTORS`; `draw` makes the pictures and `attributes` says which of CelebA's
attributes such a face has. The drawing is in `parts`, `facial_features` and `canvas`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vae.data.synthetic.parts import paint_faces


@dataclass(frozen=True)
class Factor:
    """One cause of the picture; `low` to `high` is its range."""

    name: str
    low: float
    high: float
    default: float  # its value where a preset holds it still
    meaning: str  # from low to high
    core: bool = False  # varies in the preset `core` (in `rich` all do)
    chance: float = 1.0  # in `rich`, the share of faces that have it; the rest are at `low`
    switch: bool = False  # only ever low or high; in `core` one face in two has it


FACTORS: tuple[Factor, ...] = (
    Factor("skin", 0, 1, 0.3, "skin from light to dark", core=True),
    Factor("undertone", -1, 1, 0.0, "skin from cool to warm"),
    Factor("hair_dark", 0, 1, 0.6, "hair from blond to black", core=True),
    Factor("hair_red", 0, 1, 0.0, "hair from not red to red", chance=0.22),
    Factor("hair_len", 0, 1, 0.4, "hair from none (below 0.1) to past the shoulders", core=True),
    Factor("hair_vol", 0, 1, 0.5, "hair from flat to full"),
    Factor("fringe", 0, 1, 0.35, "hairline from receding to a fringe over the forehead"),
    Factor("part", -1, 1, 0.4, "parting from the picture's left to its right"),
    Factor("wave", 0, 1, 0.3, "hair from straight to wavy"),
    Factor("face_w", -1, 1, 0.0, "face from narrow to wide", core=True),
    Factor("jaw", -1, 1, 0.0, "jaw from square to pointed"),
    Factor("eye_size", -1, 1, 0.2, "eyes from narrow to wide open"),
    Factor("eye_gap", -1, 1, 0.0, "eyes from close together to far apart"),
    Factor("eye_tilt", -1, 1, 0.0, "outer corners of the eyes from low to high"),
    Factor("iris", 0, 1, 0.6, "iris from blue over green to brown"),
    Factor("gaze", -1, 1, 0.0, "look from the picture's left to its right"),
    Factor("brow_h", -1, 1, 0.0, "brows from low to high"),
    Factor("brow_tilt", -1, 1, 0.0, "inner ends of the brows from low to high"),
    Factor("brow_thick", 0, 1, 0.5, "brows from thin to bushy"),
    Factor("nose_len", -1, 1, 0.0, "nose from short to long"),
    Factor("nose_w", -1, 1, 0.0, "nose from narrow to wide"),
    Factor("smile", -1, 1, 0.0, "mouth from a frown to a smile", core=True),
    Factor("mouth_w", -1, 1, 0.2, "mouth from narrow to wide"),
    Factor("mouth_open", 0, 1, 0.0, "mouth from closed to open", core=True, chance=0.5),
    Factor("lip_full", 0, 1, 0.4, "lips from thin to full"),
    Factor("lip_red", 0, 1, 0.15, "lips from bare to red", chance=0.45),
    Factor("beard", 0, 1, 0.0, "beard from shaven to thick", core=True, chance=0.35),
    Factor("blush", 0, 1, 0.2, "cheeks from plain to rosy"),
    Factor("glasses", 0, 1, 0.0, "glasses: not there or there", True, 0.3, True),
    Factor("glasses_tint", 0, 1, 0.0, "lenses from clear to dark", chance=0.35),
    Factor("hat", 0, 1, 0.0, "hat: not there or there", False, 0.1, True),
    Factor("hat_hue", 0, 1, 0.5, "hue of the hat, once round the colour circle"),
    Factor("yaw", -1, 1, 0.0, "head turned to the picture's left or right", core=True),
    Factor("pitch", -1, 1, 0.0, "head looking up or down"),
    Factor("roll", -1, 1, 0.0, "head leaning to the picture's left or right"),
    Factor("pos_x", -1, 1, 0.0, "face from left to right in the picture"),
    Factor("pos_y", -1, 1, 0.0, "face from high to low in the picture"),
    Factor("scale", -1, 1, 0.0, "face from small to large", core=True),
    Factor("light_az", -1, 1, 0.0, "lamp from the picture's left to its right", core=True),
    Factor("light_el", -1, 1, 0.0, "lamp from low to high"),
    Factor("light_amb", 0, 1, 0.4, "shadows from deep to faint"),
    Factor("bg_hue", 0, 1, 0.58, "hue of the background, once round the colour circle"),
    Factor("bg_sat", 0, 1, 0.5, "background from grey to colourful"),
    Factor("bg_val", 0, 1, 0.5, "background from dark to bright", core=True),
    Factor("bg_grad", -1, 1, 0.0, "background brighter on the left or on the right"),
    Factor("clutter", 0, 1, 0.3, "background from plain to cluttered"),
    Factor("clutter_shift", 0, 1, 0.15, "where the clutter stands, once round its paths"),
    Factor("cloth_hue", 0, 1, 0.62, "hue of the clothes, once round the colour circle"),
    Factor("cloth_val", 0, 1, 0.4, "clothes from dark to bright"),
)

FACTOR_NAMES: tuple[str, ...] = tuple(factor.name for factor in FACTORS)

# The factors that vary in each preset; the others keep their default.
PRESETS: dict[str, tuple[str, ...]] = {
    "core": tuple(factor.name for factor in FACTORS if factor.core),
    "rich": FACTOR_NAMES,
}

# Attributes that a single factor determines: that factor.
ATTRIBUTE_FACTORS: dict[str, str] = {
    "Arched_Eyebrows": "brow_tilt",
    "Big_Lips": "lip_full",
    "Big_Nose": "nose_w",
    "Bushy_Eyebrows": "brow_thick",
    "Chubby": "face_w",
    "Eyeglasses": "glasses",
    "Goatee": "beard",
    "Mouth_Slightly_Open": "mouth_open",
    "Mustache": "beard",
    "Narrow_Eyes": "eye_size",
    "No_Beard": "beard",
    "Oval_Face": "face_w",
    "Pale_Skin": "skin",
    "Pointy_Nose": "nose_w",
    "Rosy_Cheeks": "blush",
    "Smiling": "smile",
    "Wearing_Hat": "hat",
    "Wearing_Lipstick": "lip_red",
}

# Random numbers set aside for each face. More than there are factors, so that a
# new one at the table's end leaves the others' values as they are; a multiple of
# 4, as the generator counts in fours.
NUMBERS_PER_FACE = 64

TINY = np.finfo(float).tiny  # replaces a random number of 0, whose normal quantile is infinite

DRAW_AT_ONCE = 32  # faces: few enough that the maps of a 64-pixel batch stay in the cache


def sample_factors(
    preset: str,
    n: int,
    seed: int | Sequence[int],
    start: int = 0,
    correlation: float = 0.0,
    pairs: Sequence[Sequence[str]] = (),
) -> np.ndarray:
    """Draw the factors of faces `start` to `start + n` of an endless sequence.

    Each factor is a function of its own uniform number. A pair with correlation ρ is joined by a
    Gaussian copula: with u the first factor's number, v the second's and Φ the normal distribution
    function, v becomes Φ(ρ Φ⁻¹(u) + √(1 - ρ²) Φ⁻¹(v)). The distribution of each factor alone does
    not change; the rank correlation of the two numbers is 6/π asin(ρ/2).

    Args:
        preset: one of `PRESETS`: "core" (the varied factors are independent and uniform) or
            "rich" (independent too, but glasses, hats, beards and such are on few faces).
        n: how many faces, >= 0.
        seed: >= 0; which sequence. Several numbers give a sequence of their own too.
        start: the first face's place in the sequence, >= 0.
        correlation: ρ of each pair, -1 < ρ < 1.
        pairs: names of factors, each at most once.

    Returns:
        (n, len(FACTORS)) float32, each column within its factor's low and high.
        Row i depends on `start + i` and the other arguments but n only.
    """
    stream = np.random.Philox(np.random.SeedSequence(seed))
    stream.advance(start * (NUMBERS_PER_FACE // 4))
    uniform = np.random.Generator(stream).random((n, NUMBERS_PER_FACE))
    if correlation:
        for pair in pairs:
            first, second = map(FACTOR_NAMES.index, pair)
            uniform[:, second] = _correlate(uniform[:, first], uniform[:, second], correlation)
    rows = np.empty((n, len(FACTORS)), dtype=np.float32)
    for column, factor in enumerate(FACTORS):
        if factor.name not in PRESETS[preset]:
            rows[:, column] = factor.default
            continue
        chance = factor.chance
        if preset == "core":
            chance = 0.5 if factor.switch else 1.0
        # How far above the threshold for having it at all, 0 to 1.
        amount = np.clip((uniform[:, column] - (1 - chance)) / chance, 0, 1)
        if factor.switch:
            amount = np.ceil(amount)
        rows[:, column] = factor.low + amount * (factor.high - factor.low)
    return rows


def _correlate(first: np.ndarray, second: np.ndarray, correlation: float) -> np.ndarray:
    """Return uniform numbers that have a correlation to `first`, made of those in `second`."""
    normal = torch.special.ndtri(torch.from_numpy(np.stack([first, second]).clip(min=TINY)))
    mixed = correlation * normal[0] + (1 - correlation**2) ** 0.5 * normal[1]
    numbers: np.ndarray = torch.special.ndtr(mixed).numpy()
    return numbers


@torch.no_grad()
def draw(factors: Tensor, size: int) -> Tensor:
    """Draw faces.

    Args:
        factors: (n, len(FACTORS)) float, columns as in `FACTORS`, each in its range.
        size: height and width of the pictures in pixels, >= 8.

    Returns:
        (n, 3, size, size) float32 RGB in [0, 1], on the factors' device.
    """
    pictures = torch.empty(len(factors), 3, size, size, device=factors.device)
    for start in range(0, len(factors), DRAW_AT_ONCE):
        rows = factors[start : start + DRAW_AT_ONCE].float()
        pictures[start : start + len(rows)] = paint_faces(_by_name(rows), size)
    return pictures


def attributes(factors: Tensor) -> tuple[tuple[str, ...], Tensor]:
    """Say which of CelebA's attributes each face has.

    Args:
        factors: (n, len(FACTORS)) float, columns as in `FACTORS`.

    Returns:
        The attributes' names and (n, names) int8, 1 where the face has it, else 0.
    """
    face = _by_name(factors)
    hair = face["hair_len"] > 0.10
    bare = face["hat"] < 0.5
    forehead = hair & bare
    natural = hair & (face["hair_red"] <= 0.45)
    has = {  # under the names of CelebA's list
        "Arched_Eyebrows": face["brow_tilt"] > 0.5,
        "Bald": ~hair & bare,
        "Bangs": forehead & (face["fringe"] > 0.7),
        "Big_Lips": face["lip_full"] > 0.7,
        "Big_Nose": face["nose_w"] > 0.5,
        "Black_Hair": hair & (face["hair_dark"] > 0.83),
        "Blond_Hair": natural & (face["hair_dark"] <= 0.33),
        "Brown_Hair": natural & (face["hair_dark"] > 0.33) & (face["hair_dark"] <= 0.83),
        "Bushy_Eyebrows": face["brow_thick"] > 0.7,
        "Chubby": face["face_w"] > 0.6,
        "Eyeglasses": face["glasses"] > 0.5,
        "Goatee": face["beard"] > 0.3,
        "Mouth_Slightly_Open": face["mouth_open"] > 0.2,
        "Mustache": face["beard"] > 0.15,
        "Narrow_Eyes": face["eye_size"] < -0.5,
        "No_Beard": face["beard"] <= 0.05,
        "Oval_Face": face["face_w"] < -0.3,
        "Pale_Skin": face["skin"] < 0.15,
        "Pointy_Nose": face["nose_w"] < -0.5,
        "Receding_Hairline": forehead & (face["fringe"] < 0.15),
        "Rosy_Cheeks": face["blush"] > 0.7,
        "Smiling": face["smile"] > 0.25,
        "Straight_Hair": hair & (face["wave"] <= 0.25),
        "Wavy_Hair": hair & (face["wave"] > 0.5),
        "Wearing_Hat": face["hat"] > 0.5,
        "Wearing_Lipstick": face["lip_red"] > 0.3,
    }
    return tuple(has), torch.stack(list(has.values()), dim=1).to(torch.int8)


def _by_name(factors: Tensor) -> dict[str, Tensor]:
    return {name: factors[:, column] for column, name in enumerate(FACTOR_NAMES)}
