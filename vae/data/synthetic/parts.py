"""A whole picture, part by part from back to front; `canvas` defines the terms."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from vae.data.synthetic.canvas import SIDES, WHITE, Scene, bell, blob, ellipse, from_hsv, smooth
from vae.data.synthetic.facial_features import EYE_ROWS, face

FRAMES = (0.08, 0.07, 0.07)

# Rows of the picture that a part can reach, as in `facial_features`.
EAR_ROWS = (-0.5, 0.6)
NECK_ROWS = (0.0, 1.0)
CLOTHES_ROWS = (0.4, 1.0)
HAT_ROWS = (-1.0, 0.22)


def background(scene: Scene) -> None:
    """Paint a plain wall with a gradient, and blurred objects before it."""
    hue, clutter = scene["bg_hue"], scene["clutter"]
    saturation = 0.8 * scene["bg_sat"] ** 1.5
    value = 0.12 + 0.8 * scene["bg_val"]
    gradient = 1 + 0.30 * scene["bg_grad"] * scene.column - 0.15 * scene.row
    scene.canvas.copy_(from_hsv(hue, saturation, value) * gradient)

    # Everything moves with one factor, each thing on its own path.
    turn = 2 * math.pi * scene["clutter_shift"]
    doorway = (scene.column - 0.75 * torch.sin(turn + 1)) / 0.10
    skirting = (scene.row - 0.15 - 0.35 * torch.cos(2 * turn)) / 0.10
    scene.dim(clutter * (0.35 * smooth(doorway) - 0.22 * smooth(skirting)))
    for k in range(4):
        x = scene.column - 0.9 * torch.cos(turn + 1.7 * k)
        y = scene.row + 0.2 - 0.7 * torch.sin((1 + k % 2) * turn + 2.3 * k)
        disc = smooth((0.20 + 0.06 * k - torch.sqrt(x**2 + y**2)) / 0.16 + 0.5)
        light = 1.55 if k % 2 else 0.45
        colour = from_hsv(hue + 0.16 * (k - 1.5), saturation + 0.15, (value * light).clamp(max=1))
        scene.paint(colour, disc * (0.75 * clutter))


def clothes(scene: Scene) -> None:
    """Paint shoulders in a plain garment; they do not roll with the head."""
    scene = scene.window(CLOTHES_ROWS)
    x, y = scene.body_x, scene.body_y
    colour = from_hsv(scene["cloth_hue"], 0.55, 0.15 + 0.75 * scene["cloth_val"])
    light = 0.45 + 0.55 * scene.shade((x * 0.75).clamp(-0.95, 0.95), ((y - 1.2) * 0.5))
    folds = 1 + 0.10 * torch.sin(9 * x + 4 * torch.sin(5 * y) + 6 * scene["cloth_hue"])
    scene.paint(colour * light * folds, scene.mask(ellipse(x, y - 1.24, 0.95, 0.56)))


def strands(scene: Scene, across: Tensor, bend: Tensor) -> Tensor:
    """Return the texture of hair: light and dark strands along lines of equal `across`."""
    locks = torch.sin(38 * across + bend)
    fine = torch.sin(97 * across + 2 * bend)
    # `across` is an angle seen from about 1.3 away: that gives the periods in the picture.
    return (
        1
        + 0.17 * scene.detail(2 * math.pi * 1.3 / 38) * locks
        + 0.14 * scene.detail(2 * math.pi * 1.3 / 97) * fine
    )


def hair_waves(scene: Scene) -> Tensor:
    """Return the sideways shift of wavy hair, growing downwards."""
    push = torch.sin(15 * scene.y + 3 * scene["part"])
    return 0.045 * scene["wave"] * push * smooth(scene.y + 0.7)


def hair_behind(scene: Scene) -> None:
    """Paint hair behind the head and on the shoulders, down to its length.

    It ends where the length says and is never see-through: short hair leaves
    nothing behind the chin.
    """
    x, y, depth = scene.x + hair_waves(scene), scene.y, scene.hair_depth
    width = scene.half_width + depth + 0.07 * (y + 0.1).clamp(min=0)
    skull = ellipse(scene.x, y + 0.03, scene.half_width + depth, scene.half_height + depth)
    curtain = torch.maximum(x.abs() - width, -0.05 - y)
    end = y - scene.hair_end + 0.22 * (x / width) ** 2
    # Below the chin it parts, so that the neckline stays in view.
    parted = torch.minimum(0.5 * scene.half_width - x.abs(), y - 0.75 * scene.half_height)
    shape = torch.maximum(torch.maximum(torch.minimum(skull, curtain), end), parted)
    light = 0.40 + 0.36 * scene.shade(
        (x / (1.5 * scene.half_width)).clamp(-0.95, 0.95), 0.5 * scene.y
    )
    texture = strands(scene, x * 0.9, 2 * torch.sin(7 * y) * scene["wave"] + 5 * scene["part"])
    scene.paint(scene.hair_colour * (light * texture), scene.mask(shape, 1.5) * scene.has_hair)


def neck(scene: Scene) -> None:
    """Paint the neck down to a round neckline, in the chin's shadow at its top."""
    scene = scene.window(NECK_ROWS)
    x, y = scene.x - 0.12 * torch.sin(scene.yaw), scene.y
    width = 0.52 * scene.half_width + 0.10 * smooth((y - 0.66) / 0.3)
    neckline = scene.body_y - 0.80 + 1.6 * scene.body_x**2
    shape = torch.maximum(torch.maximum(x.abs() - width, 0.1 - y), neckline)
    chin_shadow = 0.56 + 0.34 * smooth((y - 0.92 * scene.half_height) / 0.32)
    light = scene.shade((x / (1.3 * scene.half_width)), 0 * y) * chin_shadow
    scene.paint(scene.skin_colour * light, scene.mask(shape, 1.5))


def ears(scene: Scene) -> None:
    """Paint both ears behind the head, which hides the far one when turned."""
    scene = scene.window(EAR_ROWS)
    for side in SIDES:
        # An ear sits a little behind the head's widest line, so it moves against the turn.
        x = scene.x - side * scene.half_width * 1.0 + 0.10 * torch.sin(scene.yaw)
        y = scene.y - scene.half_height * torch.sin(scene.pitch * 0.6) - 0.02
        x = x + side * 0.25 * y  # leaning outwards at the top
        light = scene.shade(side * 0.6 + 0 * x, 0.2 * y)
        hollow = 1 - 0.30 * blob(x - side * 0.01, y + 0.01, 0.045, 0.075)
        scene.paint(
            scene.skin_colour * (0.92 * light * hollow), scene.mask(ellipse(x, y, 0.085, 0.145))
        )


def hair_front(scene: Scene) -> None:
    """Paint hair above the hairline, the fringe, and hair beside the face."""
    x, y = scene.x, scene.y
    half_width, half_height = scene.half_width, scene.half_height
    fringe, parting, wave = scene["fringe"], scene["part"], scene["wave"]
    long_hair = smooth((scene["hair_len"] - 0.28) * 6)
    skull = ellipse(x, y + 0.03, half_width + scene.hair_depth, half_height + scene.hair_depth)

    # The hairline falls away from the parting towards the temples; a fringe levels it.
    from_parting = (x / half_width - 0.22 * parting * (1 - fringe)).abs().clamp(max=1.3)
    fall = (0.34 + 0.10 * long_hair) * from_parting**2 * from_parting.sqrt() * (1 - 0.45 * fringe)
    hairline = half_height * (fall - 0.78 + 0.38 * fringe - 0.5 * scene.pitch)
    ragged = 0.018 * (0.4 + wave) * torch.sin(34 * x + 4 * parting)
    above = y - hairline - ragged
    # Hair at the sides leaves an oval for the face and ends where the length says.
    oval = ellipse(
        x - 0.04 * torch.sin(scene.yaw), y - 0.08, half_width * (0.95 - 0.03 * wave), half_height
    )
    throat = torch.minimum(0.62 * half_width - x.abs(), y - 0.2)  # no hair under the chin
    sides = torch.maximum(torch.maximum(-oval, y - scene.hair_end), throat)
    cover = scene.mask(torch.maximum(skull, torch.minimum(above, sides)), 1.5) * scene.has_hair

    fan = torch.atan2(x + hair_waves(scene) - 0.10 * parting, 0.9 - y)
    texture = strands(scene, fan, 3 * torch.sin(8 * x + 5 * parting) * (0.3 + wave))
    gloss = 0.16 * bell((skull + 0.11) / 0.07) * (0.5 + 0.5 * scene.lamp_z)
    light = 0.45 + 0.62 * scene.shade(
        (x / (1.35 * half_width)).clamp(-0.95, 0.95), (y + 0.2) / (1.4 * half_height)
    )
    scene.paint(scene.hair_colour * (light * (texture + gloss)), cover)


def glasses(scene: Scene) -> None:
    """Paint two rounded lenses, clear or tinted, with rims, a bridge and arms."""
    scene = scene.window(EYE_ROWS)
    there, tint = scene["glasses"], scene["glasses_tint"]
    rims = torch.zeros_like(scene.x)
    for side in SIDES:
        x, y, width = scene.on_head(side * 0.49, -0.08)
        across, down = scene.x - 1.02 * x, scene.y - y
        # A rectangle with its corners rounded by 0.05.
        out_x, out_y = across.abs() - 0.105 * width, down.abs() - 0.065
        corner = torch.sqrt(out_x.clamp(min=0) ** 2 + out_y.clamp(min=0) ** 2 + 1e-9)
        lens = corner + torch.maximum(out_x, out_y).clamp(max=0) - 0.05
        glass = scene.mask(lens) * there
        scene.paint(scene.colour(FRAMES), glass * (0.9 * tint))
        scene.paint(scene.colour(WHITE), glass * (0.10 * smooth(8 * (across + down) + 0.3)))
        rims = torch.maximum(rims, scene.mask(lens.abs() - 0.014))
        # The arm runs from the lens to the head's edge on its side.
        along = side * scene.x
        arm_start = side * 1.02 * x + 0.105 * width + 0.05
        arm = torch.maximum(
            torch.maximum(arm_start - along, along - scene.half_width), arm_start - scene.half_width
        )
        rims = torch.maximum(rims, scene.mask(torch.maximum(arm, (down + 0.02).abs() - 0.012)))
    x, y, _ = scene.on_head(0.0, -0.09)
    bridge = torch.maximum((scene.x - 1.05 * x).abs() - 0.08, (scene.y - y + 0.02).abs() - 0.012)
    rims = torch.maximum(rims, scene.mask(bridge))
    scene.paint(scene.colour(FRAMES), rims * there)


def hat(scene: Scene) -> None:
    """Paint a round hat with a ribbon of brim, down to the forehead."""
    scene = scene.window(HAT_ROWS)
    x, y, width, height = scene.x, scene.y, scene.half_width, scene.half_height
    colour = from_hsv(scene["hat_hue"], 0.6, 0.6)
    edge = y + 0.30 * height + 0.18 + 0.10 * scene.pitch
    curve = 0.06 * (x / width) ** 2  # the brim rises to both sides
    crown = torch.maximum(ellipse(x, y + 0.18, width + 0.14, 0.98 * height), edge + curve)
    light = 0.55 + 0.5 * scene.shade((x / (1.4 * width)).clamp(-0.95, 0.95), (y + 0.3) / height)
    scene.paint(colour * light, scene.mask(crown) * scene["hat"])
    brim = torch.maximum((edge + 0.01 + curve).abs() - 0.055, x.abs() - 1.32 * width)
    light = 0.6 + 0.4 * scene.shade((x / (1.5 * width)).clamp(-0.95, 0.95), 0 * y)
    scene.paint(0.72 * colour * light, scene.mask(brim) * scene["hat"])


def paint_faces(factors: Mapping[str, Tensor], size: int) -> Tensor:
    """Paint a batch: each factor's values (n,) by name -> (n, 3, size, size) in [0, 1]."""
    scene = Scene(factors, size)
    background(scene)
    clothes(scene)
    hair_behind(scene)
    neck(scene)
    ears(scene)
    face(scene)
    hair_front(scene)
    scene.only_where("glasses", glasses)
    scene.only_where("hat", hat)
    return scene.canvas.clamp_(0, 1)
