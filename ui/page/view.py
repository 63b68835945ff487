"""What came of prompts, on the page: the best image large, the others beside it, the rest in a
strip below, and of the one that is chosen everything that is known and can be done."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from gen import metadata
from gen.errors import InputError
from gen.metadata import Metadata
from gen.run_folder.choices import ImageHearted
from gen.run_folder.events import Comparison, Files, SavedImage
from gen.run_folder.fold import PromptHistory
from ui.page.deleted import carried
from ui.page.details import described, facts
from ui.page.files import address, opened
from ui.page.markup import (
    ON_CLICK,
    Tile,
    claims_of,
    counted,
    hero,
    paragraphs,
    percent,
    text,
    tiles,
)
from ui.page.sheets import COMPARED, SHEETS
from ui.page.tiles import image_tile, table
from ui.page.wiring import QUIET, complaint
from ui.service.service import Service

MOST_TILES = 200
# page.js shows two at a time, and tells the server each choice.
BETTER = '<button type="button" class="link-button" data-better>Which is better?</button>'
NO_HEART = "♡ Heart"
# The large image is what is meant: page.js shows it before the server knows that it was chosen.
LARGE = "document.querySelector('#{}-picture [data-open]')?.dataset.open"
EDIT = "() => window.salon.edit({})"
CHOSEN = "(known, ...rest) => [{} ?? known, ...rest]"
NONE_MATCHES = 0.5  # the probability below which an image is more likely none of what was asked
KEY = re.compile(r"([0-9]{1,20})/([0-9]{1,20})")  # an image: the number of its prompt, and its seed
Images = Sequence[tuple[PromptHistory, SavedImage]]


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
    name: str
    heading: gr.HTML
    best: gr.HTML
    rest: gr.HTML
    large: gr.HTML
    known: gr.HTML
    reuse: gr.Button
    vary: gr.Button
    more: gr.Button
    heart: gr.Button
    delete: gr.Button
    delete_all: gr.Button
    undo: gr.Button
    shown: gr.State  # Shown
    chosen: gr.Textbox  # NUMBER/SEED of the large image, which no visitor sees
    deleted: gr.State  # what was deleted here, as the run folder takes it, the last one last

    @property
    def outputs(self) -> list[Component]:
        """The components that `show` gives values for."""
        return [
            self.shown,
            self.heading,
            self.best,
            self.rest,
            self.chosen,
            self.large,
            self.known,
            self.heart,
            self.delete_all,
        ]

    def show(self, shown: Shown) -> list[Any]:
        """Show images, the best of them large."""
        self.service.history.refresh()
        found = [self.service.history.find(number) for number in shown.called]
        histories = [history for history in found if history is not None and history.images]
        best = [(history, saved) for history in histories for saved in history.best]
        rest = [(history, saved) for history in histories for saved in history.rest]
        first = next(iter([*best, *rest]), None) if shown.comparison is None else None
        if shown.comparison is None:
            beside = self._tiles(shown, best, "the best images")
        else:
            beside = table(self.service, shown.comparison)
        count = f"The other {counted(len(rest), 'candidate')}".replace(" 1 ", " ")
        strip = f'<p class="label">{count}</p>' + self._tiles(shown, rest, "the other candidates")
        return [
            shown,
            _heading(histories, shown.comparison),
            beside,
            strip if rest else "",
            *self._chosen(first),
            gr.Button(visible=bool(histories) and self.service.rules.delete),
        ]

    def _tiles(self, shown: Shown, images: Images, label: str) -> str:
        made = [
            image_tile(
                self.service, history, saved, shown.called[history.number], saved in history.best
            )
            for history, saved in images[:MOST_TILES]
        ]
        return tiles(made, label) if made else ""

    def _chosen(self, image: tuple[PromptHistory, SavedImage] | None) -> list[Any]:
        """Show one image large, with what is known of it."""
        if image is None:
            return ["", "", "", gr.skip()]
        history, saved = image
        known = facts(self._known(history, saved))
        claims = claims_of(self.service.claims_of(history.number, saved.seed))
        return [
            f"{history.number}/{saved.seed}",
            self._large(history, saved),
            f"{_fit(saved)}{_parts(saved)}{claims}{known}",
            _heart(saved.seed in history.choices.hearts),
        ]

    def nothing(self) -> list[Any]:
        """Show nothing."""
        return self.show(Shown())

    def connect(self) -> None:
        """Have choosing an image, deleting, and undoing it work."""
        for grid in (self.best, self.rest):
            grid.select(
                self._choose,
                outputs=[self.chosen, self.large, self.known, self.heart],
                **QUIET,
            )
        self.heart.click(self._toggle_heart, self.chosen, self.heart, **self.of_chosen)
        undone = [self.deleted, self.undo, *self.outputs]
        self.delete.click(
            self._delete_one, [self.chosen, self.shown, self.deleted], undone, **self.of_chosen
        )
        self.delete_all.click(self._delete_all, [self.shown, self.deleted], undone, **QUIET)
        self.undo.click(self._restore, [self.shown, self.deleted], undone, **QUIET)

    @property
    def of_chosen(self) -> dict[str, Any]:
        """How an event is wired whose first input is `chosen`."""
        return {**QUIET, "js": CHOSEN.format(LARGE.format(self.name))}

    def file(self, key: str) -> Path:
        """Return the file of the chosen image. Raises gr.Error."""
        _, saved = self._find(key)
        path = self.service.history.path(saved)
        if path is None:
            raise complaint("the file of this image is gone")
        return path

    def record(self, key: str) -> Metadata:
        """Return what the chosen image says about itself. Raises gr.Error."""
        try:
            return metadata.read(self.file(key))
        except InputError as error:
            raise complaint(error) from error

    def _find(self, key: str) -> tuple[PromptHistory, SavedImage]:
        named = KEY.fullmatch(key)
        history = None if named is None else self.service.history.find(int(named[1]))
        saved = None if history is None or named is None else history.find(int(named[2]))
        if history is None or saved is None:
            raise complaint("this image is no longer there", 5)
        return history, saved

    def _toggle_heart(self, key: str) -> gr.Button:
        history, saved = self._find(key)
        hearted = saved.seed not in history.choices.hearts
        self.service.folder.note_choice(ImageHearted(history.number, saved.seed, hearted))
        self.service.history.refresh()
        return _heart(hearted)

    def _choose(self, event: gr.EventData) -> list[Any]:
        return self._chosen(self._find(str(getattr(event, "name", ""))))

    def _large(self, history: PromptHistory, saved: SavedImage) -> str:
        """Return the image as large as there is room, and its file."""
        image = opened(self.service.history.path(saved))
        if image is None:
            return paragraphs([f"{saved.file} is unreadable."])
        name, source = f"{history.number}/{saved.seed}", address(saved)
        shown = hero(Tile(source, history.request.prompt, name=name, size=image.size))
        width, height = image.size
        return (
            f'{shown}<p class="links"><a href="{text(source)}" download>Download</a>'
            f'<a href="{text(source)}" target="_blank">Open the file</a>'
            f"<span>{width} × {height}</span></p>"
        )

    def _known(self, history: PromptHistory, saved: SavedImage) -> dict[str, object]:
        path = self.service.history.path(saved)
        try:
            known = {} if path is None else described(metadata.read(path))
        except InputError as error:
            known = {"File": error}
        return known

    def _delete_one(self, key: str, shown: Shown, deleted: list[Any]) -> list[Any]:
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
        carried(self.service.delete, files)
        deleted = [*deleted, files]
        return [deleted, _undo(deleted), *self.show(shown)]

    def _restore(self, shown: Shown, deleted: list[Any]) -> list[Any]:
        *earlier, last = deleted
        carried(self.service.restore, last)
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
    undo = gr.Button("Undo", visible=False, size="sm", elem_id=f"{name}-undo")
    with gr.Column(elem_classes="view"):
        heading = gr.HTML(elem_id=f"{name}-heading", elem_classes="heading")
        with gr.Column(elem_classes="detail"):  # which page.css hides without an image
            large = gr.HTML(elem_id=f"{name}-picture", elem_classes="picture")
            with gr.Column(elem_classes="beside"):
                with gr.Row(elem_classes="actions"):
                    edit = gr.Button("Edit", size="sm", elem_id=f"{name}-edit")
                    vary = gr.Button("Variations", size="sm", elem_id=f"{name}-vary")
                    more = gr.Button("Nearby settings", size="sm", elem_id=f"{name}-more")
                    reuse = gr.Button("Use these settings", size="sm", elem_id=f"{name}-reuse")
                    heart = gr.Button(NO_HEART, size="sm", elem_id=f"{name}-heart")
                    delete = gr.Button(
                        "Delete",
                        size="sm",
                        visible=service.rules.delete,
                        elem_id=f"{name}-delete",
                    )
                known = gr.HTML(elem_id=f"{name}-known", elem_classes="known")
        best = gr.HTML(js_on_load=ON_CLICK, elem_id=f"{name}-best", elem_classes="best")
        rest = gr.HTML(js_on_load=ON_CLICK, elem_id=f"{name}-rest", elem_classes="strip")
        delete_all = gr.Button(
            "Delete all of these",
            size="sm",
            visible=False,
            elem_id=f"{name}-delete-all",
            elem_classes="quiet",
        )
    view = View(
        service,
        name,
        heading,
        best,
        rest,
        large,
        known,
        reuse,
        vary,
        more,
        heart,
        delete,
        delete_all,
        undo,
        shown=gr.State(Shown()),
        chosen=gr.Textbox(visible=False),
        deleted=gr.State([]),
    )
    view.connect()
    edit.click(None, js=EDIT.format(LARGE.format(name)), api_visibility="private")
    return view


def _heart(has_one: bool) -> gr.Button:
    """Return the button of an image that has a heart, or has none."""
    return gr.Button("♥ Heart given" if has_one else NO_HEART)


def _fit(saved: SavedImage) -> str:
    """Return in one number how well an image fits its prompt, where that is known."""
    if saved.match is None:
        return ""
    likely = percent(saved.match)
    return (
        f'<p class="fit" title="how likely it shows all of the prompt"><strong>{likely}</strong> '
        "likely to show all of it</p>"
    )


def _parts(saved: SavedImage) -> str:
    """Return what each of several rerankers says."""
    parts = "".join(f"<li>{text(name)} {each:.3f}</li>" for name, each in saved.scores.items())
    return f'<ul class="parts" aria-label="what each reranker says">{parts}</ul>' if parts else ""


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
    better = BETTER if len(history.images) > 1 else ""
    return paragraphs(lines) + _link(f"{SHEETS}{history.number}.png", "Contact sheet", better)


def _link(sheet: str, name: str, more: str = "") -> str:
    return f'<p class="links"><a href="{sheet}" download>{name}</a>{more}</p>'
