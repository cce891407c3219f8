"""Gradio's components as the page needs them: images in the page itself, errors as sentences."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import gradio as gr
from gradio.components.gallery import GalleryData, GalleryImage
from gradio.data_classes import Base64ImageData
from torch import Tensor

from vae.generation.figures import to_pil
from vae.utils.compat import (
    give_each_upload_a_folder,
    keep_gradio_from_opening_files,
    keep_gradio_from_writing_stubs,
)
from vae.utils.errors import UserError, is_out_of_memory
from vae.utils.text import printable

if TYPE_CHECKING:
    from PIL.Image import Image

keep_gradio_from_writing_stubs()
keep_gradio_from_opening_files()
give_each_upload_a_folder()

P = ParamSpec("P")
R = TypeVar("R")

# Of events: the page is no API, and an answer comes without a queue or a spinner.
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
LIVE: dict[str, Any] = {
    **PRIVATE,
    "queue": False,
    "show_progress": "hidden",
    "trigger_mode": "always_last",  # of many moves of a slider, the first and the last
}


class FaceImage(gr.Image):
    """An image that is sent within the answer: no file on the server, no second request.

    Takes a tensor (3, size, size) in [0, 1], a PIL image, or the bytes of a PNG or a GIF. As an
    input it is the path of the uploaded file: the page decodes it itself.
    """

    is_template = True  # the browser's part is that of gr.Image

    def preprocess(self, payload: Any) -> str | None:
        return None if payload is None else payload.path

    def postprocess(self, value: Tensor | Image | bytes | None) -> Base64ImageData | None:
        return None if value is None else Base64ImageData(url=data_url(value))


class FaceGallery(gr.Gallery):
    """Images with captions that are sent within the answer, as FaceImage."""

    is_template = True

    def preprocess(self, payload: Any) -> None:
        return None

    def postprocess(self, value: Sequence[tuple[Tensor | Image, str]] | None) -> GalleryData:
        return GalleryData(
            root=[
                GalleryImage(image={"url": data_url(picture)}, caption=caption)
                for picture, caption in value or ()
            ]
        )


class ValueSlider(gr.Slider):
    """A slider whose number field may hold anything while a visitor types.

    It is None while the field is empty, and the nearest end for a number beyond the range:
    Gradio's own fails at both.
    """

    is_template = True

    def preprocess(self, payload: object) -> Any:
        if payload is None:
            return None
        if not isinstance(payload, (int, float)) or not math.isfinite(payload):
            raise message("A slider takes a number.")
        return super().preprocess(min(max(payload, self.minimum), self.maximum))


def face_row(faces: Mapping[str, str]) -> list[FaceImage]:
    """Build a row of faces to look at and download, each below its name.

    Args:
        faces: alternative texts by name. The element's id is the name in lower case.
    """
    images = []
    with gr.Row(elem_classes="faces"):
        for name, text in faces.items():
            with gr.Column(min_width=90):
                gr.Markdown(name)
                images.append(
                    FaceImage(
                        alt_text=text,
                        show_label=False,
                        label=name,
                        interactive=False,
                        buttons=["download"],
                        format="png",
                        elem_id=name.lower(),
                        elem_classes="face",
                    )
                )
    return images


def data_url(value: Tensor | Image | bytes) -> str:
    """Return an image as a `data:` URL: PNG, exact to the level; bytes stay as they are."""
    if isinstance(value, bytes):
        kind = "png" if value.startswith(b"\x89PNG") else "gif"
        return f"data:image/{kind};base64,{base64.b64encode(value).decode()}"
    picture = to_pil(value) if isinstance(value, Tensor) else value
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def for_visitors(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate an event's function: a visitor's mistake becomes a message on the page."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except UserError as error:
            raise message(str(error)) from error
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise message("Out of memory. Take a smaller picture, or fewer samples.") from error

    return call


def message(text: str) -> gr.Error:
    """Return an error for the visitor; its text may hold bytes of an uploaded file."""
    return gr.Error(html.escape(printable(text)), title="", duration=None, print_exception=False)


def warn(text: str) -> None:
    """Show a warning, where an error would cover the event's outputs."""
    gr.Warning(html.escape(printable(text)), title="", duration=None)
