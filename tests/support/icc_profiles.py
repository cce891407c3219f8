"""ICC profiles (version 2.4) of made-up devices."""

from __future__ import annotations

import struct
from itertools import product

SRGB = ((0.43607, 0.38515, 0.14307), (0.22249, 0.71687, 0.06061), (0.01392, 0.09708, 0.71410))
ADOBE = ((0.60974, 0.20528, 0.14919), (0.31111, 0.62567, 0.06322), (0.01947, 0.06087, 0.74457))


def _fixed(*numbers: float) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def _curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {b"wtpt": b"XYZ " + bytes(4) + _fixed(0.9642, 1, 0.8249), **tags}
    table, data, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    header = bytes(8) + b"\2\x40\0\0" + kind + space + connection + bytes(12) + b"acsp"
    header = header.ljust(68, b"\0") + _fixed(0.9642, 1, 0.8249)
    body = header.ljust(128, b"\0") + table + data
    return struct.pack(">I", len(body)) + body[4:]


def rgb_profile(primaries: tuple[tuple[float, ...], ...], gamma: float) -> bytes:
    """A display: columns of `primaries` are the XYZ (D50) of red, green and blue."""
    tags = {}
    for name, colour in zip("rgb", zip(*primaries, strict=True), strict=True):
        tags[f"{name}XYZ".encode()] = b"XYZ " + bytes(4) + _fixed(*colour)
        tags[f"{name}TRC".encode()] = _curve(gamma)
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags)


def grey_profile(gamma: float) -> bytes:
    """A grey display."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": _curve(gamma)})


def cmyk_profile() -> bytes:
    """A printer whose magenta and yellow are invisible: cyan or black ink is black, else white."""
    ramp = bytes(range(256))
    inks = product((False, True), repeat=4)
    lab = b"".join(bytes((0 if c or k else 255, 128, 128)) for c, _, _, k in inks)
    tables = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": tables + 4 * ramp + lab + 3 * ramp})
