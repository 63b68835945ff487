"""What was drawn in this folder by anybody, the latest first."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from gen.run_folder.events import Comparison
from gen.run_folder.fold import PromptHistory
from ui.page import deleted
from ui.page.form import label_of
from ui.page.markup import ON_CLICK, Tile, counted, paragraphs, tiles
from ui.page.thumbnails import thumbnail_of
from ui.page.view import Shown, View, build_view
from ui.page.wiring import QUIET, complaint
from ui.service.service import Service

ON_A_PAGE = 24
SHOWN = 80  # characters of a prompt
PROMPT, COMPARED = "prompt", "comparison"  # kinds of tiles


def build(service: Service, tab: gr.Tab) -> View:
    """Return the prompts, each by its best image, and the view of the one that is chosen."""
    with gr.Column(elem_id="gallery-list") as listed:
        aside = deleted.build(service)
        told = gr.HTML(elem_id="gallery-told")
        sheet = gr.HTML(js_on_load=ON_CLICK, elem_id="gallery-prompts")
        with gr.Row(elem_classes="actions"):
            newer = gr.Button("Newer", size="sm", elem_id="gallery-newer")
            older = gr.Button("Older", size="sm", elem_id="gallery-older")
    with gr.Column(visible=False, elem_id="gallery-open") as opened_one:
        back = gr.Button("All prompts", size="sm", elem_id="gallery-back")
        view = build_view(service, "gallery")
    number = gr.State(0)  # of the page
    turned = [number, told, sheet, newer, older, *aside.outputs]

    def turn(page: int) -> list[Any]:
        service.history.refresh()
        entries = service.history.entries()
        last = max(0, (len(entries) - 1) // ON_A_PAGE)
        page = min(max(page, 0), last)
        shown = entries[page * ON_A_PAGE : (page + 1) * ON_A_PAGE]
        return [
            page,
            paragraphs([_told(entries)]),
            tiles([_tile(service, entry) for entry in shown], "prompts"),
            gr.Button(visible=page > 0),
            gr.Button(visible=page < last),
            *aside.show(),
        ]

    def choose(event: gr.EventData) -> list[Any]:
        shown = _chosen(service, str(event.name))
        if shown is None:
            raise complaint("this is no longer there", 5)
        return [gr.Column(visible=False), gr.Column(visible=True), *view.show(shown)]

    def close(page: int) -> list[Any]:
        return [gr.Column(visible=True), gr.Column(visible=False), *turn(page)]

    tab.select(turn, number, turned, **QUIET)
    newer.click(lambda page: turn(page - 1), number, turned, **QUIET)
    older.click(lambda page: turn(page + 1), number, turned, **QUIET)
    sheet.select(choose, outputs=[listed, opened_one, *view.outputs], **QUIET)
    back.click(close, number, [listed, opened_one, *turned], **QUIET)
    aside.connect(turn, number, turned)
    return view


def _told(entries: Sequence[PromptHistory | Comparison]) -> str:
    compared = sum(isinstance(entry, Comparison) for entry in entries)
    counts = ((len(entries) - compared, "prompt"), (compared, "comparison"))
    parts = [counted(count, noun) for count, noun in counts if count]
    return f"{' and '.join(parts)}, the latest first" if parts else "Nothing was drawn here yet."


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


def _tile(service: Service, entry: PromptHistory | Comparison) -> Tile:
    if isinstance(entry, PromptHistory):
        about = counted(len(entry.images), "image")
        return _first(service, entry, f"{PROMPT} {entry.number}", about)
    cells = [service.history.find(number) for number in entry.numbers]
    there = [history for history in cells if history is not None and not history.is_empty]
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
    )
