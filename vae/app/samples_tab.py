"""The tab Samples: new faces from a prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from torch import Tensor

from vae.app.components import (
    LIVE,
    PRIVATE,
    FaceGallery,
    ValueSlider,
    for_visitors,
    warn,
)
from vae.app.edit_tab import EditTab
from vae.app.models import AppModel, Face
from vae.app.page_state import Page
from vae.evaluation.priors import MAX_DIMENSIONS, latents_of
from vae.utils.errors import UserError
from vae.utils.text import plural

PRIORS = {
    "standard": "N(0, I), which training pulls the latents towards",
    "gaussian": "with the mean and covariance of the training images' latents",
    "mixture": "ten Gaussians, fitted to the same latents anew for each seed",
    "flow": "a sliced iterative flow, fitted to the same latents once and kept",
}
MAX_SEED = 2**32 - 1
MAX_SAMPLES = 64  # within one batch of `vae sample`
MAX_TEMPERATURE = 2.0
# Of events that may ask for a fit or raise an error: Gradio tells the page of either only
# through its queue.
QUEUED: dict[str, Any] = {"queue": True, "concurrency_limit": None}


@dataclass(frozen=True, eq=False)  # Gradio compares states by their hash
class Samples:
    """The samples that a visitor sees."""

    latents: Tensor  # (n, latent_dim) on the CPU
    model: int  # the number of the model that decodes them
    seed: int


class SamplesTab:
    """Builds the tab within a `gr.Tab`.

    Samples of a fitted prior are drawn at once. A prior that is not fitted is fitted first if
    the visitor has asked for it: an event in a queue, for one visitor at a time.
    """

    def __init__(self, page: Page, edit: EditTab) -> None:
        self.page = page
        self.samples = gr.State()  # Samples, or None before the first are drawn
        self.fits = gr.State(0)  # how many fits were asked for: each change starts one
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                self._build_controls(page.model(1))
            with gr.Column(scale=3, min_width=300):
                self._build_samples()
        self.controls = [self.prior, self.seed, self.temperature, self.number]
        self._listen(edit)

    def _build_controls(self, model: AppModel) -> None:
        can_fit = model.faces is not None and model.run.model.latent_dim <= MAX_DIMENSIONS
        self.prior = gr.Radio(
            [(f"{name.capitalize()}: {text}", name) for name, text in PRIORS.items()],
            value="gaussian" if can_fit else "standard",
            label="Prior: what the latents are drawn from",
            elem_id="prior",
        )
        self.temperature = ValueSlider(
            0,
            MAX_TEMPERATURE,
            value=1,
            step=0.05,
            label="Temperature",
            info="Below 1, faces are more typical and vary less",
            elem_id="temperature",
        )
        self.number = ValueSlider(
            1,
            MAX_SAMPLES,
            value=16,
            step=1,
            precision=0,
            label="Number of samples",
            elem_id="samples-number",
        )
        self.seed = gr.Number(
            label="Seed",
            info="The same seed gives the same faces, as in `vae sample --seed`",
            value=0,
            precision=0,
            elem_id="seed",
        )
        with gr.Row():
            self.draw = gr.Button(
                "Draw", variant="primary", size="md", min_width=120, elem_id="draw"
            )
            self.draw_others = gr.Button(
                "Draw others", size="md", min_width=120, elem_id="draw-others"
            )

    def _build_samples(self) -> None:
        self.said = gr.Markdown("Press Draw to draw faces.", elem_id="samples-said")
        self.gallery = FaceGallery(
            label="Samples",
            show_label=False,
            height="max-content",
            allow_preview=False,
            interactive=False,
            buttons=[],
            object_fit="contain",
            elem_id="samples",
            elem_classes="samples",
        )

    def _listen(self, edit: EditTab) -> None:
        settings = [self.page.run, *self.controls]
        drawn = [self.samples, self.gallery, self.said]
        gr.on([control.input for control in self.controls], self._follow, settings, drawn, **LIVE)

        asked = [*drawn, self.fits]
        self.draw.click(self._draw, [self.fits, *settings], asked, **{**LIVE, **QUEUED})
        others = self.draw_others.click(_next_seed, self.seed, self.seed, **PRIVATE)
        others.success(self._draw, [self.fits, *settings], asked, **{**LIVE, **QUEUED})
        self.page.when_run_changes(self._switch, [self.samples, *settings], drawn)

        fitted = self.fits.change(
            self._fit,
            [self.page.run, self.prior, self.seed],
            show_progress_on=self.gallery,
            concurrency_limit=1,
            concurrency_id="fit",
            **PRIVATE,
        )
        fitted.success(self._follow, settings, drawn, **LIVE)

        sent = self.gallery.select(
            self._send, self.samples, [self.page.face, self.page.tabs], **PRIVATE
        )
        edit.show_after(sent)

    @for_visitors
    def _follow(
        self,
        run: int,
        prior: str,
        seed: int | None,
        temperature: float | None,
        number: int | None,
    ) -> list[Any]:
        """Draw if nothing is to be fitted; otherwise say what to do."""
        if temperature is None or number is None:  # a field is being typed in
            return [gr.skip()] * 3
        try:
            seed = _require_seed(seed)
        except UserError as error:  # it is being typed, perhaps
            return [*[gr.skip()] * 2, str(error)]
        model = self.page.model(run)
        fitted = model.fitted_prior(prior, seed)
        if fitted is None:
            return [*[gr.skip()] * 2, f"The prior {prior} is not fitted yet: press Draw."]
        latents = latents_of(fitted, seed, temperature)(number)
        pictures = [(face, str(i)) for i, face in enumerate(model.decode(latents), 1)]
        said = f"{plural(number, 'sample')} of the prior {prior}, seed {seed}, "
        said += f"temperature {temperature:g}. Choose one to edit it."
        return [Samples(latents, model.number, seed), pictures, said]

    @for_visitors
    def _draw(self, fits: int, run: int, prior: str, seed: int | None, *others: Any) -> list[Any]:
        """Draw, or ask for a fit that draws."""
        seed = _require_seed(seed)
        if self.page.model(run).fitted_prior(prior, seed):
            return [*self._follow(run, prior, seed, *others), gr.skip()]
        return [*[gr.skip()] * 2, f"Fitting the prior {prior} to the training images.", fits + 1]

    @for_visitors
    def _switch(self, samples: Samples | None, *settings: Any) -> list[Any]:
        """Draw the same by another run, if the visitor has drawn samples and its prior is fitted.

        No fit is started: a slider that passes over all runs would start one for each.
        """
        if samples is None:
            return [gr.skip()] * 3
        found = self._follow(*settings)
        return found if isinstance(found[0], Samples) else [samples, None, found[-1]]

    @for_visitors
    def _fit(self, run: int, prior: str, seed: int | None) -> None:
        """Fit a prior; where it cannot be, the samples stay."""
        try:
            self.page.model(run).prior(prior, _require_seed(seed))
        except UserError as error:
            warn(str(error))

    @for_visitors
    def _send(self, samples: Samples | None, chosen: gr.SelectData) -> tuple[Face, gr.Tabs]:
        """Return a sample as the face to edit, and the tab that shows it."""
        if samples is None or chosen.index not in range(len(samples.latents)):
            raise UserError("There is no such sample. Press Draw, and choose one.")
        model = self.page.models[samples.model]
        name = f"sample {chosen.index + 1}, seed {samples.seed}"
        latents = samples.latents[chosen.index].to(model.run.device)
        return model.decoded(latents, name), gr.Tabs(selected="edit")


@for_visitors
def _next_seed(seed: int | None) -> int:
    return (_require_seed(seed) + 1) % (MAX_SEED + 1)


def _require_seed(seed: int | None) -> int:
    if seed is None or not 0 <= seed <= MAX_SEED:
        found = "empty" if seed is None else seed
        raise UserError(f"The seed is {found}. Give a whole number from 0 to {MAX_SEED}.")
    return seed
