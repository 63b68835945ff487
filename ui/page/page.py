"""The page: drawing, the gallery of what was drawn, ranking other images, comparing settings."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from gen.errors import InputError
from gen.models import WeightsError
from gen.settings.prompt_file import PromptFile, Row
from gen.settings.request import Request
from ui.api.images import MAX_BYTES
from ui.page import compare, edit, gallery, in_memory, rank, settings_file, start, uploads
from ui.page.batch import Batch, Visitors
from ui.page.drawing_panel import SHOW_RESULTS, VISITORS, DrawingPanel, build_buttons
from ui.page.form import Form, build_form, build_prompt, build_quick
from ui.page.head import WithHead
from ui.page.kept import Kept
from ui.page.markup import ON_CLICK, ON_DO
from ui.page.theme import HEADER, SETTINGS_SWITCH, theme
from ui.page.variations import nearby, varied
from ui.page.view import Shown, View, build_view
from ui.page.wiring import QUIET, UNSEEN, complaint
from ui.service.queue import WAITING
from ui.service.service import Service

HERE = Path(__file__).parent
STYLES = (HERE / "page.css", HERE / "edit.css")
SCRIPTS = tuple(HERE / name for name in ("page.js", "early.js", "edit_store.js", "edit.js"))
FORM = "salon-form"  # what a browser keeps of the form
# The prompt comes back without asking the server: what is typed meanwhile would be lost.
UNLESS_TYPED = "(kept, typed) => typed || (kept ?? [''])[0]"
AT_FIRST = 6  # images of an example, for who has not seen any yet
MOST_ROWS = 50  # of a prompt file
# What gradio keeps are uploads: how often it clears them, and how old they get.
CACHE_SECONDS = (3600, 24 * 3600)
# Nothing is counted or sent, and nothing of the disk is served, whatever the shell says.
ENVIRONMENT = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_ALLOWED_PATHS": ""}


class _TooManyRowsError(Exception):
    """A prompt file is too long for a page; not an error of one of its rows."""

    def __init__(self) -> None:
        super().__init__(f"more than {MOST_ROWS} prompts: give them in several files")


def mount(app: FastAPI, service: Service) -> None:
    """Put the page at / of an app, behind all paths that the app has by now."""
    os.environ |= ENVIRONMENT
    uploads.keep_nothing_half()
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
        theme=theme(),
        css_paths=list(STYLES),
    )
    scripts = [f"<script>{path.read_text(encoding='utf-8')}</script>" for path in SCRIPTS]
    app.add_middleware(WithHead, html="".join(scripts))


def build(service: Service) -> gr.Blocks:
    """Build the page, to be mounted. Its controls follow from the table of settings."""
    drawing, comparing, editing = Visitors(service), Visitors(service), Visitors(service)
    with gr.Blocks(title="Salon", analytics_enabled=False, delete_cache=CACHE_SECONDS) as page:
        gr.HTML(HEADER, elem_id="header")
        pick = edit.build_pick()
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Draw", id="draw"):
                drawn = _build_drawing(service, drawing)
            with gr.Tab("Edit", id="edit") as edit_tab:
                edited = edit.build(service, editing, drawn.form, pick)
            with gr.Tab("Gallery", id="gallery") as gallery_tab:
                shown_before = gallery.build(service, gallery_tab)
            with gr.Tab("Compare", id="compare") as compare_tab:
                compared, to_compare = compare.build(service, comparing, drawn.form, compare_tab)
            with gr.Tab("Rank", id="rank"):
                to_rank = rank.build(service)
        browser = Kept()
        for name, typed in (("salon-compare", to_compare), ("salon-rank", to_rank)):
            browser.add(name, typed)
        _connect_drawing(service, drawn)
        edit.connect(edited, browser, tabs, edit_tab)
        for each in (drawn.view, edited.view, shown_before, compared):
            _connect_reusing(service, drawn, each, tabs)
        _connect_loading(page, service, drawn, browser)
    return page


@dataclass(frozen=True)
class _Drawing:
    """The components of the tab where prompts are drawn."""

    form: Form
    panel: DrawingPanel
    view: View
    check: gr.HTML
    start: gr.HTML
    memory: gr.HTML
    file: gr.File
    draw_file: gr.Button


def _build_drawing(service: Service, visitors: Visitors) -> _Drawing:
    with gr.Column(elem_id="composer"):
        with gr.Row(elem_id="ask"):
            prompt = build_prompt()
            with gr.Column(elem_id="go", min_width=160, scale=0):
                buttons = build_buttons("draw", "Generate")
        with gr.Row(elem_id="quick"):
            quick, dice = build_quick(service)
            gr.HTML(SETTINGS_SWITCH, elem_id="settings-switch")
        with gr.Row(elem_id="told"):
            status = gr.HTML(elem_id="status", elem_classes="status")
            check = gr.HTML(elem_id="prompt-check")
    with gr.Row(elem_id="workspace"):
        with gr.Column(elem_id="results", min_width=280):
            waiting = gr.HTML(js_on_load=ON_DO, elem_id="waiting")
            live = gr.HTML(elem_id="live")
            view = build_view(service, "draw")
            # Filled once, when the page is opened: who clicks at once would miss what is put anew.
            start_screen = gr.HTML(js_on_load=ON_DO + ON_CLICK, elem_id="start")
        with gr.Column(elem_id="settings", scale=0, min_width=320):
            form = build_form(service, prompt, quick, dice)
            memory = in_memory.build(service, form.models)
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
    panel = DrawingPanel(visitors, buttons, status, live, waiting)
    panel.connect()
    return _Drawing(form, panel, view, check, start_screen, memory, file, draw_file)


def _connect_drawing(service: Service, drawn: _Drawing) -> None:
    form, panel = drawn.form, drawn.panel

    def draw(visitor: gr.Request, *values: Any) -> Iterator[list[Any]]:
        batch = Batch({"": _request(form, values)}, form.rerankers_of(values))
        yield from _drawn(service, drawn, batch, visitor)

    def draw_rows(visitor: gr.Request, path: str | None, *values: Any) -> Iterator[list[Any]]:
        batch = Batch(_rows(service, form, path, values), form.rerankers_of(values))
        yield from _drawn(service, drawn, batch, visitor)

    def begin(visitor: gr.Request, event: gr.EventData, *values: Any) -> Iterator[list[Any]]:
        """Draw an example, or show images that were drawn lately."""
        if getattr(event, "do", "") != "draw":
            number = str(event.name).partition("/")[0]
            shown = Shown({int(number): ""} if number.isdecimal() else {})
            yield [gr.skip(), *[gr.skip()] * len(panel.outputs), *drawn.view.show(shown)]
            return
        asked = _request(form, [str(event.name), *values[1:]])
        request = asked.replace(candidates=AT_FIRST, top_k=AT_FIRST)
        batch = Batch({"": request}, form.rerankers_of(values))
        for updates in _drawn(service, drawn, batch, visitor):
            yield [request.prompt, *updates]

    outputs = [*panel.outputs, *drawn.view.outputs]
    watched: dict[str, Any] = {
        **QUIET,
        "concurrency_limit": VISITORS,
        "trigger_mode": "multiple",  # also while the last one is still being shown
    }
    asking = [panel.buttons.generate.click, panel.buttons.queue.click, form.prompt.submit]
    # First, since gradio begins with the second one when the first one has ended.
    gr.on(asking, None, js=SHOW_RESULTS.format("results"), api_visibility="private")
    gr.on(asking, draw, form.controls, outputs, **watched)
    drawn.draw_file.click(draw_rows, [drawn.file, *form.controls], outputs, **watched)
    drawn.start.select(begin, form.controls, [form.prompt, *outputs], **watched)

    def check(prompt: str, models: list[str]) -> str:
        return start.checked(prompt, service.specs(models), service)

    for changed in (form.prompt.change, form.models.change):
        changed(
            check,
            [form.prompt, form.models],
            drawn.check,
            queue=False,
            trigger_mode="always_last",
            **QUIET,
        )
    form.models.change(
        lambda models: start.start(service, service.specs(models)),
        form.models,
        drawn.start,
        **QUIET,
    )


def _connect_reusing(service: Service, drawn: _Drawing, source: View, tabs: gr.Tabs) -> None:
    """Draw with the settings of an image that is chosen in `source`, or with others near them."""
    form, panel, view = drawn.form, drawn.panel, drawn.view

    def reuse(key: str, models: list[str]) -> list[Any]:
        request = source.record(key).request
        gr.Info("The settings of this image are in the form.", duration=5)
        return [gr.Tabs(selected="draw"), *form.filled(request, models)]

    def more(visitor: gr.Request, key: str) -> Iterator[list[Any]]:
        requests = nearby(source.record(key).request, service)
        yield from begun(Batch(requests), visitor)

    def vary(visitor: gr.Request, key: str) -> Iterator[list[Any]]:
        request = source.record(key).request
        try:
            asked, files = varied(request, source.file(key), service)
        except (InputError, WeightsError) as error:
            raise complaint(error) from error
        yield from begun(Batch({"": asked}, uploads=files), visitor)

    def begun(batch: Batch, visitor: gr.Request) -> Iterator[list[Any]]:
        for updates in _drawn(service, drawn, batch, visitor):
            yield [gr.Tabs(selected="draw"), *updates]

    reused = [tabs, *form.controls]
    source.reuse.click(reuse, [source.chosen, form.models], reused, **source.of_chosen)
    outputs = [tabs, *panel.outputs, *view.outputs]
    for button, act in ((source.more, more), (source.vary, vary)):
        button.click(act, source.chosen, outputs, concurrency_limit=VISITORS, **source.of_chosen)


def _connect_loading(page: gr.Blocks, service: Service, drawn: _Drawing, browser: Kept) -> None:
    """Show a visitor who comes back what was typed, and what is in the making or was at last."""
    form = drawn.form

    def show(values: Any) -> list[str]:
        chosen = values[1] if isinstance(values, list) and len(values) > 1 else []
        return [start.start(service, service.specs(chosen)), in_memory.listed(service)]

    def resume(visitor: gr.Request) -> Iterator[list[Any]]:
        yield from _watched(drawn, visitor)

    kept = browser.add(FORM, form.controls, form.restored)
    page.load(None, [kept, form.prompt], form.prompt, js=UNLESS_TYPED, **UNSEEN)
    page.load(show, kept, [drawn.start, drawn.memory], queue=False, **UNSEEN)
    browser.connect(page)
    page.load(
        resume,
        None,
        [*drawn.panel.outputs, *drawn.view.outputs],
        concurrency_limit=VISITORS,
        **UNSEEN,
    )


def _drawn(
    service: Service, drawn: _Drawing, batch: Batch, visitor: gr.Request
) -> Iterator[list[Any]]:
    """Draw a batch, and yield again and again what the page shows."""
    try:
        for request in batch.requests.values():
            service.plan(request, batch.uploads)
    except (InputError, WeightsError) as error:
        raise complaint(error) from error
    drawn.panel.begin(batch, visitor)
    yield from _watched(drawn, visitor)


def _watched(drawn: _Drawing, visitor: gr.Request) -> Iterator[list[Any]]:
    """Yield what the page shows of what the visitor has asked for, until all of it is over."""
    view = drawn.view
    yield from drawn.panel.watched(visitor, view, lambda batch: view.show(Shown(batch.called)))


def _request(form: Form, values: Sequence[Any]) -> Request:
    """Return what is asked for; whatever the user can correct is shown as one line."""
    try:
        return Request.from_json(form.asked(values))
    except InputError as error:
        raise complaint(error) from error


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
        raise complaint(message) from error
    return found
