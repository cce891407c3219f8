"""Photographs of visitors: read within limits, framed, and not kept on the disk."""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import BoundedSemaphore
from typing import TYPE_CHECKING

import torch

from vae.app.models import AppModel, AppModels, Face
from vae.data.base import ImageError
from vae.data.images import FIX, FORMATS, decode_square
from vae.data.loader import to_float
from vae.generation.photos import MAX_ASPECT, Photograph, frame_photograph
from vae.utils.errors import UserError
from vae.utils.files import is_alive, read_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_BYTES = 20 * 2**20
MAX_PIXELS = 50_000_000
SHOWN_SIDE = 480  # pixels of the longer side of a photograph on the page
NAME = "your photograph"
KEPT = 600  # seconds that an upload waits for its event, at most
FOLDER = re.compile(r"vae-app-(\d+)-\w+")  # the process

# A picture of MAX_PIXELS takes 200 MB while it is decoded.
_decoding = BoundedSemaphore(2)


@dataclass(frozen=True, eq=False)  # Gradio compares states by their hash
class Upload:
    """A photograph as it was sent."""

    content: bytes
    note: str  # on an animation


@contextmanager
def upload_folder() -> Iterator[Path]:
    """Make a private folder that Gradio uses for uploads, and remove it at the end.

    Folders of processes that were killed are removed, too.
    """
    for left in Path(tempfile.gettempdir()).glob("vae-app-*"):
        named = FOLDER.fullmatch(left.name)
        if named and not is_alive(int(named[1])):
            shutil.rmtree(left, ignore_errors=True)  # it follows no link
    folder = Path(tempfile.mkdtemp(prefix=f"vae-app-{os.getpid()}-"))
    try:
        os.environ["GRADIO_TEMP_DIR"] = str(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def waiting(folder: Path) -> tuple[int, int]:
    """Return the number and the bytes of the uploads in a folder."""
    sizes = []
    for parent, _, names in os.walk(folder):  # passes over folders that are removed meanwhile
        for name in names:
            with suppress(OSError):
                sizes.append(os.lstat(os.path.join(parent, name)).st_size)
    return len(sizes), sum(sizes)


def remove_old(folder: Path, age: float = KEPT) -> None:
    """Remove the uploads that have waited `age` seconds in a folder."""
    for path in folder.iterdir():
        with suppress(OSError):
            if time.time() - path.lstat().st_mtime > age:
                _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def read_upload(path: str) -> Upload:
    """Read an uploaded file, and remove it.

    Args:
        path: that the visitor's browser names. Only a file that was uploaded is touched.

    Raises:
        UserError: it is too large, or no upload.
    """
    file = Path(path)
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    parts = file.parts[len(folder.parts) :]  # of an upload: a folder of its own, and its name
    if file != folder.joinpath(*parts) or len(parts) != 2 or ".." in parts or _has_link(file):
        raise UserError(f"{NAME}: was not uploaded. Choose it again.")
    try:
        content = read_bytes(file, MAX_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None)
        raise UserError(f"{NAME}: cannot be read ({reason}). Choose it again.") from error
    finally:
        shutil.rmtree(file.parent, ignore_errors=True)
    return Upload(content, _note(content))


def _has_link(file: Path) -> bool:
    return file.is_symlink() or file.parent.is_symlink()


def _note(content: bytes) -> str:
    from PIL import Image

    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, on metadata
        if getattr(Image.open(io.BytesIO(content), formats=FORMATS), "is_animated", False):
            return "An animation: its first picture is taken. For another, save that one alone."
    return ""


def frame(upload: Upload, models: AppModels, model: AppModel, crop: str) -> Photograph:
    """Cut the square of a photograph that the model expects, as `vae edit --crop` does.

    Raises:
        UserError: it is no picture, or too large; the crop is outside of it.
    """
    data = model.run.data_config
    try:
        with _decoding:
            return frame_photograph(
                upload.content, NAME, crop, data, lambda: models.eyes, max_pixels=MAX_PIXELS
            )
    except ImageError as error:
        raise UserError(str(error).replace(FIX, "Choose another picture.")) from error
    except UserError as error:  # of a square by hand
        raise UserError(
            "The square lies outside of the photograph, or is much larger. Give its left and top "
            "edge and its side in pixels of the photograph, so that it holds the face."
        ) from error


def face_of(photograph: Photograph, model: AppModel) -> Face:
    """Return a framed photograph as a face of a model."""
    picture = to_float(photograph.face[None].copy(), torch.device("cpu"))[0]
    return model.encode(picture, NAME)


def draw_square(upload: Upload, photograph: Photograph) -> Image:
    """Return the photograph with its square marked, reduced to SHOWN_SIDE.

    Where the square reaches beyond the photograph, so does the picture.
    """
    from PIL import Image, ImageDraw

    (width, height), (left, top, side) = photograph.size, photograph.square
    start = min(0, left), min(0, top)
    end = max(width, left + side), max(height, top + side)
    shorter, longer = sorted((end[0] - start[0], end[1] - start[1]))
    if longer > MAX_ASPECT * shorter or longer**2 > MAX_PIXELS:  # the square alone
        start, end, longer = (left, top), (left + side, top + side), side
    shown = min(longer, SHOWN_SIDE)
    with _decoding:
        pixels = decode_square(
            upload.content, NAME, shown, lambda *_: (*start, longer), max_pixels=MAX_PIXELS
        )
    scale = shown / longer
    picture = Image.fromarray(pixels)
    corner = scale * (left - start[0]), scale * (top - start[1])
    last = max(scale * side - 1, 0)  # of a strip, the square may be smaller than a pixel
    box = (*corner, corner[0] + last, corner[1] + last)
    draw = ImageDraw.Draw(picture)
    draw.rectangle(box, outline="white", width=4)
    draw.rectangle(box, outline="#1d4ed8", width=2)
    width, height = (max(round(scale * (end[axis] - start[axis])), 1) for axis in (0, 1))
    return picture.crop((0, 0, width, height))
