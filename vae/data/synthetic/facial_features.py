"""The face: the head and the features on its skin; `canvas` defines the terms."""

from __future__ import annotations

import torch
from torch import Tensor

from vae.data.synthetic.canvas import (
    EYES,
    SIDES,
    WHITE,
    Scene,
    bell,
    blob,
    ellipse,
    mix,
    ramp,
    smooth,
)

IRIS_TONES = ((0.25, 0.45, 0.70), (0.30, 0.45, 0.25), (0.22, 0.12, 0.06))
RED_LIPS = (0.72, 0.08, 0.14)
INSIDE_MOUTH = (0.16, 0.05, 0.05)
TEETH = (0.93, 0.91, 0.86)
EYE_WHITE = (0.95, 0.94, 0.92)
PUPIL = (0.03, 0.03, 0.03)

# Rows of the picture that a part can reach, from -1 (top) to 1 (bottom), over
# every pose: it is painted only there, which halves the work.
EYE_ROWS = (-0.62, 0.50)
CHEEK_ROWS = (-0.5, 1.0)
NOSE_ROWS = (-0.50, 0.72)
MOUTH_ROWS = (0.0, 1.0)


def head(scene: Scene) -> Tensor:
    """Cover the canvas with lit skin, keep its light for the parts on it; return its outline."""
    x, y = scene.x, scene.y
    low = smooth(y / scene.half_height)
    width = scene.half_width * (1 - (0.20 + 0.13 * scene["jaw"]) * low * low.sqrt())
    outline = ellipse(x - 0.05 * torch.sin(scene.yaw) * low, y, width, scene.half_height)
    normal_x = (x / (1.03 * width)).clamp(-0.98, 0.98) * 0.95
    normal_y = (y / (1.05 * scene.half_height)).clamp(-0.98, 0.98) * 0.8
    scene.skin_light = scene.shade(normal_x, normal_y)
    scene.canvas.copy_(scene.skin_colour * scene.skin_light)
    return scene.mask(outline)


def eye_sockets(scene: Scene) -> None:
    """Paint the shadow around each eye."""
    for side in SIDES:
        x, y, _ = scene.on_head(side * 0.52, -0.12)
        scene.dim(0.16 * blob(scene.x - x, scene.y - y, 0.16, 0.11))


def cheeks(scene: Scene) -> None:
    """Paint cheeks that shine, blush, and rise with a smile, and the fold beside the nose."""
    smile = scene["smile"].clamp(min=0)
    blush = scene.colour((0.13, -0.12, -0.10)) * scene["blush"]
    for side in SIDES:
        x, y, width = scene.on_head(side * 0.68, 0.30)
        cheek = blob(scene.x - x, scene.y - y + 0.05 * smile, 0.15 * width + 0.02, 0.13)
        scene.dim(-cheek * (blush + 0.05 + 0.14 * smile))
        x, y, width = scene.on_head(side * 0.42, 0.48)
        across, down = scene.x - x, scene.y - y
        across = across - side * (0.35 * down)  # the fold runs outwards on its way down
        scene.dim(0.34 * smile * blob(across, down, 0.030 * width + 0.010, 0.100))


def beard(scene: Scene) -> None:
    """Paint a beard over the jaw and a moustache; the lips stay free."""
    x, y, _ = scene.on_head(0.0, 0.56)
    across, down = scene.x - 1.06 * x, scene.y - y
    jaw = smooth(
        (scene.y - 0.10 - 0.30 * scene.half_height) / 0.22
        + 0.9 * (across.abs() / scene.half_width - 0.45)
    )
    jaw = jaw * (1 - 0.9 * blob(across, down, 0.13, 0.045))
    moustache = blob(across, down + 0.085, 0.20, 0.035)
    bristle = torch.sin(90 * across + 3 * torch.sin(40 * down))
    cover = 0.96 * scene["beard"] ** 0.75 * (0.93 + 0.07 * bristle)
    scene.paint(
        scene.hair_colour * (0.72 * scene.skin_light), (jaw + moustache).clamp(max=1) * cover
    )


def nose(scene: Scene) -> None:
    """Paint the nose: bridge with its shadow, tip and both nostrils."""
    turn = torch.sin(scene.yaw)
    tip_x, tip_y, _ = scene.on_head(0.0, 0.24 + 0.07 * scene["nose_len"])
    top_x, top_y, _ = scene.on_head(0.0, -0.16)
    tip_x, top_x = tip_x + 0.16 * turn, top_x + 0.04 * turn  # the nose stands off the head
    along = ((scene.y - top_y) / (tip_y - top_y)).clamp(0, 1)
    width = (0.045 + 0.035 * along**2) * (1 + 0.3 * scene["nose_w"])
    across = (scene.x - mix(top_x, tip_x, along)) / width
    inside = smooth((scene.y - top_y) / 0.08) * smooth((tip_y + 0.03 - scene.y) / 0.05)
    away = -torch.sign(scene.lamp_x)
    bridge = 0.16 * bell(across) * (0.6 + 0.4 * along)
    shadow = 0.26 * bell(across - 1.7 * away) * scene.lamp_x.abs()
    scene.dim(inside * (shadow - bridge))

    radius = 0.085 * (1 + 0.3 * scene["nose_w"])
    across, down = scene.x - tip_x, scene.y - tip_y
    scene.dim(0.30 * blob(across, down - 0.045, radius, 0.022))
    for side in SIDES:
        scene.dim(0.45 * blob(across - side * 0.55 * radius, down - 0.025, 0.026, 0.018))


def mouth(scene: Scene) -> None:
    """Paint lips along a line that a smile bends, open over teeth and a dark background.

    A smile bares the upper teeth, the mouth's opening the dark below them.
    """
    x, y, foreshortening = scene.on_head(0.0, 0.56)
    smile, opening = scene["smile"], scene["mouth_open"]
    bared = smile.clamp(min=0)
    half_width = 0.185 * (1 + 0.22 * scene["mouth_w"] + 0.24 * smile)
    half_width = half_width * foreshortening.clamp(min=0.6)
    across = (scene.x - 1.06 * x) / half_width
    dome = (1 - across.clamp(-1, 1) ** 2).clamp(min=0)
    # `down` counts from the line between the lips, corners raised by a smile.
    down = scene.y - (y + 0.02 + 0.115 * smile * (0.40 - across**2))
    teeth = (0.0625 * opening + 0.075 * bared) * dome
    gap = teeth + 0.0625 * opening * dome
    thickness = (0.028 + 0.030 * scene["lip_full"]) * dome.sqrt()
    beyond_corner = (across.abs() - 1) * half_width

    lips = torch.maximum(-0.9 * thickness - down, down - gap - 1.1 * thickness)
    bare = scene.skin_colour * scene.colour((0.86, 0.58, 0.56))
    colour = mix(bare, scene.colour(RED_LIPS), 0.85 * scene["lip_red"])
    lower_is_lighter = 1 + 0.12 * smooth(down / 0.05)
    scene.paint(
        colour * (0.95 * scene.skin_light * lower_is_lighter),
        0.95 * scene.mask(torch.maximum(lips, beyond_corner)),
    )

    # A closed mouth keeps a thin dark line; teeth come in as it opens or smiles.
    inside = torch.maximum(torch.maximum(-0.006 - down, down - gap - 0.004), beyond_corner + 0.012)
    hole = scene.mask(inside)
    scene.paint(scene.colour(INSIDE_MOUTH), hole * smooth(8 * opening + 0.40))
    upper_teeth = hole * scene.mask(down - teeth) * smooth(5 * (opening + bared) - 0.3)
    scene.paint(scene.colour(TEETH) * scene.skin_light.clamp(0.5, 1.05), upper_teeth)


def eyes(scene: Scene) -> None:
    """Paint eyeballs with iris, pupil and glint between two lids; a smile narrows them."""
    size, smile = scene["eye_size"], scene["smile"].clamp(min=0)
    for side in SIDES:
        x, y, width = scene.on_head(side * (0.47 + 0.06 * scene["eye_gap"]), EYES)
        tilt = -side * 0.18 * scene["eye_tilt"]
        across, down = scene.x - x, scene.y - y
        across, down = (
            across * torch.cos(tilt) - down * torch.sin(tilt),
            across * torch.sin(tilt) + down * torch.cos(tilt),
        )
        half_width = 0.115 * (1 + 0.16 * size) * width**0.7
        opening = 0.058 * (1 + 0.38 * size) * (1 - 0.25 * smile)
        almond = torch.maximum(
            ellipse(across, down - 0.25 * opening, half_width, 1.30 * opening),
            ellipse(across, down + 0.15 * opening, half_width, 1.15 * opening),
        )
        scene.paint(
            scene.skin_colour * (0.62 * scene.skin_light), 0.75 * scene.mask(almond - 0.020)
        )

        # The eyeball's parts are clipped by the lids.
        lids = scene.mask(almond)
        from_pupil_x = across - 0.030 * scene["gaze"]
        radius = torch.sqrt(from_pupil_x**2 + down**2 + 1e-9)
        iris_radius = 0.056 * (1 + 0.10 * size)
        glow = 0.7 + 0.5 * smooth(0.5 * down / iris_radius + 0.5)
        scene.paint(scene.colour(EYE_WHITE) * (0.72 + 0.28 * scene.skin_light.clamp(max=1)), lids)
        scene.paint(ramp(IRIS_TONES, scene["iris"]) * glow, lids * scene.mask(radius - iris_radius))
        scene.paint(scene.colour(PUPIL), lids * scene.mask(radius - 0.48 * iris_radius))
        glint = ellipse(from_pupil_x - 0.018, down + 0.020, 0.011, 0.011)
        scene.paint(scene.colour(WHITE), 0.9 * lids * scene.mask(glint))

        lash_line = down + opening * (1 - (across / half_width).clamp(-1, 1) ** 2)
        lashes = scene.mask(lash_line.abs() - 0.010) * scene.mask(across.abs() - half_width)
        scene.paint(0.35 * scene.hair_colour, 0.85 * lashes)


def brows(scene: Scene) -> None:
    """Paint an arched brow over each eye, thinner towards the temple."""
    for side in SIDES:
        x, y, width = scene.on_head(side * (0.47 + 0.06 * scene["eye_gap"]), EYES)
        half_width = 0.14 * width + 0.01
        across = (scene.x - x) / half_width
        middle = y - 0.135 - 0.035 * scene["brow_h"]
        arch = middle + 0.030 * across**2 + side * 0.035 * scene["brow_tilt"] * across
        half_thickness = 0.012 + 0.020 * scene["brow_thick"]
        half_thickness = half_thickness * (1 - 0.35 * side * across).clamp(0.4, 1.2)
        cover = scene.mask((scene.y - arch).abs() - half_thickness)
        cover = cover * scene.mask((across.abs() - 1) * half_width)
        scene.paint(scene.hair_colour * (0.60 * scene.skin_light.clamp(0.5, 1)), 0.88 * cover)


def face(scene: Scene) -> None:
    """Paint the head with its features, cut out along its outline."""
    skin = scene.layer()
    outline = head(skin)
    eye_sockets(skin.window(EYE_ROWS))
    cheeks(skin.window(CHEEK_ROWS))
    beard(skin.window(MOUTH_ROWS))
    nose(skin.window(NOSE_ROWS))
    mouth(skin.window(MOUTH_ROWS))
    eyes(skin.window(EYE_ROWS))
    brows(skin.window(EYE_ROWS))
    scene.paint(skin.canvas, outline)
