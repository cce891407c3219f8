"""The tab Latents: any face, and a slider for each of the latents with the most KL."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import gradio as gr
import torch
from torch import Tensor

from vae.app.components import LIVE, PRIVATE, ValueSlider, face_row, for_visitors
from vae.app.edit_tab import EditTab
from vae.app.models import NO_IMAGES, AppModel, Face
from vae.app.page_state import Page
from vae.utils.errors import UserError
from vae.utils.text import printable

MOST = 16  # sliders; a model of fewer latents has one per latent
RANGE = 4.0  # of a slider, either way, in standard deviations
STEP = 0.05
SENT = "latents moved by hand"

HELP = (
    "Each slider is a latent of the model, the one of most KL first. Nats: the mean KL "
    "divergence of the latent's posterior from the prior on the validation split, so how much "
    "the latent says about a face (1 nat is 1.44 bits). 0 is the average face of the validation "
    "split, and 1 is one standard deviation of the aggregate posterior."
)


@dataclass(frozen=True)
class LatentScales:
    """The latents of most KL of a model, and the scales of their sliders."""

    latents: list[int]  # the one of most KL first
    kl: list[float]  # nats
    mean: Tensor  # (n,) float64: of the aggregate posterior
    std: Tensor  # (n,) float64

    @classmethod
    def of(cls, model: AppModel) -> LatentScales:
        """Return the scales of a model's first MOST latents.

        Raises:
            UserError: the images are missing.
        """
        kl, aggregate = model.ranking
        latents = kl.argsort(descending=True, stable=True)[:MOST].tolist()
        std = aggregate.covariance.diagonal()[latents].sqrt()
        return cls(latents, kl[latents].tolist(), aggregate.mean[latents], std)

    def places(self, latents: Tensor) -> list[float]:
        """Return where sliders show latents (latent_dim,): within RANGE, to a whole STEP."""
        found = (latents.cpu().double()[self.latents] - self.mean) / self.std
        steps = (found.clamp(-RANGE, RANGE) / STEP).round().tolist()
        return [round(step * STEP, 2) for step in steps]

    def move(self, latents: Tensor, values: tuple[float | None, ...]) -> Tensor:
        """Return latents (latent_dim,) moved by the difference of sliders to their places.

        Args:
            values: of the sliders; those beyond the latents are ignored. None, an empty field,
                moves nothing.
        """
        pairs = zip(values, self.places(latents), strict=False)
        shifts = [0.0 if value is None else value - place for value, place in pairs]
        moved = latents.clone()
        moved[self.latents] += (torch.tensor(shifts, dtype=torch.float64) * self.std).to(moved)
        return moved


@dataclass(frozen=True, eq=False)  # Gradio compares states by their hash
class Start:
    """The face that the sliders start from."""

    face: Face | None  # None: there is none yet
    of_page: Face | None  # the page's face at that time: a new one replaces the start


class LatentsTab:
    """Builds the tab within `tab`; it shows the page's face when a visitor opens it."""

    def __init__(self, page: Page, edit: EditTab, tab: gr.Tab) -> None:
        self.page = page
        self._known: dict[int, LatentScales] = {}  # by the model's number
        self._ranking = [Lock() for _ in page.models.models]
        self.start = gr.State()  # a Start; None until the tab is opened
        self.note = gr.Markdown(elem_id="latents-note")
        with gr.Row() as self.tool:
            with gr.Column(scale=2, min_width=300):
                self._build_input()
            with gr.Column(scale=3, min_width=300):
                self._build_output()
        self.shown = [
            *[self.start, self.note, self.tool, self.unmoved, self.moved],
            *self.sliders,
        ]
        self._listen(edit, tab)

    def _build_input(self) -> None:
        with gr.Row():
            self.take_edited = gr.Button(
                "Take the face of Edit", size="md", min_width=140, elem_id="latents-take-edit"
            )
            self.average = gr.Button(
                "The average face", size="md", min_width=140, elem_id="latents-average"
            )
        with gr.Group():
            self.number = gr.Number(
                label="Or a face of the validation split, by its number",
                value=0,
                precision=0,
                min_width=120,
                elem_id="latents-number",
            )
            self.take = gr.Button(
                "Take this face", size="md", min_width=120, elem_id="latents-take"
            )

    def _build_output(self) -> None:
        self.unmoved, self.moved = face_row(
            {
                "Unmoved": "The face that the sliders start from, as the model reconstructs it",
                "Moved": "The face with the latents where the sliders are",
            }
        )
        with gr.Row():
            self.reset = gr.Button("Reset", size="md", min_width=120, elem_id="latents-reset")
            self.send = gr.Button("Send to Edit", size="md", min_width=120, elem_id="latents-send")
        gr.Markdown(HELP)
        count = max(min(MOST, model.run.model.latent_dim) for model in self.page.models.models)
        with gr.Row():
            self.sliders = [
                ValueSlider(
                    -RANGE,
                    RANGE,
                    value=0,
                    step=STEP,
                    label=f"Latent {place}",
                    min_width=240,
                    visible=False,
                    buttons=[],  # Gradio's own reset does not follow a new face
                    elem_id=f"latent-{place}",
                )
                for place in range(1, count + 1)
            ]

    def _listen(self, edit: EditTab, tab: gr.Tab) -> None:
        face, run = self.page.face, self.page.run
        faces: dict[str, Any] = {"show_progress_on": [self.unmoved, self.moved], **PRIVATE}
        opened = tab.select(self._open, [face, run, self.start], self.shown, **faces)
        opened.success(self._rank_all, concurrency_limit=1, **PRIVATE)
        self.take_edited.click(self._take_edited, [face, run], self.shown, **faces)
        self.average.click(self._take_average, [face, run], self.shown, **faces)
        self.take.click(self._take, [face, run, self.number], self.shown, **faces)
        self.reset.click(self._show, [self.start, run], self.shown, **LIVE)
        self.page.when_run_changes(self._switch, [self.start, run], self.shown)
        now = [self.start, run, *self.sliders]
        gr.on([each.input for each in self.sliders], self._move, now, self.moved, **LIVE)
        sent = [face, self.page.tabs, self.start]
        edit.show_after(self.send.click(self._send, now, sent, **PRIVATE))

    def _scales(self, model: AppModel) -> LatentScales:
        """Return the scales of a model; the first call for it takes seconds.

        Raises:
            UserError: the images are missing.
        """
        if model.number not in self._known:
            with self._ranking[model.number]:
                if model.number not in self._known:
                    self._known[model.number] = LatentScales.of(model)
        return self._known[model.number]

    def _rank_all(self) -> None:
        """Rank the latents of all runs, so that none does so while the slider of runs moves."""
        for model in self.page.models.models:
            with suppress(UserError):
                self._scales(model)

    @for_visitors
    def _open(self, face: Face | None, run: int, start: Start | None) -> list[Any]:
        if start and start.of_page is face:
            return self._unchanged()
        return self._show(Start(face, face), run)

    @for_visitors
    def _take_edited(self, face: Face | None, run: int) -> list[Any]:
        if face is None:
            raise UserError("There is no face in Edit yet. Choose a photograph there first.")
        return self._show(Start(face, face), run)

    @for_visitors
    def _take_average(self, face: Face | None, run: int) -> list[Any]:
        return self._show(Start(self._average_face(self.page.model(run)), face), run)

    @for_visitors
    def _take(self, face: Face | None, run: int, number: int | None) -> list[Any]:
        if number is None:
            raise UserError("Give the number of a face.")
        return self._show(Start(self.page.model(run).validation_face(number), face), run)

    def _average_face(self, model: AppModel) -> Face:
        _, aggregate = model.ranking
        latents = aggregate.mean.to(model.run.device, torch.float32)
        return model.decoded(latents, "the average face")

    @for_visitors
    def _switch(self, start: Start | None, run: int) -> list[Any]:
        return self._show(start, run) if start else self._unchanged()

    def _unchanged(self) -> list[Any]:
        return [gr.skip() for _ in self.shown]

    @for_visitors
    def _show(self, start: Start | None, run: int) -> list[Any]:
        """Return values for `shown`: the sliders where the face is that they start from."""
        start, model = _require(start), self.page.model(run)
        try:
            scales = self._scales(model)
        except UserError as error:
            why = NO_IMAGES if model.faces is None else printable(str(error))
            return [start, why, gr.Row(visible=False), *self._unchanged()[3:]]
        if start.face is None:
            start = replace(start, face=self._average_face(model))
        face = _latents_of(start, model)
        picture = model.decode(face.latents[None])[0]
        places, count = scales.places(face.latents), len(scales.latents)
        sliders = [
            gr.Slider(value=place, label=f"z{latent}, {kl:.1f} nats", visible=True)
            for latent, kl, place in zip(scales.latents, scales.kl, places, strict=True)
        ]
        hidden = [gr.Slider(value=0, visible=False) for _ in self.sliders[count:]]
        note = f"The sliders start from {face.name}."
        return [start, note, gr.Row(visible=True), picture, picture, *sliders, *hidden]

    @for_visitors
    def _move(self, start: Start | None, run: int, *values: float | None) -> Tensor:
        return self._moved(start, run, values).picture

    @for_visitors
    def _send(self, start: Start | None, run: int, *values: float | None) -> list[Any]:
        """Return the face for Edit. The sliders stay as they are for when the visitor returns."""
        face = self._moved(start, run, values)
        return [face, gr.Tabs(selected="edit"), replace(_require(start), of_page=face)]

    def _moved(self, start: Start | None, run: int, values: tuple[float | None, ...]) -> Face:
        model = self.page.model(run)
        face = _latents_of(_require(start), model)
        return model.decoded(self._scales(model).move(face.latents, values), SENT)


def _require(start: Start | None) -> Start:
    if start is None:
        raise UserError("There is no face yet. Take a face first.")
    return start


def _latents_of(start: Start, model: AppModel) -> Face:
    if start.face is None:
        raise UserError("There is no face yet. Take a face first.")
    return model.encoded(start.face)
