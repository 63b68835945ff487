"""The page: drawing, the gallery of what was drawn, ranking other pictures, comparing settings."""

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
from ui.page.drawing_panel import SHOW_RESULTS, VISITORS, Desk, build_buttons
from ui.page.form import Form, build_form, examples
from ui.page.markup import text
from ui.page.view import Shown, View, build_view, nearby
from ui.service.queue import WAITING
from ui.service.service import Studio

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
HEADER = "<h1>Salon</h1><p>Many candidates are painted; a jury hangs the best.</p>"
MOST_ROWS = 50  # of a prompt file
# What gradio keeps are uploads: how often it clears them, and how old they get.
CACHE_SECONDS = (3600, 24 * 3600)
# Nothing is counted or sent, and nothing of the disk is served, whatever the shell says.
ENVIRONMENT = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_ALLOWED_PATHS": ""}


class _TooManyRowsError(Exception):
    """A prompt file is too long for a page; not an error of one of its rows."""

    def __init__(self) -> None:
        super().__init__(f"more than {MOST_ROWS} prompts: `generate -f` draws any number")


def mount(app: FastAPI, studio: Studio) -> None:
    """Put the page at / of an app, behind all paths that the app has by now."""
    os.environ |= ENVIRONMENT
    gr.mount_gradio_app(
        app,
        build(studio).queue(max_size=WAITING, api_open=False),
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


def build(studio: Studio) -> gr.Blocks:
    """The page, to be mounted. Its controls follow from the table of settings."""
    drawing, comparing = Visitors(studio), Visitors(studio)
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
                    with gr.Accordion("Settings from a picture", open=False):
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
                    view = build_view(studio, "draw")
            with gr.Tab("Gallery", id="gallery") as gallery_tab:
                past = gallery.build(studio, gallery_tab)
            with gr.Tab("Rank", id="rank"):
                rank.build(studio)
            with gr.Tab("Compare", id="compare"):
                compared = compare.build(studio, comparing, form)

        desk = Desk(drawing, *buttons, status, live)
        desk.connect()
        _connect_drawing(studio, desk, form, view, file, draw_file)
        for each in (view, past, compared):
            _connect_reusing(studio, desk, form, view, each, tabs)
        for visitors in (drawing, comparing):
            page.unload(visitors.leave)
    return page


def _connect_drawing(
    studio: Studio, desk: Desk, form: Form, view: View, file: gr.File, draw_file: gr.Button
) -> None:
    def draw(visitor: gr.Request, *values: Any) -> Iterator[list[Any]]:
        yield from _drawn(desk, view, {"": _request(form, values)}, visitor)

    def draw_rows(visitor: gr.Request, path: str | None, *values: Any) -> Iterator[list[Any]]:
        yield from _drawn(desk, view, _rows(studio, form, path, values), visitor)

    outputs = [*desk.outputs, *view.outputs]
    # First, since gradio begins with the second one when the first one has ended.
    gr.on(
        [desk.generate.click, form.prompt.submit],
        None,
        js=SHOW_RESULTS.format("results"),
        api_visibility="private",
    )
    gr.on(
        [desk.generate.click, form.prompt.submit],
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
    studio: Studio, desk: Desk, form: Form, view: View, source: View, tabs: gr.Tabs
) -> None:
    """Draw with the settings of a picture that is chosen in `source`, or with others near them."""

    def reuse(key: Any, models: list[str]) -> list[Any]:
        request = source.record(key).request
        return [gr.Tabs(selected="draw"), *form.filled(request, models)]

    def more(visitor: gr.Request, key: Any) -> Iterator[list[Any]]:
        requests = nearby(source.record(key).request, studio)
        for updates in _drawn(desk, view, requests, visitor):
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
        [tabs, *desk.outputs, *view.outputs],
        concurrency_limit=VISITORS,
        show_progress="hidden",
        api_visibility="private",
    )


def _drawn(
    desk: Desk, view: View, requests: dict[str, Request], visitor: gr.Request
) -> Iterator[list[Any]]:
    """Draw requests, and hang what came of them: what to show, again and again."""
    names = list(requests)
    hung = 0
    updates = view.nothing()
    for shown, outcomes in desk.drawn(requests, visitor):
        if len(outcomes) > hung:
            hung = len(outcomes)
            called = {o.number: name for o, name in zip(outcomes, names, strict=False)}
            updates = view.show(Shown({n: name for n, name in called.items() if n is not None}))
        yield [*shown, *updates]
        updates = [gr.skip()] * len(updates)


def _request(form: Form, values: tuple[Any, ...]) -> Request:
    """What is asked for; whatever the user can mend is shown as one line."""
    try:
        return Request.from_json(form.asked(values))
    except InputError as error:
        raise gr.Error(text(error), duration=None, print_exception=False) from error


def _rows(
    studio: Studio, form: Form, path: str | None, values: tuple[Any, ...]
) -> dict[str, Request]:
    """The requests of an uploaded prompt file; the form's settings hold where a row says nothing.

    All rows are checked before any is drawn.
    """
    found: dict[str, Request] = {}

    def accept(row: Row) -> None:
        if len(found) == MOST_ROWS:
            raise _TooManyRowsError
        studio.plan(row.request)
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
