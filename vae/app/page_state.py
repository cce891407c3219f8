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
    open_tab: gr.State  # the id of the tab that the visitor sees

    def model(self, run: int) -> AppModel:
        """Return the model of the run that `run` has chosen."""
        return self.models[int(run) - 1]

    def when_run_changes(
        self, function: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any]
    ) -> None:
        """Call a function when the slider of runs moves or is set; never for a single run."""
        if isinstance(self.run, gr.Slider):
            self.run.change(function, list(inputs), list(outputs), **LIVE)

    def while_open(
        self,
        tab: gr.Tab,
        function: Callable[..., Any],
        inputs: Sequence[Any],
        outputs: Sequence[Any],
    ) -> None:
        """Call a function when a tab is opened, and when the run changes while it is open."""

        def follow(open_tab: str, *values: Any) -> Any:
            return function(*values) if open_tab == tab.id else gr.skip()

        tab.select(function, list(inputs), list(outputs), **LIVE)
        self.when_run_changes(follow, [self.open_tab, *inputs], outputs)
