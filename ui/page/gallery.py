"""What was drawn in this folder by anybody: by day, searched, filtered, and many at once."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

import gradio as gr

from gen.run_folder.events import Comparison
from gen.run_folder.fold import PromptHistory
from ui.page import deleted
from ui.page.deleted import carried
from ui.page.files import address
from ui.page.form import label_of
from ui.page.markup import ON_CLICK, Tile, counted, paragraphs, text, tiles
from ui.page.thumbnails import thumbnail_of
from ui.page.view import Shown, View, build_view
from ui.page.wiring import QUIET, complaint
from ui.service.service import Service

ON_A_PAGE = 48
SHOWN = 80  # characters of a prompt
PROMPT, COMPARED = "prompt", "comparison"  # kinds of tiles
LATEST, FIT = "the latest first", "the best fit first"
ALL = "all models"
# What can be done with tiles that are selected; page.js keeps which.
TOOLS = """
<div class="tools">
  <button type="button" class="quiet-button" data-select aria-pressed="false">Select</button>
  <span class="selected-only">
    <span class="selected-count" aria-live="polite">0 selected</span>
    <button type="button" class="quiet-button" data-slide>Compare two</button>
    <button type="button" class="quiet-button" data-zip>Download</button>
    {delete}
  </span>
</div>
"""
DELETE = '<button type="button" class="quiet-button" data-do="delete">Delete</button>'
ON_MANY = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-do]');
  if (!button) return;
  const list = document.querySelector('#gallery-prompts');
  const chosen = [...list.querySelectorAll('.tile[aria-pressed="true"]')];
  if (chosen.length) trigger('select', {do: 'delete', names: chosen.map((e) => e.dataset.name)});
});
"""
Entry = PromptHistory | Comparison


def build(service: Service, tab: gr.Tab) -> View:
    """Return the prompts, each by its best image, and the view of the one that is chosen."""
    offered = TOOLS.format(delete=DELETE if service.rules.delete else "")
    with gr.Column(elem_id="gallery-list") as listed:
        with gr.Row(elem_id="gallery-filters"):
            words = gr.Textbox(
                label="Search in prompts", max_lines=1, elem_id="gallery-search", min_width=200
            )
            model = gr.Dropdown([ALL], value=ALL, label="Model", elem_id="gallery-model")
            order = gr.Dropdown([LATEST, FIT], value=LATEST, label="Order", elem_id="gallery-order")
            hearted = gr.Checkbox(label="With a heart", elem_id="gallery-hearted")
        with gr.Row(elem_id="gallery-head"):
            told = gr.HTML(elem_id="gallery-told")
            tools = gr.HTML(offered, js_on_load=ON_MANY, elem_id="gallery-tools")
        sheet = gr.HTML(js_on_load=ON_CLICK, elem_id="gallery-prompts")
        with gr.Row(elem_classes="actions"):
            newer = gr.Button("Previous page", size="sm", elem_id="gallery-newer")
            older = gr.Button("Next page", size="sm", elem_id="gallery-older")
        aside = deleted.build(service)
    with gr.Column(visible=False, elem_id="gallery-open") as opened_one:
        back = gr.Button("All prompts", size="sm", elem_id="gallery-back", elem_classes="quiet")
        view = build_view(service, "gallery")
    number = gr.State(0)  # of the page
    wanted = [number, words, model, order, hearted]
    turned = [number, model, told, sheet, newer, older, *aside.outputs]

    def turn(*asked: Any) -> list[Any]:
        return [*_turned(service, *asked), *aside.show()]

    def choose(event: gr.EventData) -> list[Any]:
        shown = _chosen(service, str(event.name))
        if shown is None:
            raise complaint("this is no longer there", 5)
        return [gr.Column(visible=False), gr.Column(visible=True), *view.show(shown)]

    def close(*asked: Any) -> list[Any]:
        return [gr.Column(visible=True), gr.Column(visible=False), *turn(*asked)]

    def delete(event: gr.EventData, *asked: Any) -> list[Any]:
        numbers = [n for name in event.names for n in _numbers(service, str(name))]
        found = [p for n in numbers if (p := service.history.find(n)) is not None]
        files = {p.number: {i.seed: i.file for i in p.images} for p in found}
        carried(service.delete, files)
        return turn(*asked)

    tab.select(turn, wanted, turned, **QUIET)
    for changed in (words.change, model.input, order.input, hearted.input):
        changed(
            lambda _, *asked: turn(0, *asked), wanted, turned, trigger_mode="always_last", **QUIET
        )
    newer.click(lambda page, *asked: turn(page - 1, *asked), wanted, turned, **QUIET)
    older.click(lambda page, *asked: turn(page + 1, *asked), wanted, turned, **QUIET)
    sheet.select(choose, outputs=[listed, opened_one, *view.outputs], **QUIET)
    tools.select(delete, wanted, turned, **QUIET)
    back.click(close, wanted, [listed, opened_one, *turned], **QUIET)
    aside.connect(turn, wanted, turned)
    return view


def _turned(
    service: Service,
    page: int,
    words: str = "",
    model: str = ALL,
    order: str = LATEST,
    hearted: bool = False,
) -> list[Any]:
    """Return what a page of the gallery shows: its number, models, count, tiles and buttons."""
    service.history.refresh()
    everything = service.history.entries()
    entries = _sorted(_filtered(service, everything, words, model, hearted), order)
    last = max(0, (len(entries) - 1) // ON_A_PAGE)
    page = min(max(page, 0), last)
    shown = entries[page * ON_A_PAGE : (page + 1) * ON_A_PAGE]
    models = sorted({m for e in everything if isinstance(e, PromptHistory) for m in e.models})
    return [
        page,
        gr.Dropdown([ALL, *models], value=model if model in models else ALL),
        paragraphs([_told(entries, order)]),
        _by_day(service, shown) if order == LATEST else _tiles(service, shown),
        gr.Button(visible=page > 0),
        gr.Button(visible=page < last),
    ]


def _filtered(
    service: Service, entries: Sequence[Entry], words: str, model: str, hearted: bool
) -> list[Entry]:
    """Return the entries with all words in their prompts, of a model, and with a heart."""
    wanted = words.lower().split()

    def fits(entry: Entry) -> bool:
        histories = _histories(service, entry)
        if not histories:
            return False
        prompt = histories[0].request.prompt.lower()
        return (
            all(word in prompt for word in wanted)
            and (model == ALL or any(model in history.models for history in histories))
            and (not hearted or any(map(_has_heart, histories)))
        )

    if not wanted and model == ALL and not hearted:
        return list(entries)
    return [entry for entry in entries if fits(entry)]


def _has_heart(history: PromptHistory) -> bool:
    return any(history.find(seed) is not None for seed in history.choices.hearts)


def _histories(service: Service, entry: Entry) -> list[PromptHistory]:
    if isinstance(entry, PromptHistory):
        return [entry]
    found = [service.history.find(number) for number in entry.numbers]
    return [history for history in found if history is not None and not history.is_empty]


def _sorted(entries: list[Entry], order: str) -> list[Entry]:
    if order != FIT:
        return entries
    return sorted(entries, key=lambda entry: -_fit(entry))


def _fit(entry: Entry) -> float:
    """Return the best match of a prompt's images; comparisons come last."""
    if not isinstance(entry, PromptHistory):
        return -1.0
    matches = [image.match for image in entry.images if image.match is not None]
    return max(matches, default=0.0)


def _by_day(service: Service, entries: Sequence[Entry]) -> str:
    """Return the tiles of each day under its date; a file's own date says when."""
    days: dict[date | None, list[Entry]] = {}
    for entry in entries:
        days.setdefault(_day(service, entry), []).append(entry)
    return "".join(
        f'<h2 class="day">{text(_called(day))}</h2>{_tiles(service, found)}'
        for day, found in days.items()
    )


def _day(service: Service, entry: Entry) -> date | None:
    histories = _histories(service, entry)
    path = service.history.path(histories[0].images[0]) if histories else None
    return None if path is None else datetime.fromtimestamp(path.stat().st_mtime).date()


def _called(day: date | None) -> str:
    if day is None:
        return "No date"
    ago = (date.today() - day).days
    return {0: "Today", 1: "Yesterday"}.get(ago, f"{day:%A}, {day.day} {day:%B %Y}")


def _told(entries: Sequence[Entry], order: str) -> str:
    compared = sum(isinstance(entry, Comparison) for entry in entries)
    counts = ((len(entries) - compared, "prompt"), (compared, "comparison"))
    parts = [counted(count, noun) for count, noun in counts if count]
    return f"{' and '.join(parts)}, {order}" if parts else "Nothing of that kind is here yet."


def _chosen(service: Service, name: str) -> Shown | None:
    """Return what the tile of that name stands for, while it is there."""
    kind, _, number = name.partition(" ")
    if not number.isdecimal():
        return None
    if kind == COMPARED:
        comparison = service.history.find_comparison(int(number))
        return None if comparison is None else Shown.cells(comparison)
    history = service.history.find(int(number))
    return None if history is None else Shown({history.number: ""})


def _numbers(service: Service, name: str) -> list[int]:
    """Return the numbers of the prompts that a tile stands for."""
    shown = _chosen(service, name)
    return [] if shown is None else list(shown.called)


def _tiles(service: Service, entries: Sequence[Entry]) -> str:
    return tiles([_tile(service, entry) for entry in entries], "prompts")


def _tile(service: Service, entry: Entry) -> Tile:
    if isinstance(entry, PromptHistory):
        about = counted(len(entry.images), "image")
        return _first(service, entry, f"{PROMPT} {entry.number}", about)
    there = _histories(service, entry)
    axes = f"{label_of(entry.across.name)} × {label_of(entry.down.name)}"
    about = f"{axes}: {counted(len(there), 'image')}"
    return _first(service, there[0], f"{COMPARED} {entry.number}", about, [about])


def _first(
    service: Service,
    history: PromptHistory,
    name: str,
    about: str,
    captions: Sequence[str] = (),
) -> Tile:
    """Return the tile of an entry: a prompt's first image."""
    first = history.images[0]
    small = thumbnail_of(service, first)
    prompt = history.request.prompt
    short = prompt if len(prompt) <= SHOWN else prompt[:SHOWN] + "…"
    return Tile(
        None if small is None else small.source,
        about=f"{short}, {about}",
        captions=[short, *captions],
        name=name,
        size=(1, 1) if small is None else small.size,
        whole="" if small is None else address(first),
    )
