"""The page: a header with the choice of a run, and the tabs."""

from __future__ import annotations

import gradio as gr

from vae.app.components import PRIVATE, for_visitors
from vae.app.edit_tab import EditTab
from vae.app.models import AppModels, Face
from vae.app.page_state import Page
from vae.app.run_tab import RunTab
from vae.app.sweep_tab import SweepTab
from vae.utils.text import markdown_text

CSS = """
.face { aspect-ratio: 1; }
.face .image-frame { width: 100%; height: 100%; }
.face img { width: 100%; height: 100%; object-fit: contain; }
.faces { position: sticky; top: 0; z-index: 5; background: var(--body-background-fill); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(40%, 190px), 1fr)); }
.table { overflow-x: auto; }
.table :is(th, td) { overflow-wrap: normal; word-break: normal; padding: 4px 8px !important; }
"""


def theme() -> gr.themes.Base:
    """Return Gradio's own theme with the system's fonts and texts dark enough to be read."""
    fonts = ["system-ui", "sans-serif"]
    dark = {"body_text_color_subdued": "*neutral_600", "block_info_text_color": "*neutral_600"}
    base = gr.themes.Default(primary_hue="blue", font=fonts, font_mono=["monospace"])
    chosen = {"button_primary_background_fill": "*primary_700"}  # under white text
    return base.set(**dark, **chosen, block_label_text_color="*neutral_700")


def build_page(models: AppModels) -> gr.Blocks:
    """Build the page of one run, or of a sweep's runs."""
    with gr.Blocks(title=f"FaceApp: {models.title}", analytics_enabled=False) as blocks:
        gr.Markdown(f"# FaceApp: {markdown_text(models.title)}", latex_delimiters=[])
        run = _run_slider(models) if len(models.models) > 1 else gr.State(1)
        page = Page(models, run, gr.State(), gr.Tabs(), gr.State("edit"))
        with page.tabs:
            with gr.Tab("Edit", id="edit") as tab:
                edit = EditTab(page, tab)
            if len(models.models) > 1:
                with gr.Tab("Sweep", id="sweep") as tab:
                    SweepTab(page, edit, tab)
            with gr.Tab("Run", id="run") as tab:
                RunTab(page, tab)
        if len(models.models) > 1:
            page.when_run_changes(lambda n: gr.update(label=_label(models, n)), [run], [run])
        page.listen()

        def first(number: int) -> Face | None:
            model = page.model(number)
            return None if model.faces is None else model.validation_face(0)

        edit.show_after(blocks.load(for_visitors(first), run, page.face, **PRIVATE))
    return blocks


def _run_slider(models: AppModels) -> gr.Slider:
    """Build the slider that chooses a run for all tabs; its label says which it is."""
    return gr.Slider(
        1, len(models.models), value=1, step=1, precision=0, label=_label(models, 1), elem_id="run"
    )


def _label(models: AppModels, number: int) -> str:
    return f"Run {number} of {len(models.models)}: {models[int(number) - 1].label}"
