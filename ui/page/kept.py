"""What a browser keeps of a form, so that a reload and another tab lose nothing that was typed."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
from gradio.components import Component

from gen.errors import InputError
from ui.page.wiring import QUIET, UNSEEN


class Kept:
    """What a browser keeps of the forms of a page, given back by one event when it is opened."""

    def __init__(self) -> None:
        """Keep nothing yet."""
        self._forms: list[_Form] = []

    def add(
        self,
        name: str,
        controls: Sequence[Component],
        restored: Callable[[list[Any]], list[Any]] | None = None,
    ) -> gr.BrowserState:
        """Have a browser keep the values of `controls` under a name, and return what holds them.

        `restored` says what the controls become when the values are given back, or raises
        InputError; without it they become the values that they can still have.
        """
        kept = gr.BrowserState(None, storage_key=name, secret=name)
        gr.on(
            [control.change for control in controls],
            None,
            list(controls),
            kept,
            js="(...values) => [values]",
            **QUIET,
        )
        restored = partial(known, controls) if restored is None else restored
        self._forms.append(_Form(kept, controls, restored))
        return kept

    def connect(self, page: gr.Blocks) -> None:
        """Give everything back when the page is opened."""
        page.load(
            lambda *kept: [
                update
                for form, values in zip(self._forms, kept, strict=True)
                for update in form.updates(values)
            ],
            [form.kept for form in self._forms],
            [control for form in self._forms for control in form.controls],
            queue=False,
            **UNSEEN,
        )


@dataclass(frozen=True)
class _Form:
    kept: gr.BrowserState
    controls: Sequence[Component]
    restored: Callable[[list[Any]], list[Any]]

    def updates(self, values: Any) -> list[Any]:
        """Return what the controls become; nothing changes for values of other fields."""
        if isinstance(values, list) and len(values) == len(self.controls):
            with suppress(InputError):
                return self.restored(values)
        return [gr.skip()] * len(self.controls)


def known(controls: Sequence[Component], values: Sequence[Any]) -> list[Any]:
    """Return the values that controls can still have; of a list, a choice that is there."""
    return [
        value if _fits(control, value) else gr.skip()
        for control, value in zip(controls, values, strict=True)
    ]


def _fits(control: Component, value: Any) -> bool:
    choices = getattr(control, "choices", None)
    return choices is None or value in [choice for _, choice in choices]
