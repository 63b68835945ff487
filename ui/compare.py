"""One prompt over a grid of two settings: an X/Y sheet."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import gradio as gr
from gradio.processing_utils import save_pil_to_cache
from PIL import Image

from gen import sheet
from gen.engine import Outcome
from gen.errors import InputError
from gen.plan import draw_seed
from gen.request import SETTINGS, Request
from ui.batch import Visitors
from ui.desk import VISITORS, Desk, build_buttons
from ui.form import Form, label_of, settings_of, specs_of
from ui.markup import Tile, text, tile
from ui.studio import Studio
from ui.view import picture_tile

AXES = (("guidance", "1, 3, 6"), ("steps", "5, 10, 20"))  # at first: across, down
MOST_CELLS = 48


@dataclass(frozen=True)
class Axis:
    """A setting and the values that it takes."""

    name: str
    values: Sequence[Any]


def build(studio: Studio, visitors: Visitors, form: Form) -> None:
    """The prompt, the two settings with their values, and the sheet. All other settings, and the
    models, are those of the form."""
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
        with gr.Column(scale=3, min_width=320, elem_id="compare-results"):
            status = gr.HTML(elem_id="compare-status", elem_classes="status")
            live = gr.HTML(elem_id="compare-live")
            grid = gr.HTML(elem_id="compare-grid")
            download = gr.DownloadButton(
                "Download the sheet", size="sm", visible=False, elem_id="compare-download"
            )
    desk = Desk(visitors, *buttons, status, live)
    desk.connect()

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
            cells = _cells(studio, {**form.asked(values), "prompt": asked}, across, down)
        except InputError as error:
            raise gr.Error(text(error), duration=None, print_exception=False) from error
        for shown, outcomes in desk.drawn(cells, visitor):
            yield [*shown, _grid(studio, across, down, outcomes), gr.DownloadButton(visible=False)]
        if outcomes:
            file = save_pil_to_cache(
                _sheet(asked, across, down, outcomes), grid.GRADIO_CACHE, "sheet", "png"
            )
            yield [gr.skip()] * (len(shown) + 1) + [gr.DownloadButton(value=file, visible=True)]

    gr.on(
        [desk.generate.click, prompt.submit],
        compare,
        [prompt, *axes[0], *axes[1], *form.controls],
        [*desk.outputs, grid, download],
        concurrency_limit=VISITORS,
        show_progress="hidden",
        api_visibility="private",
    )


def _build_axis(which: str, name: str, values: str, form: Form) -> list[Any]:
    names = settings_of(specs_of(form.models.value))
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
    """A setting with its values, which commas part. Raises InputError."""
    if name not in SETTINGS:
        raise InputError(f"{name}: not a setting")
    read = [SETTINGS[name].read(part.strip()) for part in values.split(",") if part.strip()]
    if not read:
        raise InputError(f"{name}: give values, with commas between")
    return Axis(name, list(dict.fromkeys(read)))


def _cells(studio: Studio, asked: dict[str, Any], across: Axis, down: Axis) -> dict[str, Request]:
    """A request for each cell, row by row, all with one seed. Raises InputError."""
    if across.name == down.name:
        raise InputError(f"{across.name}: across and down must be two settings")
    count = len(across.values) * len(down.values)
    if count > MOST_CELLS:
        raise InputError(f"{count} pictures: at most {MOST_CELLS} are compared at once")
    common = {k: v for k, v in asked.items() if k not in (across.name, down.name)}
    request = Request.from_json({**common, "candidates": 1, "top_k": 1})
    if request.seed is None:
        request = replace(request, seed=draw_seed())
    cells: dict[str, Request] = {}
    for y, x in product(down.values, across.values):
        cell = replace(request, **{across.name: x, down.name: y})
        studio.plan(cell)
        cells[f"{across.name} {x}, {down.name} {y}"] = cell
    return cells


def _grid(studio: Studio, across: Axis, down: Axis, outcomes: Sequence[Outcome]) -> str:
    """The sheet as a table; cells fill in the order of `_cells`."""
    if not outcomes:
        return ""
    studio.history.refresh()
    head = "".join(f'<th scope="col">{text(_label(across, x))}</th>' for x in across.values)
    rows = []
    for number, y in enumerate(down.values):
        start = number * len(across.values)
        cells = "".join(
            f"<td>{_cell(studio, outcomes[place]) if place < len(outcomes) else ''}</td>"
            for place in range(start, start + len(across.values))
        )
        rows.append(f'<tr><th scope="row">{text(_label(down, y))}</th>{cells}</tr>')
    return f'<div class="grid"><table><tr><td></td>{head}</tr>{"".join(rows)}</table></div>'


def _label(axis: Axis, value: Any) -> str:
    shown = f"{value:g}" if isinstance(value, float) else value
    return f"{label_of(axis.name)} {shown}"


def _cell(studio: Studio, outcome: Outcome) -> str:
    past = None if outcome.number is None else studio.history.find(outcome.number)
    if past is None or not past.best:
        return tile(Tile(None))
    return tile(replace(picture_tile(studio, past, past.best[0]), name=""))


def _sheet(prompt: str, across: Axis, down: Axis, outcomes: Sequence[Outcome]) -> Image.Image:
    """The same as a picture: a block for each row."""
    blocks = []
    for number, y in enumerate(down.values):
        start = number * len(across.values)
        made = outcomes[start : start + len(across.values)]
        drawn = [(x, o.best[0]) for x, o in zip(across.values, made, strict=False) if o.best]
        block = sheet.block(_label(down, y), prompt, [result for _, result in drawn])
        captions = [
            (_label(across, x), "" if r.score is None else f"{r.score:.3f}") for x, r in drawn
        ]
        blocks.append(replace(block, captions=captions))
    return sheet.draw(blocks)
