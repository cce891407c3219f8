"""The drawing of a face, part by part, from the back of the picture to the front.

Everything is drawn for a batch at once, and every tensor has four axes: a factor
is (n, 1, 1, 1), a colour (n, 3, 1, 1) and a map of the picture (n, 1, rows,
columns), so they broadcast against each other. A shape is a signed distance
(negative inside), and `Scene.mask` turns it into a soft mask about one pixel
wide. The head is an ellipsoid: `Scene.on_head` says where a point of it lands
when the head turns, and `Scene.shade` lights it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

SKIN_TONES = (
    (0.98, 0.86, 0.77),
    (0.93, 0.74, 0.60),
    (0.80, 0.58, 0.42),
    (0.55, 0.37, 0.26),
    (0.30, 0.19, 0.13),
)
HAIR_TONES = ((0.93, 0.83, 0.60), (0.62, 0.44, 0.24), (0.34, 0.21, 0.12), (0.09, 0.07, 0.07))
IRIS_TONES = ((0.25, 0.45, 0.70), (0.30, 0.45, 0.25), (0.22, 0.12, 0.06))
RED_HAIR = (0.66, 0.26, 0.10)
RED_LIPS = (0.72, 0.08, 0.14)
INSIDE_MOUTH = (0.16, 0.05, 0.05)
TEETH = (0.93, 0.91, 0.86)
EYE_WHITE = (0.95, 0.94, 0.92)
PUPIL = (0.03, 0.03, 0.03)
FRAMES = (0.08, 0.07, 0.07)
WHITE = (1.0, 1.0, 1.0)

SIDES = (-1.0, 1.0)  # the picture's left and right

# Rows of the picture that a part can reach, from -1 (top) to 1 (bottom), over
# every pose: it is painted only there, which halves the work.
EYE_ROWS = (-0.62, 0.50)
MOUTH_ROWS = (0.0, 1.0)
CHEEK_ROWS = (-0.5, 1.0)
NOSE_ROWS = (-0.50, 0.72)
HAT_ROWS = (-1.0, 0.22)


def smooth(t: Tensor) -> Tensor:
    """Rise from 0 at t <= 0 to 1 at t >= 1 with a flat start and end."""
    t = t.clamp(0, 1)
    return (t * -2).add_(3).mul_(t).mul_(t)


def mix(first: Tensor, second: Tensor, share: Tensor | float) -> Tensor:
    """Go from `first` (share 0) to `second` (share 1)."""
    return first + (second - first) * share


def ellipse(x: Tensor, y: Tensor, radius_x: Tensor | float, radius_y: Tensor | float) -> Tensor:
    """Signed distance to an ellipse about the origin, near enough for a soft edge."""
    width, height = torch.as_tensor(radius_x).to(x), torch.as_tensor(radius_y).to(x)
    radius = (x * (1 / width)).square() + (y * (1 / height)).square()
    return radius.add_(1e-9).sqrt_().sub_(1).mul_(torch.minimum(width, height))


def bell(t: Tensor) -> Tensor:
    """The curve exp(-t²), 1 at 0."""
    # Without the bound the far ends are denormal numbers, which are many times slower.
    return t.square().clamp_(max=40).neg_().exp_()


def blob(x: Tensor, y: Tensor, radius_x: Tensor | float, radius_y: Tensor | float) -> Tensor:
    """A soft spot about the origin, 1 in its middle (a Gaussian)."""
    squared = (x * (1 / radius_x)).square() + (y * (1 / radius_y)).square()
    return squared.clamp_(max=40).neg_().exp_()


def ramp(tones: tuple[tuple[float, ...], ...], place: Tensor) -> Tensor:
    """Colour at `place` (n, 1, 1, 1), 0 to 1, along a row of tones: (n, 3, 1, 1)."""
    table = torch.tensor(tones, device=place.device)
    position = place.flatten() * (len(tones) - 1)
    index = position.long().clamp(0, len(tones) - 2)
    share = (position - index)[:, None]
    return mix(table[index], table[index + 1], share)[:, :, None, None]


def from_hsv(hue: Tensor, saturation: Tensor | float, value: Tensor | float) -> Tensor:
    """Colour (n, 3, 1, 1) of a hue (any real, one turn a unit), saturation and value."""
    channel = torch.tensor([5.0, 3.0, 1.0], device=hue.device).view(1, 3, 1, 1)
    k = (hue * 6 + channel) % 6
    return value * (1 - saturation * torch.minimum(k, 4 - k).clamp(0, 1))


class Scene:
    """A batch of pictures being painted: the canvas, the head's frame and the light.

    `column` and `row` are the picture's own axes from -1 to 1. (`x`, `y`) is each
    pixel's place in the head's frame, which moves, grows and rolls with the head:
    x to the right, y down, (0, 0) the middle of the face.
    """

    def __init__(self, factors: Mapping[str, Tensor], size: int) -> None:
        self.factors = {name: values.view(-1, 1, 1, 1) for name, values in factors.items()}
        some = self["skin"]
        axis = (torch.arange(size, device=some.device) + 0.5) / size * 2 - 1
        self.pixel = 2 / size
        self.column, self.row = axis.view(1, 1, 1, size), axis.view(1, 1, size, 1)
        self.canvas = torch.zeros(some.shape[0], 3, size, size, device=some.device)

        # The body's frame follows place and size; the head's rolls as well.
        size_factor = 1 + 0.15 * self["scale"]
        self.body_x = (self.column - 0.08 * self["pos_x"]) / size_factor
        self.body_y = (self.row - 0.08 - 0.07 * self["pos_y"]) / size_factor
        roll = 0.15 * self["roll"]
        self.x = torch.cos(roll) * self.body_x + torch.sin(roll) * self.body_y
        self.y = torch.cos(roll) * self.body_y - torch.sin(roll) * self.body_x

        self.skin_light = torch.ones_like(self.x)  # the light on the face, once `head` is there

        self.yaw, self.pitch = 0.48 * self["yaw"], 0.16 * self["pitch"]
        self.half_width = 0.50 * (1 + 0.14 * self["face_w"])
        self.half_height = 0.64 * (1 - 0.04 * self["face_w"])
        self.hair_depth = 0.05 + 0.11 * self["hair_vol"]
        self.hair_depth *= smooth(self["hair_len"] * 6)  # stubble lies close to the skull
        self.hair_end = -0.34 + 1.34 * self["hair_len"]  # the row where hair hangs to
        self.has_hair = smooth(self["hair_len"] * 16 - 0.8)  # 0 for a bald head
        self.skin_colour = self._skin_colour()
        self.hair_colour = self._hair_colour()
        self._light()

    def __getitem__(self, factor: str) -> Tensor:
        """The values of a factor, (n, 1, 1, 1)."""
        return self.factors[factor]

    def _skin_colour(self) -> Tensor:
        warm = self.colour((0.05, 0.0, -0.07)) * self["undertone"]
        return (ramp(SKIN_TONES, self["skin"]) * (1 + warm)).clamp(0, 1)

    def _hair_colour(self) -> Tensor:
        red = 0.8 * self["hair_red"] * (1 - 0.6 * self["hair_dark"])
        return mix(ramp(HAIR_TONES, self["hair_dark"]), self.colour(RED_HAIR), red)

    def _light(self) -> None:
        """Place one lamp, in front and above, and the light that comes from everywhere."""
        azimuth = 1.1 * self["light_az"]
        lamp = torch.cat(
            [torch.sin(azimuth), -0.35 - 0.45 * self["light_el"], torch.cos(azimuth)], dim=1
        )
        lamp = lamp / lamp.norm(dim=1, keepdim=True)
        self.lamp_x, self.lamp_y, self.lamp_z = lamp.split(1, dim=1)
        self.ambient = 0.38 + 0.30 * self["light_amb"]

    def colour(self, rgb: tuple[float, float, float]) -> Tensor:
        """A fixed colour as (1, 3, 1, 1)."""
        return torch.tensor(rgb, device=self["skin"].device).view(1, 3, 1, 1)

    def window(self, rows: tuple[float, float]) -> Scene:
        """The same scene over some of its rows: what is painted on it shows here too."""
        size = self.row.shape[2]
        first = max(0, math.floor((rows[0] + 1) / 2 * size))
        last = min(size, math.ceil((rows[1] + 1) / 2 * size))
        part = copy.copy(self)
        for name in ("canvas", "row", "x", "y", "body_y", "skin_light"):
            setattr(part, name, getattr(self, name)[:, :, first:last])
        return part

    def layer(self) -> Scene:
        """The same scene with an empty canvas of its own."""
        part = copy.copy(self)
        part.canvas = torch.zeros_like(self.canvas)
        return part

    def only_where(self, factor: str, paint: Callable[[Scene], None]) -> None:
        """Paint a part on those pictures alone whose `factor` is above 0."""
        chosen = self[factor].flatten() > 0
        if not chosen.any():
            return
        part = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor) and value.shape[0] == len(chosen):
                setattr(part, name, value[chosen])
        part.factors = {name: value[chosen] for name, value in self.factors.items()}
        paint(part)
        self.canvas[chosen] = part.canvas

    def mask(self, distance: Tensor, softness: float = 1.0) -> Tensor:
        """Cover of a shape: 1 inside, 0 outside, soft over about `softness` pixels."""
        return smooth(0.5 - distance / (1.6 * self.pixel * softness))

    def paint(self, colour: Tensor, mask: Tensor) -> None:
        """Lay a colour over the canvas where the mask is, in place."""
        self.canvas.lerp_(colour, mask)

    def dim(self, amount: Tensor) -> None:
        """Darken the canvas by a share `amount` of its light; less than 0 lightens it."""
        self.canvas *= 1 - amount

    def on_head(
        self, longitude: Tensor | float, latitude: Tensor | float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Where a point of the head (radians) lands: x, y, and how wide it still looks there."""
        turned = self.yaw + longitude
        x = self.half_width * torch.sin(turned) * math_cos(latitude)
        y = self.half_height * torch.sin(self.pitch + latitude)
        return x, y, torch.cos(turned).clamp(0.25, 1)

    def shade(self, normal_x: Tensor, normal_y: Tensor) -> Tensor:
        """Light that falls on a surface whose unit normal has these first two components."""
        normal_z: Tensor = (1 - normal_x**2 - normal_y**2).clamp(min=0.03).sqrt()
        facing = normal_x * self.lamp_x + normal_y * self.lamp_y + normal_z * self.lamp_z
        return self.ambient + 0.10 + (1.05 - self.ambient) * facing.clamp(min=0)

    def detail(self, period: float) -> float:
        """How much of a texture of this period to show: none when finer than two pixels."""
        return min(1.0, max(0.0, (period / self.pixel - 2) / 1.5))


def math_cos(angle: Tensor | float) -> Tensor | float:
    """Cosine of a tensor or of a number."""
    return torch.cos(angle) if isinstance(angle, Tensor) else math.cos(angle)


def background(scene: Scene) -> None:
    """A plain wall with a gradient, and things out of focus before it."""
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
    """Shoulders in a plain garment; they do not roll with the head."""
    scene = scene.window((0.4, 1.0))
    x, y = scene.body_x, scene.body_y
    colour = from_hsv(scene["cloth_hue"], 0.55, 0.15 + 0.75 * scene["cloth_val"])
    light = 0.45 + 0.55 * scene.shade((x * 0.75).clamp(-0.95, 0.95), ((y - 1.2) * 0.5))
    folds = 1 + 0.10 * torch.sin(9 * x + 4 * torch.sin(5 * y) + 6 * scene["cloth_hue"])
    scene.paint(colour * light * folds, scene.mask(ellipse(x, y - 1.34, 0.95, 0.56)))


def strands(scene: Scene, across: Tensor, bend: Tensor) -> Tensor:
    """Texture of hair: light and dark strands along lines of equal `across`, about 1."""
    locks = torch.sin(38 * across + bend)
    fine = torch.sin(97 * across + 2 * bend)
    # `across` is an angle seen from about 1.3 away: that gives the periods in the picture.
    return (
        1
        + 0.17 * scene.detail(2 * math.pi * 1.3 / 38) * locks
        + 0.14 * scene.detail(2 * math.pi * 1.3 / 97) * fine
    )


def hair_waves(scene: Scene) -> Tensor:
    """How far waves push the hair sideways, growing downwards."""
    push = torch.sin(15 * scene.y + 3 * scene["part"])
    return 0.045 * scene["wave"] * push * smooth(scene.y + 0.7)


def hair_behind(scene: Scene) -> None:
    """Hair behind the head and on the shoulders, down to where its length reaches.

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
    """Neck down to a round neckline, in the chin's shadow at its top."""
    scene = scene.window((0.0, 1.0))
    x, y = scene.x - 0.12 * torch.sin(scene.yaw), scene.y
    width = 0.52 * scene.half_width + 0.10 * smooth((y - 0.66) / 0.3)
    neckline = scene.body_y - 0.90 + 1.6 * scene.body_x**2
    shape = torch.maximum(torch.maximum(x.abs() - width, 0.1 - y), neckline)
    chin_shadow = 0.56 + 0.34 * smooth((y - 0.92 * scene.half_height) / 0.32)
    light = scene.shade((x / (1.3 * scene.half_width)), 0 * y) * chin_shadow
    scene.paint(scene.skin_colour * light, scene.mask(shape, 1.5))


def ears(scene: Scene) -> None:
    """Both ears, behind the head: turning it hides the far one."""
    scene = scene.window((-0.4, 0.5))
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
    """Shadow in which each eye lies."""
    for side in SIDES:
        x, y, _ = scene.on_head(side * 0.52, -0.12)
        scene.dim(0.16 * blob(scene.x - x, scene.y - y, 0.16, 0.11))


def cheeks(scene: Scene) -> None:
    """Cheeks that shine, blush, and are lifted by a smile, with the fold beside the nose."""
    smile = scene["smile"].clamp(min=0)
    blush = scene.colour((0.13, -0.12, -0.10)) * scene["blush"]
    for side in SIDES:
        x, y, width = scene.on_head(side * 0.68, 0.30)
        cheek = blob(scene.x - x, scene.y - y + 0.03 * smile, 0.15 * width + 0.02, 0.13)
        scene.dim(-cheek * (blush + 0.05 + 0.06 * smile))
        x, y, width = scene.on_head(side * 0.42, 0.48)
        across, down = scene.x - x, scene.y - y
        across = across - side * (0.35 * down)  # the fold runs outwards on its way down
        scene.dim(0.26 * smile * blob(across, down, 0.024 * width + 0.008, 0.085))


def beard(scene: Scene) -> None:
    """Beard over the jaw and a moustache; the lips stay free."""
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
    """Bridge, the shadow it throws away from the lamp, the tip and both nostrils."""
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
    """Lips on a line that a smile bends, open over teeth and the dark behind them."""
    x, y, foreshortening = scene.on_head(0.0, 0.56)
    smile, opening = scene["smile"], scene["mouth_open"]
    half_width = 0.185 * (1 + 0.22 * scene["mouth_w"] + 0.16 * smile)
    half_width = half_width * foreshortening.clamp(min=0.6)
    across = (scene.x - 1.06 * x) / half_width
    dome = (1 - across.clamp(-1, 1) ** 2).clamp(min=0)
    # `down` counts from the line between the lips, corners raised by a smile.
    down = scene.y - (y + 0.02 + 0.115 * smile * (0.40 - across**2))
    gap = 0.125 * opening * dome
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

    # A closed mouth keeps a thin dark line; teeth come in as it opens.
    inside = torch.maximum(torch.maximum(-0.006 - down, down - gap - 0.004), beyond_corner + 0.012)
    hole = scene.mask(inside)
    scene.paint(scene.colour(INSIDE_MOUTH), hole * smooth(8 * opening + 0.40))
    upper_teeth = hole * scene.mask(down - 0.50 * gap) * smooth(5 * opening - 0.3)
    scene.paint(scene.colour(TEETH) * scene.skin_light.clamp(0.5, 1.05), upper_teeth)


def eyes(scene: Scene) -> None:
    """Eyeballs with iris, pupil and glint between two lids; a smile narrows them."""
    size, smile = scene["eye_size"], scene["smile"].clamp(min=0)
    for side in SIDES:
        x, y, width = scene.on_head(side * (0.47 + 0.06 * scene["eye_gap"]), -0.10)
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
    """An arched brow over each eye, thinner towards the temple."""
    for side in SIDES:
        x, y, width = scene.on_head(side * (0.47 + 0.06 * scene["eye_gap"]), -0.10)
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
    """The head with all that lies on its skin, cut out along its outline."""
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


def hair_front(scene: Scene) -> None:
    """Hair over the skull above the hairline, the fringe, and hair beside the face."""
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
    """Two rounded lenses, clear or tinted, with rims, a bridge and arms."""
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
    """A round hat with a ribbon of brim, down to the forehead."""
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
