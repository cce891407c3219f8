"""The page: a header with the choice of a run, and the tabs."""

from __future__ import annotations

import gradio as gr

from vae.app.between_tab import BetweenTab
from vae.app.components import LIVE, PRIVATE, ValueSlider, for_visitors
from vae.app.edit_tab import EditTab
from vae.app.latents_tab import LatentsTab
from vae.app.models import AppModels, Face
from vae.app.page_state import Page
from vae.app.samples_tab import SamplesTab

CSS = """
.gradio-container { overflow: clip !important; }  /* or nothing in it is sticky */
.dark { --color-accent: var(--primary-400); }
.face { aspect-ratio: 1; }
.face .image-frame { width: 100%; height: 100%; }
.face img { width: 100%; height: 100%; object-fit: contain; }
.faces { position: sticky; top: 0; z-index: 50; background: var(--body-background-fill); }
.faces .prose p { font-size: 0.8rem; margin: 0; }
.samples .grid-container { grid-template-columns: repeat(auto-fill, minmax(max(90px, 15%), 1fr)); }
"""


def theme() -> gr.themes.Base:
    """Return Gradio's own theme with the system's fonts and texts dark enough to be read."""
    fonts = ["system-ui", "sans-serif"]
    dark = {"body_text_color_subdued": "*neutral_600", "block_info_text_color": "*neutral_600"}
    base = gr.themes.Default(primary_hue="blue", font=fonts, font_mono=["monospace"])
    return base.set(
        **dark,
        block_label_text_color="*neutral_700",
        color_accent="*primary_600",
        slider_color="*primary_600",
    )


def build_page(models: AppModels) -> gr.Blocks:
    """Build the page of one run, or of a sweep's runs."""
    with gr.Blocks(title=f"FaceApp: {models.title}", analytics_enabled=False) as blocks:
        gr.Markdown(f"# FaceApp: {models.title}")
        run = _run_slider(models) if len(models.models) > 1 else gr.State(1)
        page = Page(models, run, gr.State(), gr.Tabs())
        with page.tabs:
            with gr.Tab("Edit", id="edit"):
                edit = EditTab(page)
            with gr.Tab("Latents", id="latents") as latents:
                LatentsTab(page, edit, latents)
            with gr.Tab("Samples", id="samples"):
                SamplesTab(page, edit)
            with gr.Tab("Between two faces", id="between"):
                BetweenTab(page, edit)

        def first(number: int) -> Face | None:
            model = page.model(number)
            return None if model.faces is None else model.validation_face(0)

        edit.show_after(blocks.load(for_visitors(first), run, page.face, **PRIVATE))
    return blocks


def _run_slider(models: AppModels) -> gr.Slider:
    """Build the slider that chooses a run for all tabs; its label says which it is."""

    def label(number: int | None) -> str:
        number = number or 1
        return f"Run {number} of {len(models.models)}: {models[int(number) - 1].label}"

    slider = ValueSlider(
        1,
        len(models.models),
        value=1,
        step=1,
        precision=0,
        label=label(1),
        buttons=[],
        elem_id="run",
    )
    slider.input(lambda number: gr.Slider(label=label(number)), slider, slider, **LIVE)
    return slider
