"""The controls that choose a face: a photograph with its square, or a validation face."""

from __future__ import annotations

from typing import Any

import gradio as gr

from vae.app.components import PRIVATE, FaceImage, for_visitors
from vae.app.models import Face
from vae.app.page_state import Page
from vae.app.uploads import Upload, draw_square, face_of, frame, read_upload
from vae.generation.photos import DRAWN_ONLY
from vae.utils.errors import UserError


class FacePicker:
    """Builds the controls; `chosen` are the events after which `face` has the visitor's choice.

    Args:
        page: shared by all tabs.
        face: is set to the chosen Face.
        name: of one of several pickers: it ends their labels and begins their ids.
        number: of the validation face that is offered first.
        height: of the photograph, pixels.
    """

    def __init__(
        self, page: Page, face: gr.State, name: str = "", number: int = 0, height: int = 300
    ) -> None:
        self.page = page
        prefix, suffix = (f"{name.lower()}-", f" ({name})") if name else ("", "")
        upload = gr.State()  # an Upload, or None
        photograph = FaceImage(
            label=f"Your photograph{suffix}",
            alt_text=f"Your photograph, with the square that the model gets{suffix}",
            sources=["upload", "webcam", "clipboard"],
            placeholder="Drop a photograph here\n- or -\nclick to choose one",
            height=height,
            buttons=[],
            elem_id=f"{prefix}photograph",
        )
        found = gr.Markdown(elem_id=f"{prefix}found")
        title = f"Set the square by hand{suffix}"
        with gr.Accordion(title, open=False, elem_id=f"{prefix}by-hand"):
            with gr.Row():
                square = [
                    gr.Number(
                        label=f"{side}, pixels",
                        precision=0,
                        min_width=90,
                        elem_id=f"{prefix}square-{side.lower()}",
                    )
                    for side in ("Left", "Top", "Side")
                ]
            crop = gr.Button(f"Take this square{suffix}", size="md", elem_id=f"{prefix}crop")
        with gr.Group(visible=page.model(1).faces is not None):
            wanted = gr.Number(
                label=f"Or a face of the validation split, by its number{suffix}",
                value=number,
                precision=0,
                min_width=120,
                elem_id=f"{prefix}number",
            )
            take = gr.Button(
                f"Take this face{suffix}", size="md", min_width=120, elem_id=f"{prefix}take"
            )
        framed = [upload, face, photograph, found, *square]
        by_hand = [upload, page.run, *square]
        # Pasting empties the component first, an event of its own: that of the picture must follow.
        each: dict[str, Any] = {"trigger_mode": "always_last", **PRIVATE}
        self.chosen = [
            photograph.input(self._upload, [photograph, page.run], framed, **each),
            crop.click(self._crop, by_hand, framed, **PRIVATE),
            take.click(self._take, [wanted, page.run], face, **PRIVATE),
        ]

    @for_visitors
    def _upload(self, path: str | None, run: int) -> list[Any]:
        if path is None:  # it was removed
            return [None, *[gr.skip()] * 2, "", *[gr.skip()] * 3]
        return self._frame(read_upload(path), run, "auto")

    @for_visitors
    def _crop(
        self, upload: Upload | None, run: int, left: int | None, top: int | None, side: int | None
    ) -> list[Any]:
        if upload is None:
            raise UserError("There is no photograph yet. Choose one first.")
        if left is None or top is None or side is None:
            raise UserError("The square is incomplete. Give its left, top and side in pixels.")
        return self._frame(upload, run, f"{left},{top},{side}")

    def _frame(self, upload: Upload, run: int, crop: str) -> list[Any]:
        """Return values for `framed`: the upload, its face, its picture, what was found."""
        model = self.page.model(run)
        photograph = frame(upload, self.page.models, model, crop)
        said = [upload.note, photograph.how and f"{photograph.how[0].upper()}{photograph.how[1:]}."]
        if model.run.data_config.name == "synthetic":
            said.append(f"{DRAWN_ONLY[0].upper()}{DRAWN_ONLY[1:]}")
        if photograph.advice:
            said.append("Set the square by hand, so that it holds the face.")
        picture = draw_square(upload, photograph)
        found = " ".join(filter(None, said))
        return [upload, face_of(photograph, model), picture, found, *photograph.square]

    @for_visitors
    def _take(self, number: int | None, run: int) -> Face:
        if number is None:
            raise UserError("Give the number of a face.")
        return self.page.model(run).validation_face(number)
