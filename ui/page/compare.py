"""One prompt over a grid of two settings: an X/Y sheet."""

import re
from collections.abc import Iterator, Sequence
from itertools import chain, product
from typing import Any

import gradio as gr
from gradio.components import Component

from gen.engine import Outcome
from gen.errors import InputError
from gen.models import WeightsError
from gen.plan import draw_seed
from gen.run_folder.events import Axis
from gen.settings.request import SETTINGS, Request
from ui.page.batch import Batch, Visitors
from ui.page.drawing_panel import SHOW_RESULTS, VISITORS, DrawingPanel, build_buttons
from ui.page.form import Form, label_of, taken
from ui.page.markup import ON_DO
from ui.page.view import Shown, View, build_view
from ui.page.wiring import QUIET, complaint
from ui.service.service import Service

WHICH = ("Across", "Down", "Grids")
AXES = (("guidance", "1, 3, 6"), ("steps", "5, 10, 20"), ("", ""))  # at first
WHOLE = ("seed", "model", "prompt")  # what can be compared beside the settings of models
BETWEEN_PROMPTS = "|"  # in the values of an axis of prompts; other values have commas between
HINT = (
    '<p class="hint">One prompt over a grid: choose what changes across and down, and the values. '
    "Prompts are written with | between; {red|blue} in a prompt stands for both. A third setting "
    "makes one grid for each of its values.</p>"
)
CHOICE = re.compile(r"\{([^{}]*\|[^{}]*)\}")
MOST_CELLS = 48


def build(
    service: Service, visitors: Visitors, form: Form, tab: gr.Tab
) -> tuple[View, list[Component]]:
    """Build the prompt, the two settings with their values, and the table.

    All other settings, and the models, are those of the form. Returns what is shown, and the
    fields that are typed in.
    """
    with gr.Row(elem_classes="form-beside"):
        with gr.Column(scale=0, min_width=320, elem_id="compare-form"):
            prompt = gr.Textbox(
                label="Prompt",
                info="its other settings are those under Draw",
                elem_id="compare-prompt",
            )
            axes = [
                _build_axis(which, name, values, form)
                for which, (name, values) in zip(WHICH, AXES, strict=True)
            ]
            buttons = build_buttons("compare", "Compare")
            waiting = gr.HTML(js_on_load=ON_DO, elem_id="compare-waiting")
        with gr.Column(min_width=320, elem_id="compare-results"):
            status = gr.HTML(HINT, elem_id="compare-status", elem_classes="status")
            live = gr.HTML(elem_id="compare-live")
            view = build_view(service, "compare")
    panel = DrawingPanel(visitors, buttons, status, live, waiting)
    panel.connect()

    _connect(service, panel, view, form, prompt, axes, tab)
    return view, [prompt, *chain.from_iterable(axes)]


def _connect(
    service: Service,
    panel: DrawingPanel,
    view: View,
    form: Form,
    prompt: gr.Textbox,
    axes: Sequence[Sequence[Component]],
    tab: gr.Tab,
) -> None:
    """Have the grid drawn when it is asked for, and shown as it grows."""

    def compare(
        visitor: gr.Request,
        asked: str,
        x_name: str,
        x_values: str,
        y_name: str,
        y_values: str,
        z_name: str,
        z_values: str,
        *values: Any,
    ) -> Iterator[list[Any]]:
        try:
            across, down = _axis(x_name, x_values), _axis(y_name, y_values)
            common = form.asked([asked, *values[1:]])
            grids = [common]
            if z_name:
                grids = [{**common, z_name: value} for value in _axis(z_name, z_values).values]
            seed = draw_seed()
            cells = [_cells(service, {"seed": seed, **grid}, across, down) for grid in grids]
        except (InputError, WeightsError) as error:
            raise complaint(_at_axis(error, (x_name, y_name, z_name))) from error
        for grid in cells:
            panel.begin(_batch(service, grid, across, down, form.rerankers_of(values)), visitor)
        yield from watched(visitor)

    def watched(visitor: gr.Request) -> Iterator[list[Any]]:
        yield from panel.watched(visitor, view, lambda batch: _so_far(service, view, batch))

    asking = [panel.buttons.generate.click, panel.buttons.queue.click, prompt.submit]
    gr.on(asking, None, js=SHOW_RESULTS.format("compare-results"), api_visibility="private")
    gr.on(
        asking,
        compare,
        [prompt, *axes[0], *axes[1], *axes[2], *form.controls],
        [*panel.outputs, *view.outputs],
        concurrency_limit=VISITORS,
        trigger_mode="multiple",
        **QUIET,
    )
    tab.select(watched, None, [*panel.outputs, *view.outputs], concurrency_limit=VISITORS, **QUIET)


def _batch(
    service: Service,
    cells: dict[str, Request],
    across: Axis,
    down: Axis,
    rerankers: Sequence[str],
) -> Batch:
    """Return a grid as a batch, which the run folder is told of as it grows."""
    number = service.folder.begin_comparison()

    def note(outcomes: Sequence[Outcome]) -> None:
        drawn = [outcome.number for outcome in outcomes if outcome.number is not None]
        service.folder.note_comparison(number, across, down, drawn)

    return Batch(cells, rerankers, number, note)


def _build_axis(which: str, name: str, values: str, form: Form) -> list[Any]:
    service = form.service
    names = [*service.offered(service.specs(form.models.value)), *WHOLE]
    choices = [(label_of(each), each) for each in names]
    with gr.Row():
        setting = gr.Dropdown(
            choices if name else [("just one", ""), *choices],
            value=name if name in names or not name else names[0],
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


def _at_axis(error: Exception, names: Sequence[str]) -> str:
    """Return an error as a line that begins with the field of its axis, where it is of one."""
    named = re.split("[ :]", str(error), maxsplit=1)[0]
    fields = [which.lower() for which, name in zip(WHICH, names, strict=True) if name == named]
    return f"{fields[0]} values: {error}" if fields else str(error)


def _axis(name: str, values: str) -> Axis:
    """Return a setting with its values, which commas part. Raises InputError."""
    if name not in SETTINGS:
        raise InputError(f"{name}: not a setting")
    if name == "prompt":
        parts = [made for part in _parted(values) for made in _all_choices(part)]
    else:
        parts = values.split(",")
    read = [SETTINGS[name].read(part.strip()) for part in parts if part.strip()]
    if not read:
        raise InputError(f"{name}: give values, with commas between")
    return Axis(name, tuple(dict.fromkeys(read)))


def _parted(values: str) -> list[str]:
    """Split a text at the signs between prompts, but for those within braces."""
    parts, depth = [""], 0
    for sign in values:
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if sign == BETWEEN_PROMPTS and depth <= 0:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def _all_choices(prompt: str) -> list[str]:
    """Return a prompt with each choice of its braces, in all combinations. Raises InputError."""
    done, open_ones = [], [prompt]
    while open_ones:
        template = open_ones.pop(0)
        found = CHOICE.search(template)
        if found is None:
            done.append(template)
            continue
        for choice in found[1].split("|"):
            open_ones.append(template[: found.start()] + choice.strip() + template[found.end() :])
        if len(open_ones) + len(done) > MOST_CELLS:
            raise InputError(f"prompt: more than {MOST_CELLS} combinations of its choices")
    return done


def _cells(service: Service, asked: dict[str, Any], across: Axis, down: Axis) -> dict[str, Request]:
    """Return a request for each cell, row by row, all with one seed. Raises InputError."""
    if across.name == down.name:
        raise InputError(f"{across.name}: across and down must be two settings")
    count = len(across.values) * len(down.values)
    if count > MOST_CELLS:
        raise InputError(f"{count} images: at most {MOST_CELLS} are compared at once")
    cells: dict[str, Request] = {}
    for y, x in product(down.values, across.values):
        values = {**asked, across.name: x, down.name: y, "candidates": 1, "top_k": 1}
        specs = service.specs(str(values.get("model", "")).split(","))
        cell = Request.from_json({k: v for k, v in values.items() if taken(k, specs)})
        service.plan(cell)
        cells[f"{across.name} {x}, {down.name} {y}"] = cell
    return cells


def _so_far(service: Service, view: View, batch: Batch) -> list[Any]:
    """Show the table as far as it is drawn."""
    assert batch.comparison is not None
    service.history.refresh()
    comparison = service.history.find_comparison(batch.comparison)
    return view.nothing() if comparison is None else view.show(Shown.cells(comparison))
