"""The tab Edit: a photograph, or a face of the validation split, and a slider per attribute."""

from __future__ import annotations

from typing import Any

import gradio as gr

from vae.app.components import LIVE, PRIVATE, ValueSlider, face_row, for_visitors
from vae.app.face_picker import FacePicker
from vae.app.models import NO_IMAGES, AppModel, Face
from vae.app.page_state import Page
from vae.evaluation.directions import METHODS
from vae.generation.edit import MIN_ACCURACY
from vae.utils.errors import UserError
from vae.utils.registry import format_fixed
from vae.utils.text import markdown_text

MAX_STRENGTH = 3.0  # of a slider, either way
STEP = 0.05
EFFECTS = (
    " Effect: the edit's change, relative to the same face redrawn with the attribute (1 is a "
    "complete edit). Leakage: the change of everything else. `vae evaluate` measures both."
)
NO_FACE = "There is no face yet. Choose a photograph, or take a validation face."


class EditTab:
    """Builds the tab within a `gr.Tab`; other tabs send faces to it with `show_after`."""

    def __init__(self, page: Page, tab: gr.Tab) -> None:
        self.page, self.tab = page, tab
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                picker = FacePicker(page, page.face)
            with gr.Column(scale=3, min_width=300):
                self._build_output()
                self._build_sliders(page.model(1))
        self.settings = [page.face, page.run, self.keep_detail, self.unbounded]
        self.shown = [self.original, self.reconstruction, self.edited, self.limits, *self.sliders]
        for event in picker.chosen:
            self.show_after(event)
        self._listen()

    def show_after(self, event: Any) -> None:
        """Show the page's face after an event that has set it, with all sliders at 0."""
        event.success(self._show, self.settings, self.shown, **LIVE)

    def _build_output(self) -> None:
        self.original, self.reconstruction, self.edited = face_row(
            {
                "Before": "The face as the model gets it",
                "Reconstruction": "The face as the model reconstructs it",
                "After": "The face with the changes of the sliders",
            }
        )
        self.limits = gr.Markdown(elem_id="limits")
        with gr.Row():
            self.keep_detail = gr.Checkbox(
                label="Keep detail",
                info="Add the change to the photograph itself",
                min_width=150,
                elem_id="keep-detail",
            )
            self.unbounded = gr.Checkbox(
                label="No limits",
                info="Go beyond the range of the training faces",
                min_width=150,
                elem_id="unbounded",
            )
        with gr.Row():
            self.reset = gr.Button("Reset", size="md", min_width=120, elem_id="reset")
            self.refine = gr.Button(
                "Refine the reconstruction", size="md", min_width=120, elem_id="refine"
            )

    def _build_sliders(self, model: AppModel) -> None:
        """Build a slider per attribute, the best told first; those near chance are folded away."""
        attributes = self.page.models.attributes
        self.names = list(attributes)
        clear = [name for name, accuracy in attributes.items() if accuracy >= MIN_ACCURACY]
        if not attributes:
            lacking = [each for each in self.page.models.models if each.learned is None]
            why = "The runs share none."
            if lacking:
                why = NO_IMAGES if lacking[0].faces is None else lacking[0].no_directions
            gr.Markdown(f"There are no attributes to change. {markdown_text(why)}")
        elif clear:
            gr.Markdown(
                "The percentage says how well the direction of a slider tells the attribute on "
                "faces that it was not learned on (balanced accuracy: 50 % is chance)."
                + (EFFECTS if model.edits else "")
            )
        with gr.Row():
            self.sliders = [self._slider(model, name) for name in clear]
        unclear = self.names[len(clear) :]
        label = f"{len(unclear)} attributes near chance"
        with gr.Accordion(label, open=False, visible=bool(unclear), elem_id="near-chance"):
            gr.Markdown("These sliders may change other things.")
            with gr.Row():
                self.sliders += [self._slider(model, name) for name in unclear]

    def _slider(self, model: AppModel, name: str) -> gr.Slider:
        return ValueSlider(
            -MAX_STRENGTH,
            MAX_STRENGTH,
            value=0,
            step=STEP,
            label=_label(model, name),
            min_width=240,
            elem_id=f"attribute-{name}",
        )

    def _listen(self) -> None:
        face, run = self.page.face, self.page.run
        refined = self.refine.click(self._refine, [face, run], face, concurrency_limit=1, **PRIVATE)
        self.show_after(refined)
        # the button beside a slider's number resets it, and releases it
        moved = [event for each in self.sliders for event in (each.input, each.release)]
        changed = [*moved, self.keep_detail.input, self.unbounded.input]
        edit, edited = [*self.settings, *self.sliders], [self.edited, self.limits]
        gr.on(changed, self._edit, edit, edited, **LIVE)
        self.reset.click(self._show, self.settings, self.shown, **LIVE)
        # The labels of a hidden tab wait until it is opened: a browser takes 50 ms for them.
        if self.names and isinstance(run, gr.Slider):
            self.page.while_open(self.tab, self._labels, [run], self.sliders)
        self.page.when_run_changes(self._switch, edit, self.shown[:4])

    @for_visitors
    def _refine(self, face: Face | None, run: int) -> Face:
        if face is None:
            raise UserError(NO_FACE)
        model = self.page.model(run)
        return model.refine(model.encoded(face))

    @for_visitors
    def _show(self, face: Face | None, run: int, keep_detail: bool, unbounded: bool) -> list[Any]:
        if face is None:
            return [None, None, None, "", *[0] * len(self.names)]
        model = self.page.model(run)
        face = model.encoded(face)
        plain, _ = model.edit(face, {}, False, unbounded)
        edited = face.picture if keep_detail else plain
        return [face.picture, plain, edited, "", *[0] * len(self.names)]

    @for_visitors
    def _switch(
        self,
        face: Face | None,
        run: int,
        keep_detail: bool,
        unbounded: bool,
        *strengths: float | None,
    ) -> list[Any]:
        """Show the same edit by another run."""
        if face is None:
            return [gr.skip()] * 4
        original, plain, *_ = self._show(face, run, keep_detail, unbounded)
        return [original, plain, *self._edit(face, run, keep_detail, unbounded, *strengths)]

    @for_visitors
    def _labels(self, run: int) -> Any:
        """Return the labels of the sliders, which have the accuracies of a run."""
        labels = [gr.update(label=_label(self.page.model(run), name)) for name in self.names]
        return labels if len(labels) > 1 else labels[0]

    @for_visitors
    def _edit(
        self,
        face: Face | None,
        run: int,
        keep_detail: bool,
        unbounded: bool,
        *strengths: float | None,
    ) -> list[Any]:
        if face is None:
            return [gr.skip(), NO_FACE]
        model = self.page.model(run)
        wanted = {n: each or 0.0 for n, each in zip(self.names, strengths, strict=True)}
        edited, applied = model.edit(model.encoded(face), wanted, keep_detail, unbounded)
        limited = [
            f"{_words(name)} {wanted[name]:+.2f} is limited to {strength:+.2f}"
            for name, strength in applied.items()
            if abs(strength - wanted[name]) > STEP / 10
        ]
        said = f"{', '.join(limited)}, by the range of the training faces." if limited else ""
        return [edited, said]


def _words(attribute: str) -> str:
    return attribute.replace("_", " ")


def _label(model: AppModel, attribute: str) -> str:
    """Return a slider's label: attribute, accuracy of its direction, effect and leakage."""
    assert model.learned
    accuracy = model.learned.accuracy[attribute][METHODS[0]]
    told = f"{100 * accuracy:.0f}\u00a0%" if accuracy == accuracy else "unknown"
    change = model.edits.get(attribute)
    if change is None:
        return f"{_words(attribute)}, {told}"
    effect, leakage = format_fixed(change.effect, 2), format_fixed(change.leakage, 2)
    return f"{_words(attribute)}, {told}, effect {effect}, leakage {leakage}"
