"""The tab Sweep: the page's face through every run, and the runs' rates and distortions."""

from __future__ import annotations

import io
from functools import cached_property, partial
from threading import Lock
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

from vae.app.components import LIVE, FaceImage, for_visitors
from vae.app.edit_tab import EditTab
from vae.app.models import AppModel, AppModels, Face
from vae.app.page_state import Page
from vae.sweeps.charts import DOTS_PER_INCH, RATE_DISTORTION, draw_rate_distortion
from vae.sweeps.comparison import format_value
from vae.sweeps.sentences import constraint_sentence, describe_violations
from vae.training.metrics import psnr
from vae.utils.registry import find_metric
from vae.utils.tables import markdown_table
from vae.utils.text import markdown_text, plural, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = {  # of the table
    "val/rate": "rate, nats",
    "val/psnr": "PSNR, dB",
    "val/bpd": "bpd",
    "val/active_units": "active units",
}
UNITS = {"val/rate": "nats", "val/psnr": "dB", "val/bpd": "bpd"}
CHOSEN: dict[str, Any] = {"s": 330, "facecolors": "none", "edgecolors": "black", "linewidths": 2}
ABOVE: dict[str, Any] = {"textcoords": "offset points", "weight": "bold"}
EXPLANATION = (
    "The face as each run encodes and reconstructs it. Below: the run's rate and bits per "
    "dimension (bpd), both over the validation split, and the PSNR of this face alone. "
    "Choose a run for all tabs by its picture, its button or the slider."
)


class SweepTab:
    """Builds the tab within `tab`, where the page has several runs."""

    def __init__(self, page: Page, edit: EditTab, tab: gr.Tab) -> None:
        self.page, self.edit = page, edit
        self.chart_of = RateDistortionChart(page.models)
        gr.Markdown(EXPLANATION)
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                self._build_faces()
            with gr.Column(scale=2, min_width=320):
                self.chart = FaceImage(
                    label="Rate and distortion of each run",
                    show_label=False,
                    visible=self.chart_of.comparison is not None,
                    interactive=False,
                    buttons=[],
                    elem_id="sweep-chart",
                )
        gr.Markdown(
            _table(page.models), latex_delimiters=[], elem_id="sweep-table", elem_classes="table"
        )
        self._listen(tab)

    def _build_faces(self) -> None:
        """Build the original and, per run, its picture, a button that chooses it, its caption."""
        self.with_edit = gr.Checkbox(
            label="With the changes of Edit",
            info="Each run's own edit, by the sliders of that tab; the PSNR is without it",
            visible=bool(self.edit.names),
            elem_id="sweep-edited",
        )
        with gr.Row(elem_classes="cards"):
            with gr.Column(min_width=90):
                self.original = _picture("The face as the models get it", "sweep-original")
                gr.Markdown("original")
            self.pictures, self.buttons, self.captions = [], list[gr.Button](), list[gr.Markdown]()
            for model in self.page.models.models:
                number = model.number + 1
                with gr.Column(min_width=90):
                    self.pictures.append(
                        _picture(f"The face by {printable(model.label)}", f"sweep-face-{number}")
                    )
                    self.buttons.append(
                        gr.Button(model.label, size="sm", elem_id=f"sweep-choose-{number}")
                    )
                    self.captions.append(gr.Markdown(elem_id=f"sweep-caption-{number}"))

    def _listen(self, tab: gr.Tab) -> None:
        edit = self.edit
        shown = [self.page.face, self.with_edit, edit.keep_detail, edit.unbounded, *edit.sliders]
        faces = [self.original, *self.pictures, *self.captions]
        gr.on([tab.select, self.with_edit.input], self._faces, shown, faces, **LIVE)
        self.page.while_open(tab, self._mark, [self.page.run], [self.chart, *self.buttons])
        pairs = zip(self.pictures, self.buttons, strict=True)
        for number, (picture, button) in enumerate(pairs, start=1):
            gr.on([picture.select, button.click], partial(int, number), None, self.page.run, **LIVE)

    @for_visitors
    def _faces(
        self,
        face: Face | None,
        with_edit: bool,
        keep_detail: bool,
        unbounded: bool,
        *strengths: float,
    ) -> list[Any]:
        """Return the face, each run's picture of it, and the captions."""
        models = self.page.models.models
        if face is None:
            return [None, *[None] * len(models), *[""] * len(models)]
        pictures, captions = [], []
        for model in models:
            own = model.reencoded(face)  # of a sample or a refined face, too: the same for all
            picture, _ = model.edit(own, {}, False, unbounded)
            captions.append(_caption(model, psnr(face.picture[None], picture[None]).item()))
            if with_edit:
                wanted = dict(zip(self.edit.names, strengths, strict=True))
                picture, _ = model.edit(own, wanted, keep_detail, unbounded)
            pictures.append(picture)
        return [face.picture, *pictures, *captions]

    @for_visitors
    def _mark(self, run: int) -> list[Any]:
        """Return the chart and the buttons, with the chosen run marked."""
        chosen = self.page.model(run)
        buttons = [
            gr.update(value=f"✓ {model.label}", variant="primary")
            if model is chosen
            else gr.update(value=model.label, variant="secondary")
            for model in self.page.models.models
        ]
        if self.chart_of.comparison is None:
            return [gr.skip(), *buttons]
        chart, words = self.chart_of.draw(chosen), self.chart_of.describe(chosen)
        return [gr.update(value=chart, alt_text=words), *buttons]


def _picture(text: str, elem_id: str) -> FaceImage:
    return FaceImage(
        alt_text=text,
        show_label=False,
        interactive=False,
        buttons=[],
        elem_id=elem_id,
        elem_classes="face",
    )


def _caption(model: AppModel, face_psnr: float) -> str:
    """Return the run's rate and bpd on the validation split, and the PSNR of a face in dB."""
    values = {**model.run.metrics, "val/psnr": face_psnr}
    figures = [
        f"{find_metric(key).format(values[key])}\u00a0{unit}"
        for key, unit in UNITS.items()
        if key in values
    ]
    return ", ".join(figures)


class RateDistortionChart:
    """The rate-distortion chart of a sweep with one run marked.

    The chart takes matplotlib some 300 ms, so it is drawn once; the mark of the chosen run is
    drawn over it.
    """

    def __init__(self, models: AppModels) -> None:
        runs = models.comparison.ranked if models.comparison else []
        self.measured = [run for run in runs if run.metrics.keys() >= set(RATE_DISTORTION)]
        self.comparison = models.comparison if self.measured else None
        self._drawn = dict[int, bytes]()  # by the number of the chosen model
        self._lock = Lock()  # matplotlib's figures are not for several threads

    def draw(self, model: AppModel) -> bytes:
        """Return the chart as a PNG, the run of a model marked if it has a rate and a distortion.

        Drawn at the first call for a model, and kept.
        """
        with self._lock:
            if model.number not in self._drawn:
                self._drawn[model.number] = self._draw(model)
            return self._drawn[model.number]

    def _draw(self, model: AppModel) -> bytes:
        from PIL import Image

        canvas, axes, background = self._base
        canvas.restore_region(background)
        x, y = (model.run.metrics.get(key) for key in RATE_DISTORTION)
        if x is not None and y is not None:
            ring = axes.scatter([x], [y], **CHOSEN)
            side = "left" if x < sum(axes.get_xlim()) / 2 else "right"  # within the axes
            word = axes.annotate("chosen", (x, y), (0, 12), ha=side, **ABOVE)
            for artist in (ring, word):
                axes.draw_artist(artist)
                artist.remove()
        buffer = io.BytesIO()
        Image.fromarray(np.array(canvas.buffer_rgba())[..., :3]).save(buffer, format="PNG")
        return buffer.getvalue()

    @cached_property
    def _base(self) -> tuple[Any, Axes, Any]:
        """The canvas, its axes, and its pixels without a mark."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        assert self.comparison
        figure = draw_rate_distortion(self.comparison)
        figure.set_dpi(DOTS_PER_INCH)
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
        figure.set_layout_engine("none")
        return canvas, figure.axes[0], canvas.copy_from_bbox(figure.bbox)

    def describe(self, model: AppModel) -> str:
        """Return the chart in words, for those who do not see it."""
        assert self.comparison
        rate, bpd = (find_metric(key) for key in ("val/rate", "val/bpd"))
        rates = [run.metrics[rate.key] for run in self.measured]
        said = [
            f"Chart of rate and distortion of {plural(len(rates), 'run')}.",
            f"Rates are from {rate.format(min(rates))} to {rate.format(max(rates))} nats.",
        ]
        least = min(self.measured, key=lambda run: run.metrics.get(bpd.key, np.inf))
        if bpd.key in least.metrics:
            value = bpd.format(least.metrics[bpd.key])
            said.append(f"The least bpd, {value}, has {self.comparison.label(least)}.")
        return printable(" ".join([*said, f"The chosen run is {model.label}."]))


def _table(models: AppModels) -> str:
    """Return a table of the runs, and notes on those that are left out, as Markdown."""
    comparison = models.comparison
    assert comparison
    by_folder = {run.folder: run for run in comparison.runs}
    rows, notes = [], [*filter(None, [constraint_sentence(comparison)]), *models.notes]
    for model in models.models:
        run = by_folder[model.run.folder]
        weight = run.beta_elbo
        if breaks := describe_violations(comparison.violations(run)):
            notes.append(f"{model.label} {breaks}.")
        metrics = model.run.metrics
        figures = [
            find_metric(key).format(metrics[key]) if key in metrics else "" for key in COLUMNS
        ]
        rows.append([model.label, "" if weight is None else format_value(weight), *figures])
    heads = ["run", "beta_elbo", *COLUMNS.values()]
    about = "Of each run, over the validation split:"
    return "\n\n".join([about, markdown_table(heads, rows), *map(markdown_text, notes)])
