"""How events of the page are wired, and how what went wrong is told."""

from typing import Any

import gradio as gr

from ui.page.markup import text

# No spinner over what is shown, and nothing for other programs.
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

# The same for what happens when the page is opened; gradio then looks after no component of it.
UNSEEN: dict[str, Any] = {**QUIET, "show_progress_on": []}


def complaint(error: Exception | str, seconds: float | None = None) -> gr.Error:
    """Return one line for the visitor; without `seconds` it stays until it is closed."""
    return gr.Error(text(error), duration=seconds, print_exception=False)
