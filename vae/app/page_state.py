"""The parts of the page that all tabs share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import gradio as gr

from vae.app.components import LIVE
from vae.app.models import AppModel, AppModels


@dataclass(frozen=True)
class RunListener:
    """A function of the chosen run that fills some components."""

    function: Callable[..., Any]  # of the inputs' values: a value per output
    inputs: list[Any]
    outputs: list[Any]
    tab: gr.Tab | None  # that must be open; None: always

    def values(self, open_tab: str, inputs: Sequence[Any]) -> list[Any]:
        """Return a value per output; none changes where the tab is hidden."""
        if self.tab is not None and self.tab.id != open_tab:
            return [gr.skip()] * len(self.outputs)
        try:
            found = self.function(*inputs)
        except gr.Error as error:  # of this tab alone
            gr.Warning(error.message, title="")
            found = gr.skip()
        several = isinstance(found, list | tuple) and len(self.outputs) > 1
        return list(found) if several else [found] * len(self.outputs)


@dataclass(frozen=True)
class Page:
    """The models, and the components whose values every tab reads."""

    models: AppModels
    run: Any  # gr.Slider of a sweep, or gr.State: the number of the chosen run, from 1
    face: gr.State  # the visitor's Face, or None
    tabs: gr.Tabs
    open_tab: gr.State  # the id of the tab that the visitor sees
    _listeners: list[RunListener] = field(default_factory=list)

    def model(self, run: int | None) -> AppModel:
        """Return the model of the run that `run` has chosen; the first while its field is empty."""
        return self.models[(run or 1) - 1]

    def when_run_changes(
        self, function: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any]
    ) -> None:
        """Call a function when the slider of runs moves or is set; never for a single run."""
        self._listeners.append(RunListener(function, list(inputs), list(outputs), None))

    def while_open(
        self,
        tab: gr.Tab,
        function: Callable[..., Any],
        inputs: Sequence[Any],
        outputs: Sequence[Any],
    ) -> None:
        """Call a function when a tab is opened, and when the run changes while it is open."""
        tab.select(function, list(inputs), list(outputs), **LIVE)
        self._listeners.append(RunListener(function, list(inputs), list(outputs), tab))

    def listen(self) -> None:
        """Connect the slider of runs and the tabs, once all tabs are built.

        A change of the run is one event for all tabs: one request, and one update of the page.
        """
        for tab in self.tabs.children:
            tab.select(partial(str, tab.id), None, self.open_tab, **LIVE)
        if not isinstance(self.run, gr.Slider):
            return

        def switch(open_tab: str, *values: Any) -> list[Any]:
            left, answers = iter(values), []
            for each in self._listeners:
                answers += each.values(open_tab, [*islice(left, len(each.inputs))])
            return answers

        inputs = [component for each in self._listeners for component in each.inputs]
        outputs = [component for each in self._listeners for component in each.outputs]
        self.run.change(switch, [self.open_tab, *inputs], outputs, **LIVE)
