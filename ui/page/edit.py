"""The Edit tab: an image with a mask, what is to change of it, and what came of that."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from gen.errors import InputError, RoomError
from gen.models import WeightsError
from gen.settings.request import Request
from ui.page import edit_form
from ui.page.batch import Batch, Visitors, client_of
from ui.page.drawing_panel import VISITORS, DrawingPanel, build_buttons
from ui.page.edit_board import MODES, board, told, told_mask
from ui.page.edit_form import EditForm
from ui.page.form import Form, label_of
from ui.page.kept import Kept
from ui.page.markup import ON_CLICK, ON_DO
from ui.page.originals import find, joined, kept, kept_mask, path_of
from ui.page.start import lately
from ui.page.view import Shown, View, build_view
from ui.page.wiring import QUIET, complaint
from ui.service.service import Service

STEPS = "salon-edit"  # what a browser keeps: the images that were edited, the last one last
FORM = "salon-edit-form"
MOST_STEPS = 50
# An "Edit" anywhere on the page says which image, as page.js reads it off the tile or the lightbox.
ON_EDIT = "document.addEventListener('salon-edit', (e) => trigger('select', {name: e.detail}));"
# What is drawn by the brush goes along with the values of all fields.
WITH_MASK = "(mask, ...rest) => [window.salonEdit.mask(), ...rest]"
BEGUN = "() => window.salonEdit.begun()"


@dataclass(frozen=True)
class Editor:
    """The components of the tab."""

    service: Service
    form: EditForm
    panel: DrawingPanel
    view: View
    steps: gr.BrowserState  # names of originals
    picture: gr.HTML  # tells edit.js which image is shown
    pick: gr.HTML  # tells the server which image is to be edited
    back: gr.Button
    file: gr.File
    lately: gr.HTML
    mask: gr.Textbox  # as edit.js draws it, a data: URL
    found: gr.HTML  # tells edit.js of a mask that was found
    found_for: gr.State  # what was asked for then

    @property
    def shown(self) -> list[Component]:
        """The components that `show` gives values for."""
        return [self.steps, self.picture, self.back]

    def show(self, steps: Sequence[str]) -> list[Any]:
        """Show the last of some originals that is still there."""
        there = [name for name in steps if path_of(self.service, name)][-MOST_STEPS:]
        original = find(self.service, there[-1]) if there else None
        return [there, told(original), gr.Button(visible=len(there) > 1)]

    def current(self, steps: Sequence[str]) -> Path:
        """Return the file of the image that is edited. Raises InputError."""
        path = path_of(self.service, steps[-1]) if steps else None
        if path is None:
            raise InputError("choose an image first: upload one, or press Edit at any image")
        return path


def build_pick() -> gr.HTML:
    """Build what takes an "Edit" from any tab, outside of all tabs."""
    return gr.HTML(js_on_load=ON_EDIT, elem_id="edit-pick")


def build(service: Service, visitors: Visitors, draw: Form, pick: gr.HTML) -> Editor:
    """Build the image with its tools, the results in its place, and the form beside them."""
    with gr.Row(elem_id="edit-workspace"):
        with gr.Column(elem_id="edit-middle", min_width=280):
            with gr.Row(elem_id="edit-head"):
                gr.HTML(MODES, elem_id="edit-modes")
                back = gr.Button(
                    "Undo", size="sm", visible=False, elem_id="edit-back", elem_classes="quiet"
                )
            gr.HTML(board(service), elem_id="edit-board")
            picture, found = gr.HTML(elem_id="edit-shown"), gr.HTML(elem_id="edit-found")
            with gr.Column(elem_id="edit-empty"):
                file = gr.File(
                    label="An image to change: drop it here, paste it, or choose a file",
                    file_types=[".png", ".jpg", ".jpeg", ".webp"],
                    height=180,
                    elem_id="edit-file",
                )
                recent = gr.HTML(js_on_load=ON_CLICK, elem_id="edit-lately")
            waiting = gr.HTML(js_on_load=ON_DO, elem_id="edit-waiting")
            live = gr.HTML(elem_id="edit-live")
            view = build_view(service, "edit")
        with gr.Column(elem_id="edit-controls", scale=0, min_width=320):
            prompt = gr.Textbox(
                label=label_of("prompt"),
                placeholder="what it should show",
                max_lines=4,
                elem_id="edit-prompt",
            )
            with gr.Column(elem_id="edit-go", min_width=160):
                buttons = build_buttons("edit", "Generate")
            status = gr.HTML(elem_id="edit-status", elem_classes="status")
            form = edit_form.build(service, draw, prompt)
    editor = Editor(
        service,
        form,
        DrawingPanel(visitors, buttons, status, live, waiting),
        view,
        steps=gr.BrowserState([], storage_key=STEPS, secret=STEPS),
        picture=picture,
        pick=pick,
        back=back,
        file=file,
        lately=recent,
        mask=gr.Textbox(visible=False),
        found=found,
        found_for=gr.State({}),
    )
    editor.panel.connect()
    return editor


def connect(editor: Editor, browser: Kept, tabs: gr.Tabs, tab: gr.Tab) -> None:
    """Have choosing, finding, drawing and going back work."""
    _connect_choosing(editor, tabs, tab)
    browser.add(FORM, editor.form.own)
    form, panel, view = editor.form, editor.panel, editor.view
    inputs = [editor.mask, editor.steps, editor.found_for, *form.controls]

    def draw(visitor: gr.Request, drawn: str, steps: Any, found: Any, *values: Any) -> Any:
        batch = _batch(editor, drawn, _names(steps), found, values, client_of(visitor))
        panel.begin(batch, visitor)
        yield from watched(visitor)

    def watched(visitor: gr.Request) -> Iterator[list[Any]]:
        yield from panel.watched(visitor, view, lambda batch: view.show(Shown(batch.called)))

    def look(visitor: gr.Request, steps: Any, *values: Any) -> tuple[str, Any]:
        return _found(editor, _names(steps), values, client_of(visitor))

    outputs = [*panel.outputs, *view.outputs]
    asking = [panel.buttons.generate.click, panel.buttons.queue.click, form.prompt.submit]
    watching: dict[str, Any] = {**QUIET, "concurrency_limit": VISITORS}
    gr.on(asking, None, js=BEGUN, api_visibility="private")
    gr.on(asking, draw, inputs, outputs, js=WITH_MASK, trigger_mode="multiple", **watching)
    tab.select(watched, None, outputs, **watching)
    finding = [form.find.click]
    finding += [
        each.submit
        for each in form.fields.values()
        if each.elem_id == f"{edit_form.WITHIN}mask_text"
    ]
    gr.on(
        finding,
        look,
        [editor.steps, *form.controls],
        [editor.found, editor.found_for],
        concurrency_limit=VISITORS,
        show_progress_on=[editor.form.find],
        api_visibility="private",
    )


def _connect_choosing(editor: Editor, tabs: gr.Tabs, tab: gr.Tab) -> None:
    service = editor.service

    def begin(event: gr.EventData, steps: Any) -> list[Any]:
        """Edit an image that a click names."""
        name = _kept_result(service, str(event.name))
        return [gr.Tabs(selected="edit"), *editor.show([*_names(steps), name])]

    def upload(path: str | None, steps: Any) -> list[Any]:
        if path is None:
            return [gr.skip()] * (1 + len(editor.shown))
        try:
            name = kept(service, Path(path).read_bytes()).name
        except (InputError, RoomError) as error:
            raise complaint(error) from error
        return [None, *editor.show([*_names(steps), name])]

    def back(steps: Any) -> list[Any]:
        return editor.show(_names(steps)[:-1])

    def open_tab(steps: Any) -> list[Any]:
        return [lately(service), *editor.show(_names(steps))]

    editor.pick.select(begin, editor.steps, [tabs, *editor.shown], **QUIET)
    editor.lately.select(begin, editor.steps, [tabs, *editor.shown], **QUIET)
    editor.file.upload(upload, [editor.file, editor.steps], [editor.file, *editor.shown], **QUIET)
    editor.back.click(back, editor.steps, editor.shown, **QUIET)
    tab.select(open_tab, editor.steps, [editor.lately, *editor.shown], **QUIET)


def _batch(
    editor: Editor, drawn: str, steps: list[str], found: Any, values: Sequence[Any], client: str
) -> Batch:
    """Return what is asked for, checked. Raises gr.Error with one line for what cannot be."""
    form, service = editor.form, editor.service
    try:
        uploads = {"init_image": editor.current(steps)}
        asked = form.mask(values)
        if drawn:
            uploads["mask"] = kept_mask(service, drawn)
        if drawn and asked and asked != found:  # drawn, and to be found too: both
            more = _find(editor, uploads["init_image"], values, client)
            uploads["mask"] = joined(service, uploads["mask"], more)
        request = Request.from_json(form.asked(values, is_masked=bool(drawn)))
        service.plan(request, uploads)
    except (InputError, RoomError, WeightsError) as error:
        raise complaint(error) from error
    return Batch({"": request}, form.rerankers_of(values), uploads=uploads)


def _found(
    editor: Editor, steps: list[str], values: Sequence[Any], client: str
) -> tuple[str, dict[str, Any]]:
    """Return where edit.js finds the mask that is asked for, and what was asked."""
    asked = editor.form.mask(values)
    try:
        if not asked:
            raise InputError("mask_text: empty: say in words what is masked, or frame it")
        path = _find(editor, editor.current(steps), values, client)
    except (InputError, RoomError, WeightsError) as error:
        raise complaint(error) from error
    return told_mask(path.name, steps[-1]), asked


def _find(editor: Editor, image: Path, values: Sequence[Any], client: str) -> Path:
    """Return the file of the mask that is asked for, when it is found. Raises InputError."""
    settings = editor.form.mask(values)
    request = Request.from_json({"prompt": "-", "model": editor.form.model(values), **settings})
    path: Path = editor.service.find_mask(request, {"init_image": image}, client).future.result()
    return path


def _kept_result(service: Service, name: str) -> str:
    """Return the name of the copy of an image of the history that a click names."""
    number, _, seed = name.partition("/")
    try:
        service.history.refresh()
        history = service.history.find(int(number))
        saved = None if history is None else history.find(int(seed))
        path = None if saved is None else service.history.path(saved)
        if path is None:
            raise complaint("this image is no longer there", 5)
        return kept(service, path.read_bytes()).name
    except (ValueError, OSError) as error:
        raise complaint(error if isinstance(error, InputError) else "no such image", 5) from error


def _names(steps: Any) -> list[str]:
    """Return what a browser kept of the images that were edited."""
    return [str(name) for name in steps] if isinstance(steps, list) else []
