"""The page: drawing, the gallery of what was drawn, ranking other images, comparing settings."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from gen.errors import InputError
from gen.settings.prompt_file import PromptFile, Row
from gen.settings.request import Request
from ui.api.images import MAX_BYTES
from ui.page import compare, gallery, rank, settings_file
from ui.page.batch import Visitors
from ui.page.drawing_panel import SHOW_RESULTS, VISITORS, DrawingPanel, build_buttons
from ui.page.form import Form, build_form, examples
from ui.page.markup import text
from ui.page.variations import nearby
from ui.page.view import Shown, View, build_view
from ui.service.queue import WAITING
from ui.service.service import Service

STYLE = Path(__file__).parent / "page.css"
THEME = gr.themes.Default(
    primary_hue="neutral", neutral_hue="neutral", font=["system-ui", "sans-serif"]
).set(
    button_primary_background_fill="*neutral_800",
    button_primary_background_fill_hover="*neutral_700",
    button_primary_background_fill_dark="*neutral_200",
    button_primary_background_fill_hover_dark="*neutral_300",
    button_primary_text_color_dark="*neutral_900",
)
HEADER = "<h1>Salon</h1><p>Draws many candidates of a prompt and shows the best.</p>"
MOST_ROWS = 50  # of a prompt file
# What gradio keeps are uploads: how often it clears them, and how old they get.
CACHE_SECONDS = (3600, 24 * 3600)
# Nothing is counted or sent, and nothing of the disk is served, whatever the shell says.
ENVIRONMENT = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_ALLOWED_PATHS": ""}


class _TooManyRowsError(Exception):
    """A prompt file is too long for a page; not an error of one of its rows."""

    def __init__(self) -> None:
        super().__init__(f"more than {MOST_ROWS} prompts: `generate -f` draws any number")


def mount(app: FastAPI, service: Service) -> None:
    """Put the page at / of an app, behind all paths that the app has by now."""
    os.environ |= ENVIRONMENT
    gr.mount_gradio_app(
        app,
        build(service).queue(max_size=WAITING, api_open=False),
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,  # what is meant for visitors is shown all the same
        allowed_paths=[],
        max_file_size=MAX_BYTES,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=THEME,
        css_paths=[STYLE],
    )


def build(service: Service) -> gr.Blocks:
    """Build the page, to be mounted. Its controls follow from the table of settings."""
    drawing, comparing = Visitors(service), Visitors(service)
    with gr.Blocks(title="Salon", analytics_enabled=False, delete_cache=CACHE_SECONDS) as page:
        gr.HTML(HEADER, elem_id="header")
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Draw", id="draw"), gr.Row():
                with gr.Column(scale=2, min_width=320):
                    form = build_form()
                    buttons = build_buttons("draw", "Generate")
                    with gr.Accordion("Prompts from a file", open=False):
                        file = gr.File(
                            label="A prompt a line, with settings as --flag value, or JSON Lines",
                            file_types=[".txt", ".jsonl"],
                            height=120,
                            elem_id="prompt-file",
                        )
                        draw_file = gr.Button("Draw the file", size="sm", elem_id="draw-file")
                    with gr.Accordion("Settings from an image", open=False):
                        settings_file.build(form)
                    gr.Examples(
                        [[prompt] for prompt in examples()],
                        [form.prompt],
                        cache_examples=False,
                        elem_id="examples",
                    )
                with gr.Column(scale=3, min_width=320, elem_id="results"):
                    status = gr.HTML(elem_id="status", elem_classes="status")
                    live = gr.HTML(elem_id="live")
                    view = build_view(service, "draw")
            with gr.Tab("Gallery", id="gallery") as gallery_tab:
                shown_before = gallery.build(service, gallery_tab)
            with gr.Tab("Rank", id="rank"):
                rank.build(service)
            with gr.Tab("Compare", id="compare"):
                compared = compare.build(service, comparing, form)

        panel = DrawingPanel(drawing, *buttons, status, live)
        panel.connect()
        _connect_drawing(service, panel, form, view, file, draw_file)
        for each in (view, shown_before, compared):
            _connect_reusing(service, panel, form, view, each, tabs)
        for visitors in (drawing, comparing):
            page.unload(visitors.leave)
    return page


def _connect_drawing(
    service: Service,
    panel: DrawingPanel,
    form: Form,
    view: View,
    file: gr.File,
    draw_file: gr.Button,
) -> None:
    def draw(visitor: gr.Request, *values: Any) -> Iterator[list[Any]]:
        yield from _drawn(panel, view, {"": _request(form, values)}, visitor)

    def draw_rows(visitor: gr.Request, path: str | None, *values: Any) -> Iterator[list[Any]]:
        yield from _drawn(panel, view, _rows(service, form, path, values), visitor)

    outputs = [*panel.outputs, *view.outputs]
    # First, since gradio begins with the second one when the first one has ended.
    gr.on(
        [panel.generate.click, form.prompt.submit],
        None,
        js=SHOW_RESULTS.format("results"),
        api_visibility="private",
    )
    gr.on(
        [panel.generate.click, form.prompt.submit],
        draw,
        form.controls,
        outputs,
        concurrency_limit=VISITORS,
        show_progress="hidden",
        api_visibility="private",
    )
    draw_file.click(
        draw_rows,
        [file, *form.controls],
        outputs,
        concurrency_limit=VISITORS,
        show_progress="hidden",
        api_visibility="private",
    )


def _connect_reusing(
    service: Service,
    panel: DrawingPanel,
    form: Form,
    view: View,
    source: View,
    tabs: gr.Tabs,
) -> None:
    """Draw with the settings of an image that is chosen in `source`, or with others near them."""

    def reuse(key: Any, models: list[str]) -> list[Any]:
        request = source.record(key).request
        return [gr.Tabs(selected="draw"), *form.filled(request, models)]

    def more(visitor: gr.Request, key: Any) -> Iterator[list[Any]]:
        requests = nearby(source.record(key).request, service)
        for updates in _drawn(panel, view, requests, visitor):
            yield [gr.Tabs(selected="draw"), *updates]

    source.reuse.click(
        reuse,
        [source.chosen, form.models],
        [tabs, *form.controls],
        show_progress="hidden",
        api_visibility="private",
    )
    source.more.click(
        more,
        source.chosen,
        [tabs, *panel.outputs, *view.outputs],
        concurrency_limit=VISITORS,
        show_progress="hidden",
        api_visibility="private",
    )


def _drawn(
    panel: DrawingPanel, view: View, requests: dict[str, Request], visitor: gr.Request
) -> Iterator[list[Any]]:
    """Draw requests, and yield again and again what the page shows."""
    names = list(requests)
    shown_count = 0
    updates = view.nothing()
    for shown, outcomes in panel.drawn(requests, visitor):
        if len(outcomes) > shown_count:
            shown_count = len(outcomes)
            called = {o.number: name for o, name in zip(outcomes, names, strict=False)}
            updates = view.show(Shown({n: name for n, name in called.items() if n is not None}))
        yield [*shown, *updates]
        updates = [gr.skip()] * len(updates)


def _request(form: Form, values: tuple[Any, ...]) -> Request:
    """Return what is asked for; whatever the user can correct is shown as one line."""
    try:
        return Request.from_json(form.asked(values))
    except InputError as error:
        raise gr.Error(text(error), duration=None, print_exception=False) from error


def _rows(
    service: Service, form: Form, path: str | None, values: tuple[Any, ...]
) -> dict[str, Request]:
    """Return the requests of an uploaded prompt file; the form fills in what a row leaves out.

    All rows are checked before any is drawn.
    """
    found: dict[str, Request] = {}

    def accept(row: Row) -> None:
        if len(found) == MOST_ROWS:
            raise _TooManyRowsError
        service.plan(row.request)
        found[f"line {row.line}"] = row.request

    try:
        if path is None:
            raise InputError("choose a prompt file first")
        settings = {name: v for name, v in form.asked(values).items() if name != "prompt"}
        PromptFile(path, settings).check(accept)
    except (InputError, _TooManyRowsError) as error:
        message = str(error).replace(path or "", Path(path or "").name)
        raise gr.Error(text(message), duration=None, print_exception=False) from error
    return found
