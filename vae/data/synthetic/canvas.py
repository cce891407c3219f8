"""Drawing primitives: soft shapes, colours, and the scene with its head and lamp.

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
RED_HAIR = (0.66, 0.26, 0.10)
WHITE = (1.0, 1.0, 1.0)

SIDES = (-1.0, 1.0)  # the picture's left and right
EYES = -0.10  # latitude of the eyes, in radians
EYE_ROW = 0.03  # the row of the picture that they are kept at
ZOOM = 1.16  # brings the eyes as far apart as in CelebA's crop of 148 pixels


def smooth(t: Tensor) -> Tensor:
    """Rise from 0 at t <= 0 to 1 at t >= 1 with a flat start and end."""
    t = t.clamp(0, 1)
    return (t * -2).add_(3).mul_(t).mul_(t)


def mix(first: Tensor, second: Tensor, share: Tensor | float) -> Tensor:
    """Go from `first` (share 0) to `second` (share 1)."""
    return first + (second - first) * share


def ellipse(x: Tensor, y: Tensor, radius_x: Tensor | float, radius_y: Tensor | float) -> Tensor:
    """Return the approximate signed distance to an ellipse about the origin."""
    width, height = torch.as_tensor(radius_x).to(x), torch.as_tensor(radius_y).to(x)
    radius = (x * (1 / width)).square() + (y * (1 / height)).square()
    return radius.add_(1e-9).sqrt_().sub_(1).mul_(torch.minimum(width, height))


def bell(t: Tensor) -> Tensor:
    """Return exp(-t²)."""
    # Without the bound the far ends are denormal numbers, which are many times slower.
    return t.square().clamp_(max=40).neg_().exp_()


def blob(x: Tensor, y: Tensor, radius_x: Tensor | float, radius_y: Tensor | float) -> Tensor:
    """Return a Gaussian about the origin, 1 at its centre."""
    squared = (x * (1 / radius_x)).square() + (y * (1 / radius_y)).square()
    return squared.clamp_(max=40).neg_().exp_()


def ramp(tones: tuple[tuple[float, ...], ...], place: Tensor) -> Tensor:
    """Return the colour at `place` (n, 1, 1, 1), 0 to 1, along a row of tones: (n, 3, 1, 1)."""
    table = torch.tensor(tones, device=place.device)
    position = place.flatten() * (len(tones) - 1)
    index = position.long().clamp(0, len(tones) - 2)
    share = (position - index)[:, None]
    return mix(table[index], table[index + 1], share)[:, :, None, None]


def from_hsv(hue: Tensor, saturation: Tensor | float, value: Tensor | float) -> Tensor:
    """Return the colour (n, 3, 1, 1) of a hue (one turn per unit), saturation and value."""
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

        self.yaw, self.pitch = 0.48 * self["yaw"], 0.16 * self["pitch"]
        self.half_width = 0.50 * (1 + 0.14 * self["face_w"])
        self.half_height = 0.64 * (1 - 0.04 * self["face_w"])

        # The body's frame follows place and size; the head's rolls as well. Pictures are
        # aligned as CelebA's are: the eyes stay in place when the head turns or nods.
        size_factor = ZOOM * (1 + 0.08 * self["scale"])
        eyes_x, eyes_y, _ = self.on_head(0.0, EYES)
        self.body_x = (self.column - 0.03 * self["pos_x"]) / size_factor + eyes_x
        self.body_y = (self.row - EYE_ROW - 0.03 * self["pos_y"]) / size_factor + eyes_y
        roll = 0.06 * self["roll"]
        self.x = torch.cos(roll) * self.body_x + torch.sin(roll) * self.body_y
        self.y = torch.cos(roll) * self.body_y - torch.sin(roll) * self.body_x

        self.skin_light = torch.ones_like(self.x)  # the light on the face, once `head` is there

        self.hair_depth = 0.05 + 0.11 * self["hair_vol"]
        self.hair_depth *= smooth(self["hair_len"] * 6)  # stubble lies close to the skull
        self.hair_end = -0.34 + 1.34 * self["hair_len"]  # the row where hair hangs to
        self.has_hair = smooth(self["hair_len"] * 16 - 0.8)  # 0 for a bald head
        warm = self.colour((0.05, 0.0, -0.07)) * self["undertone"]
        self.skin_colour = (ramp(SKIN_TONES, self["skin"]) * (1 + warm)).clamp(0, 1)
        red = 0.8 * self["hair_red"] * (1 - 0.6 * self["hair_dark"])
        self.hair_colour = mix(ramp(HAIR_TONES, self["hair_dark"]), self.colour(RED_HAIR), red)

        # One lamp, in front and above, and the light that comes from everywhere.
        azimuth = 1.1 * self["light_az"]
        height = -0.35 - 0.45 * self["light_el"]
        lamp = torch.cat([torch.sin(azimuth), height, torch.cos(azimuth)], dim=1)
        lamp = lamp / lamp.norm(dim=1, keepdim=True)
        self.lamp_x, self.lamp_y, self.lamp_z = torch.split(lamp, 1, dim=1)
        self.ambient = 0.38 + 0.30 * self["light_amb"]

    def __getitem__(self, factor: str) -> Tensor:
        """Return the values of a factor, (n, 1, 1, 1)."""
        return self.factors[factor]

    def colour(self, rgb: tuple[float, float, float]) -> Tensor:
        """Return a fixed colour as (1, 3, 1, 1)."""
        return torch.tensor(rgb, device=self["skin"].device).view(1, 3, 1, 1)

    def window(self, rows: tuple[float, float]) -> Scene:
        """Return a view of some rows, which shares its canvas with the whole scene."""
        size = self.row.shape[2]
        first = max(0, math.floor((rows[0] + 1) / 2 * size))
        last = min(size, math.ceil((rows[1] + 1) / 2 * size))
        part = copy.copy(self)
        for name in ("canvas", "row", "x", "y", "body_y", "skin_light"):
            setattr(part, name, getattr(self, name)[:, :, first:last])
        return part

    def layer(self) -> Scene:
        """Return the same scene with a new, empty canvas."""
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
        """Project a point of the head (radians): x, y, and the foreshortening there."""
        turned = self.yaw + longitude
        narrower = torch.cos(latitude) if isinstance(latitude, Tensor) else math.cos(latitude)
        x = self.half_width * torch.sin(turned) * narrower
        y = self.half_height * torch.sin(self.pitch + latitude)
        return x, y, torch.cos(turned).clamp(0.25, 1)

    def shade(self, normal_x: Tensor, normal_y: Tensor) -> Tensor:
        """Return the light on a surface, from the first two components of its unit normal."""
        normal_z = (1 - normal_x**2 - normal_y**2).clamp(min=0.03).sqrt()
        facing = normal_x * self.lamp_x + normal_y * self.lamp_y + normal_z * self.lamp_z
        return self.ambient + 0.10 + (1.05 - self.ambient) * facing.clamp(min=0)

    def detail(self, period: float) -> float:
        """Return the strength of a texture of this period: 0 if finer than two pixels."""
        return min(1.0, max(0.0, (period / self.pixel - 2) / 1.5))
