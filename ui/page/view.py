"""What came of prompts, on the page: the best pictures, the rest behind a click, and of one that is
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
from gen.settings.request import SETTINGS, Request
from ui.page.deleted import carried
from ui.page.files import address, opened
from ui.page.form import label_of
from ui.page.markup import ON_CLICK, ON_ESCAPE, counted, image_tag, paragraphs, percent, text, tiles
from ui.page.sheets import COMPARED, SHEETS
from ui.page.tiles import picture_tile, table
from ui.service.service import Studio

MOST_TILES = 200
NONE_MATCHES = 0.5  # the probability below which a picture is more likely none of what was asked
# What "more like this one" changes, one at a time: numbers are multiplied, names exchanged.
NEARBY_FACTORS: Mapping[str, tuple[float, ...]] = {
    "guidance": (0.7, 1.4),
    "steps": (0.75, 1.5),
    "temperature": (0.85, 1.15),
}
NEARBY_SAMPLERS = ("dpmpp_2m", "euler", "unipc", "euler_a")

Key = tuple[int, int]  # a picture: the number of its prompt, and its seed


@dataclass(frozen=True)
class Shown:
    """What is hung: prompts by number, with what each is called where there are several; or the
    cells of a comparison."""

    called: Mapping[int, str] = field(default_factory=dict)
    comparison: Comparison | None = None

    @classmethod
    def cells(cls, comparison: Comparison) -> "Shown":
        """A comparison as one thing."""
        return cls(dict.fromkeys(comparison.numbers, ""), comparison)


@dataclass(frozen=True)
class View:
    """The components of a view."""

    studio: Studio
    heading: gr.HTML
    best: gr.HTML
    others: gr.Accordion
    rest: gr.HTML
    detail: gr.Column
    picture: gr.HTML
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
        """What `show` gives values for."""
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
        """Hang pictures."""
        self.studio.history.refresh()
        found = [self.studio.history.find(number) for number in shown.called]
        pasts = [past for past in found if past is not None and past.images]
        best = [(past, picture) for past in pasts for picture in past.best]
        rest = [(past, picture) for past in pasts for picture in past.rest]

        def hung(pictures: Sequence[tuple[PromptHistory, SavedImage]], label: str) -> str:
            made = [
                picture_tile(self.studio, past, picture, shown.called[past.number])
                for past, picture in pictures[:MOST_TILES]
            ]
            return tiles(made, label) if made else ""

        return [
            shown,
            _heading(pasts, shown.comparison),
            hung(best, "the best pictures")
            if shown.comparison is None
            else table(self.studio, shown.comparison),
            gr.Accordion(
                "The other candidate" if len(rest) == 1 else f"The other {len(rest)} candidates",
                visible=bool(rest),
                open=bool(rest) and not best,
            ),
            hung(rest, "the other candidates"),
            gr.Column(visible=False),
            gr.Button(visible=bool(pasts)),
        ]

    def nothing(self) -> list[Any]:
        """Hang nothing."""
        return self.show(Shown())

    def connect(self) -> None:
        """Choosing a picture, deleting, and undoing it."""
        for sheet in (self.best, self.rest):
            sheet.select(
                self._choose,
                outputs=[self.chosen, self.detail, self.picture, self.known],
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
        """What the chosen picture says about itself. Raises gr.Error."""
        _, picture = self._find(key)
        path = self.studio.history.path(picture)
        try:
            if path is None:
                raise InputError("the file of this picture is gone")
            return metadata.read(path)
        except InputError as error:
            raise gr.Error(text(error), duration=None, print_exception=False) from error

    def _find(self, key: Key | None) -> tuple[PromptHistory, SavedImage]:
        past = None if key is None else self.studio.history.find(key[0])
        picture = None if past is None or key is None else past.find(key[1])
        if past is None or picture is None:
            raise gr.Error("this picture is no longer there", duration=5, print_exception=False)
        return past, picture

    def _choose(self, event: gr.EventData) -> tuple[Key | None, gr.Column, str, str]:
        key = _key(event)
        past, picture = self._find(key)
        known = facts(self._known(past, picture))
        return key, gr.Column(visible=True), self._large(past, picture), known

    def _large(self, past: PromptHistory, picture: SavedImage) -> str:
        """The picture as large as there is room, and its file."""
        image = opened(self.studio.history.path(picture))
        if image is None:
            return paragraphs([f"{picture.file} is unreadable."])
        source = text(address(picture))
        shown = image_tag(address(picture), past.request.prompt, image.size)
        return (
            f'<a class="large" href="{source}" target="_blank">{shown}</a>'
            f'<p class="links"><a href="{source}" download>Download</a>'
            f'<a href="{source}" target="_blank">Open</a></p>'
        )

    def _known(self, past: PromptHistory, picture: SavedImage) -> dict[str, object]:
        path = self.studio.history.path(picture)
        try:
            known = {} if path is None else described(metadata.read(path))
        except InputError as error:
            known = {"File": error}
        if picture.match is not None:
            known["Match"] = f"{percent(picture.match)} likely to show all of the prompt"
        return known

    def _delete_one(self, shown: Shown, key: Key, deleted: list[Any]) -> list[Any]:
        past, picture = self._find(key)
        return self._deleted(shown, [(past, [picture])], deleted)

    def _delete_all(self, shown: Shown, deleted: list[Any]) -> list[Any]:
        found = [self.studio.history.find(number) for number in shown.called]
        return self._deleted(shown, [(p, p.images) for p in found if p is not None], deleted)

    def _deleted(
        self,
        shown: Shown,
        chosen: Sequence[tuple[PromptHistory, Sequence[SavedImage]]],
        deleted: list[Any],
    ) -> list[Any]:
        files = {past.number: {p.seed: p.file for p in pictures} for past, pictures in chosen}
        carried(self.studio.folder.delete, files)
        deleted = [*deleted, files]
        return [deleted, _undo(deleted), *self.show(shown)]

    def _restore(self, shown: Shown, deleted: list[Any]) -> list[Any]:
        *earlier, last = deleted
        carried(self.studio.folder.restore, last)
        if others := {number: "" for number in last if number not in shown.called}:
            shown = Shown({**shown.called, **others})
        return [earlier, _undo(earlier), *self.show(shown)]


def _undo(deleted: Sequence[Files]) -> gr.Button:
    """The button that brings back what was deleted last."""
    if not deleted:
        return gr.Button(visible=False)
    count = sum(map(len, deleted[-1].values()))
    return gr.Button(f"Undo: bring back {counted(count, 'picture')}", visible=True)


def build_view(studio: Studio, name: str) -> View:
    """A view in the block that is open; the ids of its parts begin with `name`."""
    heading = gr.HTML(elem_id=f"{name}-heading", elem_classes="heading")
    undo = gr.Button("Undo", visible=False, size="sm", elem_id=f"{name}-undo")
    best = gr.HTML(js_on_load=ON_CLICK, elem_id=f"{name}-best")
    with gr.Column(visible=False, elem_id=f"{name}-detail", elem_classes="detail") as detail:
        picture = gr.HTML(js_on_load=ON_ESCAPE.format(f"{name}-close"), elem_id=f"{name}-picture")
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
        studio,
        heading,
        best,
        others,
        rest,
        detail,
        picture,
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


def nearby(request: Request, studio: Studio) -> dict[str, Request]:
    """Small variations of a picture's request, by what they are called; the seed stays."""
    found: dict[str, Request] = {}
    alone = request.replace(candidates=1, top_k=1)
    for name, factors in NEARBY_FACTORS.items():
        value = getattr(request, name)
        for factor in factors:
            if value is not None:
                other = SETTINGS[name].kind(round(value * factor, 2))
                _add(found, alone, name, other, studio)
    for sampler in NEARBY_SAMPLERS:
        if request.sampler is not None:
            _add(found, alone, "sampler", sampler, studio)
    return found


def _add(
    found: dict[str, Request], request: Request, name: str, value: Any, studio: Studio
) -> None:
    if value == getattr(request, name):
        return
    try:
        varied = request.replace(**{name: value})
        studio.plan(varied)
    except InputError:  # beyond what the setting can be
        return
    found[f"{label_of(name)} {value}"] = varied


def described(record: Metadata) -> dict[str, object]:
    """What a picture says about itself, for people."""
    given = {
        label_of(name): value
        for name, value in record.request.given().items()
        if name not in ("model", "candidates", "top_k")
    }
    model = " ".join(filter(None, (record.model, record.model_hash)))
    more = {
        "Model": model or None,
        "Score": None if record.score is None else f"{record.score:.4f}",
        "Scores": ", ".join(f"{name} {score:.4f}" for name, score in record.scores.items()),
        "Rank": record.rank,
        "Unfinished": record.unfinished,
        "Attention": record.attention or None,
        "Versions": ", ".join(f"{name} {number}" for name, number in record.versions.items()),
        **record.extra,
    }
    return {**given, **{key: value for key, value in more.items() if value not in (None, "")}}


def facts(known: Mapping[str, object]) -> str:
    """Names and values as a list."""
    rows = "".join(f"<dt>{text(key)}</dt><dd>{text(value)}</dd>" for key, value in known.items())
    return f'<dl class="facts">{rows}</dl>'


def _heading(pasts: Sequence[PromptHistory], comparison: Comparison | None) -> str:
    if not pasts:
        return ""
    if comparison is not None:
        return paragraphs([pasts[0].request.prompt]) + _link(
            f"{COMPARED}{comparison.number}.png", "Download the sheet"
        )
    if len(pasts) > 1:
        return paragraphs([f"{len(pasts)} prompts were drawn; the best of each:"])
    [past] = pasts
    lines = [past.request.prompt]
    matches = [p.match for p in past.images if p.match is not None]
    if matches and max(matches) < NONE_MATCHES:
        lines.append("The jury doubts that any of them shows all of that.")
    return paragraphs(lines) + _link(f"{SHEETS}{past.number}.png", "Contact sheet")


def _link(sheet: str, name: str) -> str:
    return f'<p class="links"><a href="{sheet}" download>{name}</a></p>'


def _key(event: gr.EventData) -> Key | None:
    """The picture that a click names."""
    try:
        number, _, seed = str(event.name).partition("/")
        return int(number), int(seed)
    except (AttributeError, ValueError):
        return None
