"""The tab Between two faces: from one face to another, and an animation of the way."""

from __future__ import annotations

from typing import Any

import gradio as gr
import torch
from torch import Tensor

from vae.app.components import LIVE, PRIVATE, FaceImage, ValueSlider, face_row, for_visitors
from vae.app.edit_tab import EditTab
from vae.app.face_picker import FacePicker
from vae.app.models import Face
from vae.app.page_state import Page
from vae.generation.decode import FRAMES, METHODS
from vae.generation.figures import animation_bytes
from vae.utils.errors import UserError

NAMES = ("A", "B")


class BetweenTab:
    """Builds the tab within a `gr.Tab`."""

    def __init__(self, page: Page, edit: EditTab) -> None:
        self.page = page
        self.faces = [gr.State(), gr.State()]  # A and B, each a Face or None
        with gr.Row():
            with gr.Column(scale=3, min_width=300):
                self._build_output()
            with gr.Column(scale=2, min_width=300):
                self.chosen = [
                    event for number in range(len(NAMES)) for event in self._build_face(number)
                ]
        self._listen(edit)

    def _build_output(self) -> None:
        self.images = face_row(
            {
                "A": "Face A as the model reconstructs it",
                "Between": "The face between A and B",
                "B": "Face B as the model reconstructs it",
            }
        )
        self.place = ValueSlider(
            0, 100, value=50, step=1, label="From A to B, percent", elem_id="place"
        )
        ways = zip(("Straight line", "Arc"), METHODS, strict=True)
        self.way = gr.Radio(
            [*ways],
            value=next(iter(METHODS)),
            label="Way",
            info="A straight line passes nearer to the average face; an arc keeps away from it",
            elem_id="way",
        )
        with gr.Row():
            self.send = gr.Button("Send to Edit", size="md", min_width=120, elem_id="send-between")
            self.animate = gr.Button("Make a GIF", size="md", min_width=120, elem_id="animate")
        gr.Markdown("**From A to B and back**")
        self.animation = FaceImage(
            alt_text="An animation from A to B and back",
            show_label=False,
            interactive=False,
            buttons=["download"],
            format="gif",
            width=240,
            elem_id="animation",
            elem_classes="face",
        )

    def _build_face(self, number: int) -> list[Any]:
        """Build the controls of face A (0) or B (1), and return the events that choose it."""
        name, face = NAMES[number], self.faces[number]
        gr.Markdown(f"**Face {name}**")
        picker = FacePicker(self.page, face, name, number, height=200)
        take = gr.Button(
            f"Take the face of Edit ({name})", size="md", elem_id=f"{name.lower()}-edit"
        )
        taken = take.click(self._take_edited, self.page.face, face, **PRIVATE)
        return [*picker.chosen, taken]

    def _listen(self, edit: EditTab) -> None:
        settings = [*self.faces, self.page.run, self.place, self.way]
        shown = [*self.images, self.animation]
        for event in [gr.on(fn=self._start, outputs=self.faces, **PRIVATE), *self.chosen]:
            event.success(self._show, settings, shown, **LIVE)
        self.way.input(self._show, settings, shown, **LIVE)
        self.page.when_run_changes(self._show, settings, shown)
        moved = [self.place.input, self.place.release]  # its reset button releases it
        gr.on(moved, self._move, settings, self.images[1], **LIVE)
        self.animate.click(self._animate, settings, self.animation, **PRIVATE)
        edited = [self.page.face, self.page.tabs]
        edit.show_after(self.send.click(self._send, settings, edited, **PRIVATE))

    @for_visitors
    def _start(self) -> list[Face | None]:
        """Return the first two faces of the validation split, when the page is opened."""
        model = self.page.model(1)
        if model.faces is None:
            return [None, None]
        return [model.validation_face(min(number, len(model.faces) - 1)) for number in (0, 1)]

    @for_visitors
    def _take_edited(self, face: Face | None) -> Face:
        if face is None:
            raise UserError("There is no face in Edit yet. Choose one there first.")
        return face

    @for_visitors
    def _show(
        self, a: Face | None, b: Face | None, run: int, place: float | None, way: str
    ) -> list[Tensor | None]:
        """Return A, the face between, B, and no animation: the last one is of other faces."""
        model = self.page.model(run)
        ends = [model.decode(model.encoded(x).latents[None])[0] if x else None for x in (a, b)]
        between = self._move(a, b, run, place, way) if a and b else None
        return [ends[0], between, ends[1], None]

    @for_visitors
    def _move(self, a: Face | None, b: Face | None, run: int, place: float | None, way: str) -> Any:
        if a is None or b is None or place is None:
            return gr.skip()
        return self._between(a, b, run, place, way).picture

    @for_visitors
    def _send(
        self, a: Face | None, b: Face | None, run: int, place: float | None, way: str
    ) -> tuple[Face, gr.Tabs]:
        return self._between(a, b, run, place, way), gr.Tabs(selected="edit")

    @for_visitors
    def _animate(
        self, a: Face | None, b: Face | None, run: int, _place: float | None, way: str
    ) -> bytes:
        """Return the GIF that `vae interpolate` writes for the same faces."""
        model = self.page.model(run)
        start, end = model.encoded_together(*_both(a, b))
        return animation_bytes(model.decode(METHODS[way](start, end, FRAMES))[:, None])

    def _between(
        self, a: Face | None, b: Face | None, run: int, place: float | None, way: str
    ) -> Face:
        """Return the face at a place in percent; at 0 and 100 it has the latents of A and of B."""
        model = self.page.model(run)
        start, end = (model.encoded(face).latents for face in _both(a, b))
        place = 50.0 if place is None else place  # its field is empty
        if place in (0, 100):  # where the arc has rounding errors
            latents = end if place else start
        else:
            latents = METHODS[way](start, end, torch.tensor([place / 100]))[0]
        return model.decoded(latents, "between two faces")


def _both(a: Face | None, b: Face | None) -> tuple[Face, Face]:
    if a is None or b is None:
        name = "A" if a is None else "B"
        raise UserError(
            f"There is no face {name} yet. Choose a photograph, or take a validation face."
        )
    return a, b
