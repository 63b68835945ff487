"""What a browser keeps of a form, so that a reload and another tab lose nothing that was typed."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import gradio as gr
from gradio.components import Component

from gen.errors import InputError
from ui.page.wiring import QUIET


def keep(
    page: gr.Blocks,
    name: str,
    controls: Sequence[Component],
    restored: Callable[[list[Any]], list[Any]],
) -> None:
    """Have a browser keep the values of `controls` under a name, and give them back when the page
    is opened: `restored` says what the controls become, or raises InputError."""
    kept = gr.BrowserState(None, storage_key=name, secret=name)

    def restore(values: Any) -> Any:
        found = [gr.skip()] * len(controls)
        if isinstance(values, list) and len(values) == len(controls):  # else of other fields
            with suppress(InputError):
                found = restored(values)
        return found if len(controls) > 1 else found[0]

    page.load(restore, kept, list(controls), queue=False, **QUIET)
    gr.on(
        [control.change for control in controls],
        None,
        list(controls),
        kept,
        js="(...values) => [values]",
        **QUIET,
    )


def known(controls: Sequence[Component], values: Sequence[Any]) -> list[Any]:
    """Return the values that controls can still have; of a list, a choice that is there."""
    return [
        value if _fits(control, value) else gr.skip()
        for control, value in zip(controls, values, strict=True)
    ]


def _fits(control: Component, value: Any) -> bool:
    choices = getattr(control, "choices", None)
    return choices is None or value in [choice for _, choice in choices]
