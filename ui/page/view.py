"""What came of prompts, on the page: the best images, the rest behind a click, and of one that is
chosen everything that is known and can be done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from gradio.components import Component

from gen import metadata
from gen.errors import InputError
from gen.metadata import Metadata
from gen.run_folder.events import Comparison, Files, SavedImage
from gen.run_folder.fold import PromptHistory
from ui.page.deleted import carried
from ui.page.details import described, facts
from ui.page.files import address, opened
from ui.page.markup import ON_CLICK, ON_ESCAPE, counted, image_tag, paragraphs, percent, text, tiles
from ui.page.sheets import COMPARED, SHEETS
from ui.page.tiles import image_tile, table
from ui.service.service import Service

MOST_TILES = 200
NONE_MATCHES = 0.5  # the probability below which an image is more likely none of what was asked
Key = tuple[int, int]  # an image: the number of its prompt, and its seed


@dataclass(frozen=True)
class Shown:
    """What a view shows: prompts by number, with what each is called where there are several.

    Or the cells of a comparison.
    """

    called: Mapping[int, str] = field(default_factory=dict)
    comparison: Comparison | None = None

    @classmethod
    def cells(cls, comparison: Comparison) -> "Shown":
        """Return a comparison as one thing."""
        return cls(dict.fromkeys(comparison.numbers, ""), comparison)


@dataclass(frozen=True)
class View:
    """The components of a view."""

    service: Service
    heading: gr.HTML
    best: gr.HTML
    others: gr.Accordion
    rest: gr.HTML
    detail: gr.Column
    large: gr.HTML
    known: gr.HTML
    reuse: gr.Button
    more: gr.Button
    delete: gr.Button
    close: gr.Button
    delete_all: gr.Button
    undo: gr.Button
    shown: gr.State  # Shown
    chosen: gr.State  # Key
    deleted: gr.State  # what was deleted here, as the run folder takes it, the last one last

    @property
    def outputs(self) -> list[Component]:
        """The components that `show` gives values for."""
        return [
            self.shown,
            self.heading,
            self.best,
            self.others,
            self.rest,
            self.detail,
            self.delete_all,
        ]

    def show(self, shown: Shown) -> list[Any]:
        """Show images."""
        self.service.history.refresh()
        found = [self.service.history.find(number) for number in shown.called]
        histories = [history for history in found if history is not None and history.images]
        best = [(history, saved) for history in histories for saved in history.best]
        rest = [(history, saved) for history in histories for saved in history.rest]

        def tiles_of(images: Sequence[tuple[PromptHistory, SavedImage]], label: str) -> str:
            made = [
                image_tile(self.service, history, saved, shown.called[history.number])
                for history, saved in images[:MOST_TILES]
            ]
            return tiles(made, label) if made else ""

        return [
            shown,
            _heading(histories, shown.comparison),
            tiles_of(best, "the best images")
            if shown.comparison is None
            else table(self.service, shown.comparison),
            gr.Accordion(
                "The other candidate" if len(rest) == 1 else f"The other {len(rest)} candidates",
                visible=bool(rest),
                open=bool(rest) and not best,
            ),
            tiles_of(rest, "the other candidates"),
            gr.Column(visible=False),
            gr.Button(visible=bool(histories)),
        ]

    def nothing(self) -> list[Any]:
        """Show nothing."""
        return self.show(Shown())

    def connect(self) -> None:
        """Have choosing an image, deleting, and undoing it work."""
        for grid in (self.best, self.rest):
            grid.select(
                self._choose,
                outputs=[self.chosen, self.detail, self.large, self.known],
                show_progress="hidden",
                api_visibility="private",
            )
        self.close.click(
            lambda: gr.Column(visible=False),
            outputs=self.detail,
            show_progress="hidden",
            api_visibility="private",
        )
        self.delete.click(
            self._delete_one,
            [self.shown, self.chosen, self.deleted],
            [self.deleted, self.undo, *self.outputs],
            show_progress="hidden",
            api_visibility="private",
        )
        self.delete_all.click(
            self._delete_all,
            [self.shown, self.deleted],
            [self.deleted, self.undo, *self.outputs],
            show_progress="hidden",
            api_visibility="private",
        )
        self.undo.click(
            self._restore,
            [self.shown, self.deleted],
            [self.deleted, self.undo, *self.outputs],
            show_progress="hidden",
            api_visibility="private",
        )

    def record(self, key: Key | None) -> Metadata:
        """Return what the chosen image says about itself. Raises gr.Error."""
        _, saved = self._find(key)
        path = self.service.history.path(saved)
        try:
            if path is None:
                raise InputError("the file of this image is gone")
            return metadata.read(path)
        except InputError as error:
            raise gr.Error(text(error), duration=None, print_exception=False) from error

    def _find(self, key: Key | None) -> tuple[PromptHistory, SavedImage]:
        history = None if key is None else self.service.history.find(key[0])
        saved = None if history is None or key is None else history.find(key[1])
        if history is None or saved is None:
            raise gr.Error("this image is no longer there", duration=5, print_exception=False)
        return history, saved

    def _choose(self, event: gr.EventData) -> tuple[Key | None, gr.Column, str, str]:
        key = _key(event)
        history, saved = self._find(key)
        known = facts(self._known(history, saved))
        return key, gr.Column(visible=True), self._large(history, saved), known

    def _large(self, history: PromptHistory, saved: SavedImage) -> str:
        """Return the image as large as there is room, and its file."""
        image = opened(self.service.history.path(saved))
        if image is None:
            return paragraphs([f"{saved.file} is unreadable."])
        source = text(address(saved))
        shown = image_tag(address(saved), history.request.prompt, image.size)
        return (
            f'<a class="large" href="{source}" target="_blank">{shown}</a>'
            f'<p class="links"><a href="{source}" download>Download</a>'
            f'<a href="{source}" target="_blank">Open</a></p>'
        )

    def _known(self, history: PromptHistory, saved: SavedImage) -> dict[str, object]:
        path = self.service.history.path(saved)
        try:
            known = {} if path is None else described(metadata.read(path))
        except InputError as error:
            known = {"File": error}
        if saved.match is not None:
            known["Match"] = f"{percent(saved.match)} likely to show all of the prompt"
        return known

    def _delete_one(self, shown: Shown, key: Key, deleted: list[Any]) -> list[Any]:
        history, saved = self._find(key)
        return self._deleted(shown, [(history, [saved])], deleted)

    def _delete_all(self, shown: Shown, deleted: list[Any]) -> list[Any]:
        found = [self.service.history.find(number) for number in shown.called]
        return self._deleted(shown, [(p, p.images) for p in found if p is not None], deleted)

    def _deleted(
        self,
        shown: Shown,
        chosen: Sequence[tuple[PromptHistory, Sequence[SavedImage]]],
        deleted: list[Any],
    ) -> list[Any]:
        files = {history.number: {p.seed: p.file for p in images} for history, images in chosen}
        carried(self.service.folder.delete, files)
        deleted = [*deleted, files]
        return [deleted, _undo(deleted), *self.show(shown)]

    def _restore(self, shown: Shown, deleted: list[Any]) -> list[Any]:
        *earlier, last = deleted
        carried(self.service.folder.restore, last)
        if others := {number: "" for number in last if number not in shown.called}:
            shown = Shown({**shown.called, **others})
        return [earlier, _undo(earlier), *self.show(shown)]


def _undo(deleted: Sequence[Files]) -> gr.Button:
    """Return the button that brings back what was deleted last."""
    if not deleted:
        return gr.Button(visible=False)
    count = sum(map(len, deleted[-1].values()))
    return gr.Button(f"Undo: bring back {counted(count, 'image')}", visible=True)


def build_view(service: Service, name: str) -> View:
    """Build a view in the block that is open; the ids of its parts begin with `name`."""
    heading = gr.HTML(elem_id=f"{name}-heading", elem_classes="heading")
    undo = gr.Button("Undo", visible=False, size="sm", elem_id=f"{name}-undo")
    best = gr.HTML(js_on_load=ON_CLICK, elem_id=f"{name}-best")
    with gr.Column(visible=False, elem_id=f"{name}-detail", elem_classes="detail") as detail:
        large = gr.HTML(js_on_load=ON_ESCAPE.format(f"{name}-close"), elem_id=f"{name}-picture")
        with gr.Row(elem_classes="actions"):
            reuse = gr.Button("Use these settings", size="sm", elem_id=f"{name}-reuse")
            more = gr.Button("More like this one", size="sm", elem_id=f"{name}-more")
            delete = gr.Button("Delete", size="sm", elem_id=f"{name}-delete")
            close = gr.Button("Close", size="sm", elem_id=f"{name}-close")
        known = gr.HTML(elem_id=f"{name}-known")
    with gr.Accordion("The other candidates", open=False, visible=False) as others:
        rest = gr.HTML(js_on_load=ON_CLICK, elem_id=f"{name}-rest")
    delete_all = gr.Button(
        "Delete all of these", size="sm", visible=False, elem_id=f"{name}-delete-all"
    )
    view = View(
        service,
        heading,
        best,
        others,
        rest,
        detail,
        large,
        known,
        reuse,
        more,
        delete,
        close,
        delete_all,
        undo,
        shown=gr.State(Shown()),
        chosen=gr.State(None),
        deleted=gr.State([]),
    )
    view.connect()
    return view


def _heading(histories: Sequence[PromptHistory], comparison: Comparison | None) -> str:
    if not histories:
        return ""
    if comparison is not None:
        return paragraphs([histories[0].request.prompt]) + _link(
            f"{COMPARED}{comparison.number}.png", "Download the sheet"
        )
    if len(histories) > 1:
        return paragraphs([f"{len(histories)} prompts were drawn; the best of each:"])
    [history] = histories
    lines = [history.request.prompt]
    matches = [p.match for p in history.images if p.match is not None]
    if matches and max(matches) < NONE_MATCHES:
        lines.append("The reranker doubts that any of them shows all of that.")
    return paragraphs(lines) + _link(f"{SHEETS}{history.number}.png", "Contact sheet")


def _link(sheet: str, name: str) -> str:
    return f'<p class="links"><a href="{sheet}" download>{name}</a></p>'


def _key(event: gr.EventData) -> Key | None:
    """Return the image that a click names."""
    try:
        number, _, seed = str(event.name).partition("/")
        return int(number), int(seed)
    except (AttributeError, ValueError):
        return None
