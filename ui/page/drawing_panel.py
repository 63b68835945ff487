"""Where prompts are drawn on the page: the button, the line that tells how far it is, the images of
candidates in the making, the two ways to end early, and what waits behind."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component
from PIL import Image

from gen.engine import Outcome
from gen.errors import InputError
from gen.events import Loading
from ui.page.batch import Batch, Live, Visitors
from ui.page.markup import (
    Tile,
    counted,
    data_url,
    hero,
    paragraphs,
    percent,
    text,
    tiles,
)
from ui.page.view import View
from ui.page.wiring import QUIET, complaint

VISITORS = 32  # who may look at their jobs at once; each in a thread
# On a phone the images are below the form.
SHOW_RESULTS = "() => {{ if (innerWidth < 640) document.getElementById('{}').scrollIntoView() }}"


@dataclass(frozen=True)
class Buttons:
    """What begins a batch, and what ends it early."""

    generate: gr.Button
    ending: gr.Row
    queue: gr.Button
    finish: gr.Button
    stop: gr.Button


@dataclass(frozen=True)
class DrawingPanel:
    """The components of a panel."""

    visitors: Visitors
    buttons: Buttons
    status: gr.HTML
    live: gr.HTML
    waiting: gr.HTML

    @property
    def outputs(self) -> list[Component]:
        """The components that `shown` gives values for."""
        return [
            self.buttons.generate,
            self.buttons.ending,
            self.status,
            self.live,
            self.waiting,
        ]

    def begin(self, batch: Batch, visitor: gr.Request) -> None:
        """Have a batch drawn behind what the visitor has asked for before. Raises gr.Error."""
        try:
            self.visitors.queue_of(visitor).add(batch)
        except InputError as error:
            raise complaint(error) from error

    def shown(self, visitor: gr.Request) -> Iterator[tuple[list[Any], Batch]]:
        """Yield what to show of the visitor's batches, and the one in question, till all is over.

        Raises gr.Error with one line in the end if something went wrong.
        """
        queue = self.visitors.queue_of(visitor)
        candidates = _Candidates()
        for batch, waiting in queue.looks(str(visitor.session_hash)):
            if not batch.is_over:
                yield self._working(batch, waiting, candidates), batch
                continue
            last = queue.is_idle
            shown = self._idle(batch) if last else self._working(batch, waiting, candidates)
            yield shown, batch
            if batch.problem and not batch.is_told:
                batch.is_told = True
                if last:
                    raise complaint(batch.problem)
                gr.Warning(text(batch.problem), duration=None)

    def watched(
        self, visitor: gr.Request, view: View, results: Callable[[Batch], list[Any]]
    ) -> Iterator[list[Any]]:
        """Yield values for the panel and for `view`, until all that was asked for is over.

        The view gets the `results` of a batch whenever one more of its requests is drawn.
        """
        # A generator that yields nothing would empty everything.
        yield [gr.skip()] * (len(self.outputs) + len(view.outputs))
        seen = (0, 0)
        for shown, batch in self.shown(visitor):
            updates: list[Any] = [gr.skip()] * len(view.outputs)
            if seen != (batch.number, len(batch.outcomes)):
                seen = batch.number, len(batch.outcomes)
                updates = results(batch)
            yield [*shown, *updates]

    def connect(self) -> None:
        """Have the two ways to end early work, and what can be done with what waits."""

        def finish(visitor: gr.Request) -> None:
            self.visitors.queue_of(visitor).finish_now()

        def stop(visitor: gr.Request) -> None:
            self.visitors.queue_of(visitor).stop()

        self.buttons.finish.click(finish, queue=False, **QUIET)
        self.buttons.stop.click(stop, queue=False, **QUIET)
        self.waiting.select(self._rearrange, queue=False, **QUIET)

    def _rearrange(self, event: gr.EventData, visitor: gr.Request) -> None:
        queue = self.visitors.queue_of(visitor)
        number = int(event.name) if str(event.name).isdecimal() else 0
        (queue.move_up if event.do == "up" else queue.drop)(number)

    def _working(
        self, batch: Batch, waiting: Sequence[Batch], candidates: "_Candidates"
    ) -> list[Any]:
        live, total = batch.live, len(batch.requests)
        buttons = [gr.Button(visible=False), gr.Row(visible=True)]
        if live is None or batch.is_over:
            return [*buttons, paragraphs(["Getting ready …"]), "", _waiting(waiting)]
        place = f"{len(batch.outcomes) + 1} of {total}: " if total > 1 else ""
        return [*buttons, _progress(live, place), candidates.markup(live), _waiting(waiting)]

    def _idle(self, batch: Batch) -> list[Any]:
        lines = [_summary(batch.outcomes), *_failures(batch.outcomes), *batch.notes]
        return [gr.Button(visible=True), gr.Row(visible=False), paragraphs(lines), "", ""]


def build_buttons(name: str, label: str) -> Buttons:
    """Build the buttons of a panel, in the block that is open; their ids begin with `name`."""
    generate = gr.Button(label, variant="primary", elem_id=f"{name}-generate")
    with gr.Row(visible=False, elem_classes=["actions", "ending"]) as ending:
        finish = gr.Button("Finish now", elem_id=f"{name}-finish")
        stop = gr.Button("Stop", elem_id=f"{name}-stop")
        queue = gr.Button("Add to queue", elem_id=f"{name}-queue")
    return Buttons(generate, ending, queue, finish, stop)


class _Candidates:
    """The candidates in the making, and those that are finished; each image is encoded once."""

    def __init__(self) -> None:
        self._encoded: dict[int, tuple[Image.Image, str]] = {}

    def markup(self, live: Live) -> str:
        """Return the most promising one large, and all of them; blanks where nothing is known."""
        if live.progress is None:
            return ""
        shown = [self._tile(live, place) for place in range(live.progress.candidates)]
        large = shown[max(range(len(shown)), key=lambda place: _promise(live, place))]
        return hero(large) + tiles(shown, "candidates in the making")

    def _tile(self, live: Live, place: int) -> Tile:
        status, captions = live.statuses.get(place), _captions(live, place)
        if status is None or status.image is None:
            return Tile("", captions=captions)
        if place not in self._encoded or self._encoded[place][0] is not status.image:
            self._encoded[place] = status.image, data_url(status.image)
        about = f"candidate {place + 1}: {captions[0]}"
        return Tile(self._encoded[place][1], about, captions, size=status.image.size)


def _promise(live: Live, place: int) -> tuple[bool, float, bool, int]:
    """Return what says how much a candidate is worth looking at: its score, else a preview."""
    status = live.statuses.get(place)
    score = None if status is None or status.end is None else status.end.score
    there = status is not None and status.image is not None
    return score is not None, 0.0 if score is None else score, there, -place


def _captions(live: Live, place: int) -> list[str]:
    """Return how far a candidate is, its score if it has one, its model if there are several."""
    status = live.statuses.get(place)
    end = None if status is None else status.end
    if end is None:
        making = live.progress is not None and place in live.progress.places
        return ["in the making" if making else "waits"]
    state = "finished" if end.failed is None else "failed"
    score = None if end.score is None else f"{end.score:.3f}"
    model = end.request.model if live.request.model not in (None, end.request.model) else None
    return [part for part in (state, score, model) if part is not None]


def _progress(live: Live, place: str) -> str:
    """Return a bar, and the line below it."""
    share = 0.0 if live.progress is None else live.progress.share
    bar = f'<progress max="1" value="{share:.3f}" aria-label="Progress"></progress>'
    return bar + paragraphs([place + _line(live)])


def _line(live: Live) -> str:
    loading = loading_line(live.loading)
    if live.ahead:
        first = f"Waiting: {live.ahead} {'job comes' if live.ahead == 1 else 'jobs come'} first"
        return f"{first}. {loading}" if loading else first
    progress = live.progress
    if progress is None:
        return loading if loading else "Getting ready …"
    if loading:
        return f"{progress.made} of {progress.candidates} done. {loading}"
    parts = [f"{progress.made} of {progress.candidates} done"]
    if progress.drawing:
        parts.append(f"step {progress.step} of {progress.steps} for the next {progress.drawing}")
    if live.seconds_left is not None:
        parts.append(f"{_duration(live.seconds_left)} left")
    return ", ".join(parts)


def loading_line(loading: Loading | None) -> str:
    """Return what is being loaded, and how far it is; nothing for nothing."""
    if loading is None:
        return ""
    share = f" {percent(loading.loaded / loading.total)}" if loading.total else ""
    return f"Loading {loading.model} …{share}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    return f"about {round(seconds / 60)} min"


def _waiting(batches: Sequence[Batch]) -> str:
    """Return the visitor's batches that wait, each with what can be done with it."""
    rows = []
    for place, batch in enumerate(batches):
        prompt = next(iter(batch.requests.values())).prompt
        more = f" and {len(batch.requests) - 1} more" if len(batch.requests) > 1 else ""
        up = _button("up", batch.number, "Move up", "↑") if place else ""
        drop = _button("drop", batch.number, "Take back", "✕")
        rows.append(f"<li><span>{text(prompt + more)}</span>{up}{drop}</li>")
    if not rows:
        return ""
    return f'<p class="label">Waiting behind this</p><ol class="waiting">{"".join(rows)}</ol>'


def _button(do: str, number: int, title: str, sign: str) -> str:
    return (
        f'<button type="button" data-do="{do}" data-name="{number}" title="{title}" '
        f'aria-label="{title}">{sign}</button>'
    )


def _summary(outcomes: Sequence[Outcome]) -> str:
    """Return what came of it, in a line."""
    made = sum(outcome.made for outcome in outcomes)
    if not made:
        return "Ended before anything was drawn."
    already = "" if any(outcome.drawn for outcome in outcomes) else ", which were there already"
    if len(outcomes) > 1:
        return f"{counted(made, 'image')}{already}."
    [outcome] = outcomes
    asked = outcome.plan.count
    some = f" {made} of {asked} drawn." if made < asked else ""
    return (
        f"The best {len(outcome.best)} of {counted(made, 'candidate')}{already}.{some} "
        f"Seed {outcome.plan.seed}."
    )


def _failures(outcomes: Sequence[Outcome]) -> list[str]:
    return [
        f"The candidate of seed {result.seed} failed: {result.failed}"
        for outcome in outcomes
        for result in outcome.failed
    ]
