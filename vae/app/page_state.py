"""The parts of the page that all tabs share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from vae.app.components import LIVE
from vae.app.models import AppModel, AppModels


@dataclass(frozen=True)
class Page:
    """The models, and the components whose values every tab reads."""

    models: AppModels
    run: Any  # gr.Slider of a sweep, or gr.State: the number of the chosen run, from 1
    face: gr.State  # the visitor's Face, or None
    tabs: gr.Tabs

    def model(self, run: int | None) -> AppModel:
        """Return the model of the run that `run` has chosen; the first while its field is empty."""
        return self.models[(run or 1) - 1]

    def when_run_changes(
        self,
        function: Callable[..., Any],
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        **settings: Any,
    ) -> None:
        """Call a function while the slider of runs moves; never for a single run.

        Args:
            settings: of the event, besides LIVE.
        """
        if isinstance(self.run, gr.Slider):
            self.run.input(function, list(inputs), list(outputs), **{**LIVE, **settings})
