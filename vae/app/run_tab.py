"""The tab Run: configuration, metrics, learning curves and figures of the chosen run."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr
import yaml

from vae.app.components import LIVE, FaceImage, for_visitors
from vae.app.models import AppModel
from vae.app.page_state import Page
from vae.app.run_files import FIGURES, read_curves, read_evaluation, read_figure
from vae.data.base import ImageError
from vae.utils.registry import find_metric
from vae.utils.tables import markdown_table
from vae.utils.text import markdown_text

PLACES = ("root", "path", "resume", "storage", "inception_weights")  # on this machine
FIRST_CURVES = ("val/bpd", "train/loss")  # the first that is there is shown first

# Of text that may come from somebody else: no formulas.
_Text = partial(gr.Markdown, latex_delimiters=[])


class RunTab:
    """Builds the tab within `tab`."""

    def __init__(self, page: Page, tab: gr.Tab) -> None:
        self.page = page
        self.curves = [read_curves(model.run.folder) for model in page.models.models]
        keys = sorted({key for curves in self.curves for key in curves})
        first = next((key for key in FIRST_CURVES if key in keys), next(iter(keys), None))
        self.headline = _Text(elem_id="run-headline")
        with gr.Row():
            with gr.Column(min_width=320):
                self.metrics = _Text(elem_id="run-metrics", elem_classes="table")
                with gr.Accordion("Configuration", open=False, elem_id="run-configuration"):
                    self.configuration = gr.Code(
                        language="yaml",
                        label="Composed configuration of the run, as YAML",
                        interactive=False,
                        max_lines=40,
                        elem_id="run-yaml",
                    )
            with gr.Column(min_width=320):
                self.key = gr.Dropdown(
                    keys, value=first, label="Learning curve", elem_id="run-curve-key"
                )
                self.curve = FaceImage(
                    label="Learning curve",
                    show_label=False,
                    interactive=False,
                    buttons=[],
                    elem_id="run-curve",
                )
                self.name = gr.Radio(
                    list(FIGURES), value=next(iter(FIGURES)), label="Figure", elem_id="run-figures"
                )
                self.figure = FaceImage(
                    label="Figure",
                    show_label=False,
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    format="png",
                    elem_id="run-figure",
                )
                self.missing = _Text(elem_id="run-missing")
        shown = [self.headline, self.metrics, self.configuration, self.curve]
        drawn = [self.figure, self.missing]
        run = page.run
        page.while_open(tab, self._show, [run, self.key, self.name], [*shown, *drawn])
        self.key.input(self._curve, [run, self.key], self.curve, **LIVE)
        self.name.input(self._figure, [run, self.name], drawn, **LIVE)

    @for_visitors
    def _show(self, run: int, key: str | None, name: str) -> list[Any]:
        model = self.page.model(run)
        return [
            _headline(model),
            _metrics(model),
            _configuration(model),
            self._curve(run, key),
            *self._figure(run, name),
        ]

    @for_visitors
    def _curve(self, run: int, key: str | None) -> Any:
        curve = self.curves[self.page.model(run).number].get(key or "")
        if key is None or curve is None:
            return gr.update(value=None, alt_text="The run has not logged this key")
        return gr.update(value=curve.draw(key), alt_text=curve.describe(key))

    @for_visitors
    def _figure(self, run: int, name: str) -> list[Any]:
        try:
            picture = read_figure(self.page.model(run).run.folder, name)
        except ImageError as error:
            return [gr.update(value=None, visible=False), markdown_text(str(error))]
        return [gr.update(value=picture, alt_text=FIGURES[name], visible=True), ""]


def _configuration(model: AppModel) -> str:
    """Return a run's configuration as YAML, without PLACES."""

    def shown(part: Any) -> Any:
        if not isinstance(part, dict):
            return part
        return {key: shown(value) for key, value in part.items() if key not in PLACES}

    found = shown(model.run.config.as_dict())
    return str(yaml.safe_dump(found, sort_keys=False, allow_unicode=True))


def _headline(model: AppModel) -> str:
    run = model.run
    size = run.data_config.image_size
    parameters = sum(weights.numel() for weights in run.model.parameters())
    about = (
        f"folder {run.folder.resolve().name}, checkpoint {run.checkpoint}: step {run.step:,}, "
        f"epoch {run.epoch:.4g}; {parameters:,} parameters, images of {size} × {size} pixels, "
        f"{run.model.latent_dim} latents"
    )
    return f"## {markdown_text(model.label)}\n\n{markdown_text(about)}"


def _metrics(model: AppModel) -> str:
    """Return tables of the metrics of validation and of `vae evaluate`, as Markdown."""
    rows = [
        [key, find_metric(key).label, find_metric(key).format(value)]
        for key, value in model.run.metrics.items()
    ]
    parts = [
        "### Metrics of the validation split",
        markdown_table(["metric", "meaning", "value"], rows),
    ]
    about, evaluated = read_evaluation(model.run.folder)
    if evaluated:
        heads = ["metric", "value", "n", "split", "seed"]
        title = f"### `vae evaluate`: {markdown_text(about)}"
        parts += [title, markdown_table(heads, evaluated)]
    return "\n\n".join(parts)
