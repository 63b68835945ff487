"""One prompt over a grid of two settings: an X/Y sheet."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import gradio as gr

from gen.engine import Outcome
from gen.errors import InputError
from gen.plan import draw_seed
from gen.run_folder.events import Axis
from gen.settings.request import SETTINGS, Request
from ui.page.batch import Batch, Visitors
from ui.page.drawing_panel import VISITORS, DrawingPanel, build_buttons
from ui.page.form import Form, label_of
from ui.page.markup import ON_DO
from ui.page.view import Shown, View, build_view
from ui.page.wiring import QUIET, complaint
from ui.service.service import Service

AXES = (("guidance", "1, 3, 6"), ("steps", "5, 10, 20"))  # at first: across, down
MOST_CELLS = 48


def build(service: Service, visitors: Visitors, form: Form, tab: gr.Tab) -> View:
    """Build the prompt, the two settings with their values, and the table.

    All other settings, and the models, are those of the form.
    """
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            prompt = gr.Textbox(
                label="Prompt",
                info="its other settings are those under Draw",
                elem_id="compare-prompt",
            )
            axes = [
                _build_axis(which, name, values, form)
                for which, (name, values) in zip(("Across", "Down"), AXES, strict=True)
            ]
            buttons = build_buttons("compare", "Compare")
            waiting = gr.HTML(js_on_load=ON_DO, elem_id="compare-waiting")
        with gr.Column(scale=3, min_width=320, elem_id="compare-results"):
            status = gr.HTML(elem_id="compare-status", elem_classes="status")
            live = gr.HTML(elem_id="compare-live")
            view = build_view(service, "compare")
    panel = DrawingPanel(visitors, buttons, status, live, waiting)
    panel.connect()

    def compare(
        visitor: gr.Request,
        asked: str,
        x_name: str,
        x_values: str,
        y_name: str,
        y_values: str,
        *values: Any,
    ) -> Iterator[list[Any]]:
        try:
            across, down = _axis(x_name, x_values), _axis(y_name, y_values)
            cells = _cells(service, {**form.asked(values), "prompt": asked}, across, down)
        except InputError as error:
            raise complaint(error) from error
        number = service.folder.begin_comparison()

        def note(outcomes: Sequence[Outcome]) -> None:
            drawn = [outcome.number for outcome in outcomes if outcome.number is not None]
            service.folder.note_comparison(number, across, down, drawn)

        panel.begin(Batch(cells, number, note), visitor)
        yield from watched(visitor)

    def watched(visitor: gr.Request) -> Iterator[list[Any]]:
        seen = (0, 0)
        yield [gr.skip()] * (len(panel.outputs) + len(view.outputs))
        for shown, batch in panel.shown(visitor):
            updates: list[Any] = [gr.skip()] * len(view.outputs)
            if seen != (batch.number, len(batch.outcomes)):
                seen = batch.number, len(batch.outcomes)
                assert batch.comparison is not None
                updates = _so_far(service, view, batch.comparison)
            yield [*shown, *updates]

    gr.on(
        [panel.buttons.generate.click, panel.buttons.queue.click, prompt.submit],
        compare,
        [prompt, *axes[0], *axes[1], *form.controls],
        [*panel.outputs, *view.outputs],
        concurrency_limit=VISITORS,
        **QUIET,
    )
    tab.select(watched, None, [*panel.outputs, *view.outputs], concurrency_limit=VISITORS, **QUIET)
    return view


def _build_axis(which: str, name: str, values: str, form: Form) -> list[Any]:
    names = form.service.offered(form.service.specs(form.models.value))
    with gr.Row():
        setting = gr.Dropdown(
            [(label_of(each), each) for each in (*names, "seed")],
            value=name if name in names else names[0],
            label=which,
            min_width=120,
            elem_id=f"compare-{which.lower()}",
        )
        chosen = gr.Textbox(
            values,
            label=f"{which}: values",
            min_width=160,
            elem_id=f"compare-{which.lower()}-values",
        )
    return [setting, chosen]


def _axis(name: str, values: str) -> Axis:
    """Return a setting with its values, which commas part. Raises InputError."""
    if name not in SETTINGS:
        raise InputError(f"{name}: not a setting")
    read = [SETTINGS[name].read(part.strip()) for part in values.split(",") if part.strip()]
    if not read:
        raise InputError(f"{name}: give values, with commas between")
    return Axis(name, tuple(dict.fromkeys(read)))


def _cells(service: Service, asked: dict[str, Any], across: Axis, down: Axis) -> dict[str, Request]:
    """Return a request for each cell, row by row, all with one seed. Raises InputError."""
    if across.name == down.name:
        raise InputError(f"{across.name}: across and down must be two settings")
    count = len(across.values) * len(down.values)
    if count > MOST_CELLS:
        raise InputError(f"{count} images: at most {MOST_CELLS} are compared at once")
    common = {k: v for k, v in asked.items() if k not in (across.name, down.name)}
    request = Request.from_json({**common, "candidates": 1, "top_k": 1})
    if request.seed is None:
        request = request.replace(seed=draw_seed())
    cells: dict[str, Request] = {}
    for y, x in product(down.values, across.values):
        values: dict[str, Any] = {across.name: x, down.name: y}
        cell = request.replace(**values)
        service.plan(cell)
        cells[f"{across.name} {x}, {down.name} {y}"] = cell
    return cells


def _so_far(service: Service, view: View, number: int) -> list[Any]:
    """Show the table as far as it is drawn."""
    service.history.refresh()
    comparison = service.history.find_comparison(number)
    return view.nothing() if comparison is None else view.show(Shown.cells(comparison))
