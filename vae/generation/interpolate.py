"""From one face to another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from vae import figures
from vae.errors import require
from vae.gallery import decode_strips, slerp
from vae.gallery import interpolate as lerp
from vae.photographs import file_stems, load_faces
from vae.saved import SavedRun

WAYS = {"linear": lerp, "spherical": slerp}
STEPS = 9  # faces of a strip, both ends in
FRAMES = 24  # of an animation, one way


@torch.inference_mode()
def interpolate(
    run: SavedRun,
    faces: Sequence[str] = ("0", "1"),
    steps: int = STEPS,
    split: str = "val",
    crop: str = "auto",
    folder: Path | None = None,
    method: str = "both",
) -> list[Path]:
    """Strips and animations between two faces, along the straight line and along the arc.

    Args:
        run: its model's device is where they are decoded.
        faces: two files, or numbers of faces of the split.
        steps: faces of a strip, >= 2.
        split, crop: as `load_faces`.
        folder: the files go into figures/ below it; the run's if None.
        method: linear, spherical or both.

    Returns:
        interpolate_A_B.png with a row for each way, and a GIF for each.
    """
    require(len(faces) == 2, "A B", list(faces), "two faces")
    require(2 <= steps <= 100, "--steps", steps, "an int from 2 to 100")
    require(method in ("both", *WAYS), "--method", method, f"{', '.join(WAYS)} or both")
    ways = {name: way for name, way in WAYS.items() if method in (name, "both")}
    originals, labels = load_faces(faces, run, split, crop)
    start, end = run.model.encode(originals.to(run.device)).mode

    def decoded(steps: int) -> Tensor:  # (ways, steps, 3, size, size)
        strips = torch.stack([way(start, end, steps) for way in ways.values()])
        return decode_strips(run.model, strips).cpu()

    ends = originals[:, None].expand(2, len(ways), *originals.shape[1:])[:, :, None]
    rows = torch.cat([ends[0], decoded(steps), ends[1]], dim=1)
    name = "_".join(["interpolate", *file_stems(labels)])
    path = (folder or run.folder) / "figures" / f"{name}.png"
    between = [f"{share:.0%}" for share in torch.linspace(0, 1, steps).tolist()]
    columns = [labels[0], *between, labels[1]]
    files = [figures.table(rows, path, columns=columns, rows=list(ways))]
    for way, frames in zip(ways, decoded(FRAMES), strict=True):
        animated = path.with_name(f"{name}_{way}.gif")
        files.append(figures.animation(frames[:, None], animated))
    return files
