"""What was drawn in this folder by anybody, the latest first."""

from typing import Any

import gradio as gr

from gen.history import Past
from ui import deleted
from ui.files import address, opened
from ui.markup import ON_CLICK, Tile, counted, paragraphs, tiles
from ui.studio import Studio
from ui.view import View, build_view

ON_A_PAGE = 24
SHOWN = 80  # characters of a prompt


def build(studio: Studio, tab: gr.Tab) -> View:
    """The prompts, each by its best picture, and the view of the one that is chosen."""
    with gr.Column(elem_id="gallery-list") as listed:
        aside = deleted.build(studio)
        told = gr.HTML(elem_id="gallery-told")
        sheet = gr.HTML(js_on_load=ON_CLICK, elem_id="gallery-prompts")
        with gr.Row(elem_classes="actions"):
            newer = gr.Button("Newer", size="sm", elem_id="gallery-newer")
            older = gr.Button("Older", size="sm", elem_id="gallery-older")
    with gr.Column(visible=False, elem_id="gallery-open") as opened_one:
        back = gr.Button("All prompts", size="sm", elem_id="gallery-back")
        view = build_view(studio, "gallery")
    number = gr.State(0)  # of the page
    turned = [number, told, sheet, newer, older, *aside.outputs]

    def turn(page: int) -> list[Any]:
        studio.history.refresh()
        pasts = studio.history.pasts()
        last = max(0, (len(pasts) - 1) // ON_A_PAGE)
        page = min(max(page, 0), last)
        shown = pasts[page * ON_A_PAGE : (page + 1) * ON_A_PAGE]
        line = (
            f"{counted(len(pasts), 'prompt')}, the latest first"
            if pasts
            else "Nothing was drawn here yet."
        )
        return [
            page,
            paragraphs([line]),
            tiles([_tile(studio, past) for past in shown], "prompts"),
            gr.Button(visible=page > 0),
            gr.Button(visible=page < last),
            *aside.show(),
        ]

    def choose(event: gr.EventData) -> list[Any]:
        past = studio.history.find(int(event.name)) if str(event.name).isdecimal() else None
        if past is None:
            raise gr.Error("this prompt is no longer there", duration=5, print_exception=False)
        return [gr.Column(visible=False), gr.Column(visible=True), *view.show({past.number: ""})]

    def close(page: int) -> list[Any]:
        return [gr.Column(visible=True), gr.Column(visible=False), *turn(page)]

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    tab.select(turn, number, turned, **quiet)
    newer.click(lambda page: turn(page - 1), number, turned, **quiet)
    older.click(lambda page: turn(page + 1), number, turned, **quiet)
    sheet.select(choose, outputs=[listed, opened_one, *view.outputs], **quiet)
    back.click(close, number, [listed, opened_one, *turned], **quiet)
    aside.connect(turn, number, turned)
    return view


def _tile(studio: Studio, past: Past) -> Tile:
    first = past.pictures[0]
    image = opened(studio.history.path(first))
    prompt = past.request.prompt
    short = prompt if len(prompt) <= SHOWN else prompt[:SHOWN] + "…"
    return Tile(
        None if image is None else address(first),
        about=f"{short}, {counted(len(past.pictures), 'picture')}",
        captions=[short],
        name=str(past.number),
        size=(1, 1) if image is None else image.size,
    )
