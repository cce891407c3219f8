"""The page: a header with the choice of a run, and the tabs."""

from __future__ import annotations

from typing import Any

import gradio as gr

from vae.app.between_tab import BetweenTab
from vae.app.components import PRIVATE, ValueSlider, for_visitors
from vae.app.edit_tab import EditTab
from vae.app.latents_tab import LatentsTab
from vae.app.models import AppModels, Face
from vae.app.page_state import Page
from vae.app.run_tab import RunTab
from vae.app.samples_tab import SamplesTab
from vae.app.sweep_tab import SweepTab
from vae.utils.text import markdown_text

CSS = """
.gradio-container { overflow: clip !important; }  /* or nothing in it is sticky */
.dark { --color-accent: var(--primary-400); }
.face { aspect-ratio: 1; }
.face .image-frame { width: 100%; height: 100%; }
.face img { width: 100%; height: 100%; object-fit: contain; }
.faces { position: sticky; top: 0; z-index: 50; background: var(--body-background-fill); }
.faces .prose p { font-size: 0.8rem; margin: 0; }
.samples .grid-container { grid-template-columns: repeat(auto-fill, minmax(max(90px, 15%), 1fr)); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(40%, 190px), 1fr)); }
.table { overflow-x: auto; }
.table td:first-child { white-space: nowrap; }
.table :is(th, td) { overflow-wrap: normal; word-break: normal; padding: 4px 8px !important; }
@media (max-width: 480px) {  /* all tabs fit on a phone */
  .tab-wrapper { margin: 0 -24px; }
  .tab-wrapper button { padding: 0 6px !important; }
  .table :is(th, td) { padding: 2px 4px !important; font-size: 0.75rem; }
}
"""
# Texts dark enough to be read, also on the colour of a button.
COLOURS = {
    "body_text_color_subdued": "*neutral_600",
    "block_info_text_color": "*neutral_600",
    "block_label_text_color": "*neutral_700",
    "color_accent": "*primary_600",
    "slider_color": "*primary_600",
    "button_primary_background_fill": "*primary_700",
}


def theme() -> Any:
    """Return Gradio's own theme with the system's fonts and COLOURS."""
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}
    return gr.themes.Default(primary_hue="blue", **fonts).set(**COLOURS)


def build_page(models: AppModels) -> gr.Blocks:
    """Build the page of one run, or of a sweep's runs."""
    several = len(models.models) > 1
    with gr.Blocks(title=f"FaceApp: {models.title}", analytics_enabled=False) as blocks:
        gr.Markdown(f"# FaceApp: {markdown_text(models.title)}", latex_delimiters=[])
        run = _run_slider(models) if several else gr.State(1)
        page = Page(models, run, gr.State(), gr.Tabs(), gr.State("edit"))
        with page.tabs:
            with gr.Tab("Edit", id="edit") as tab:
                edit = EditTab(page, tab)
            with gr.Tab("Latents", id="latents") as tab:
                LatentsTab(page, edit, tab)
            with gr.Tab("Samples", id="samples"):
                SamplesTab(page, edit)
            with gr.Tab("Between", id="between"):
                BetweenTab(page, edit)
            if several:
                with gr.Tab("Sweep", id="sweep") as tab:
                    SweepTab(page, edit, tab)
            with gr.Tab("Run", id="run") as tab:
                RunTab(page, tab)
        if several:
            page.when_run_changes(lambda n: gr.update(label=_label(models, n)), [run], [run])
        page.listen()

        def first(number: int) -> Face | None:
            model = page.model(number)
            return None if model.faces is None else model.validation_face(0)

        edit.show_after(blocks.load(for_visitors(first), run, page.face, **PRIVATE))
    return blocks


def _run_slider(models: AppModels) -> gr.Slider:
    """Build the slider that chooses a run for all tabs; its label says which it is."""
    return ValueSlider(
        1,
        len(models.models),
        value=1,
        step=1,
        precision=0,
        label=_label(models, 1),
        buttons=[],
        elem_id="run",
    )


def _label(models: AppModels, number: int | None) -> str:
    chosen = models[(number or 1) - 1]
    return f"Run {chosen.number + 1} of {len(models.models)}: {chosen.label}"
