"""Settings read from an image: of ours, AUTOMATIC1111's, ComfyUI's or InvokeAI's."""

from pathlib import Path
from typing import Any

import gradio as gr

from gen.errors import InputError
from gen.metadata.foreign import read_any
from gen.settings.request import Request
from ui.api.images import open_image
from ui.page.details import described, facts
from ui.page.form import Form
from ui.page.wiring import QUIET, complaint


def build(form: Form) -> None:
    """Build a place to drop an image on, what it says, and a button to use that in the form."""
    file = gr.File(
        label="A PNG by Salon, AUTOMATIC1111, ComfyUI or InvokeAI",
        file_types=[".png", ".jpg", ".jpeg", ".webp"],
        height=120,
        elem_id="settings-file",
    )
    told = gr.HTML(elem_id="settings-told")
    use = gr.Button("Use these settings", size="sm", visible=False, elem_id="settings-use")
    found = gr.State(None)

    def read(path: str | None) -> tuple[str, gr.Button, Request | None]:
        if path is None:
            return "", gr.Button(visible=False), None
        try:
            record = read_any(open_image(Path(path).read_bytes()))
        except InputError as error:
            raise complaint(error) from error
        return facts(described(record)), gr.Button(visible=True), record.request

    def fill(request: Request | None, models: list[str]) -> list[Any]:
        if request is None:
            return [gr.skip()] * len(form.controls)
        return form.filled(request, models)

    file.change(read, file, [told, use, found], **QUIET)
    use.click(fill, [found, form.models], form.controls, **QUIET)
