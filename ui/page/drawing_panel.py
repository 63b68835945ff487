"""Where prompts are drawn on the page: the button, the line that tells how far it is, the tiles of
candidates in the making, and the two ways to end early."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component
from PIL import Image

from gen.engine import Outcome
from gen.errors import InputError, RoomError
from gen.events import Loading
from gen.models import WeightsError
from gen.settings.request import Request
from ui.page.batch import CandidateStatus, Live, Visitors
from ui.page.markup import Tile, counted, data_url, paragraphs, percent, text, tiles

VISITORS = 32  # whose jobs may stand in the queue at once; each waits in a thread
# On a phone the images are below the form.
SHOW_RESULTS = "() => {{ if (innerWidth < 640) document.getElementById('{}').scrollIntoView() }}"


@dataclass(frozen=True)
class DrawingPanel:
    """The components of a panel."""

    visitors: Visitors
    generate: gr.Button
    ending: gr.Row
    finish: gr.Button
    stop: gr.Button
    status: gr.HTML
    live: gr.HTML

    @property
    def outputs(self) -> list[Component]:
        """The components that `drawn` gives values for."""
        return [self.generate, self.ending, self.status, self.live]

    def drawn(
        self, requests: Mapping[str, Request], visitor: gr.Request
    ) -> Iterator[tuple[list[Any], list[Outcome]]]:
        """Draw requests, by what each is called: again and again what to show, and the outcomes by
        then. Raises gr.Error with one line in the end if something went wrong."""
        outcomes: list[Outcome] = []
        yield self._working(paragraphs(["Getting ready …"]), ""), outcomes
        candidates, lines = _CandidateTiles(), list[str]()
        problem = ""
        batch = self.visitors.begin(visitor, list(requests.values()))
        try:
            with closing(batch.events()) as events:
                for event in events:
                    if isinstance(event, Outcome):
                        outcomes.append(event)
                        lines += _failures(event)
                        continue
                    place = f"{len(outcomes) + 1} of {len(requests)}: " if len(requests) > 1 else ""
                    status = _progress(event, place)
                    yield self._working(status, candidates.markup(event)), outcomes
                    lines += [note for note in event.notes if note not in lines]
        except (InputError, RoomError, WeightsError) as error:
            problem = str(error)
        yield self._idle(paragraphs([_summary(outcomes), *lines])), outcomes
        if problem:
            raise gr.Error(text(problem), duration=None, print_exception=False)

    def connect(self) -> None:
        """Have the two ways to end early work."""
        for button, end in (
            (self.finish, self.visitors.finish_now),
            (self.stop, self.visitors.stop),
        ):
            button.click(end, show_progress="hidden", queue=False, api_visibility="private")

    def _working(self, status: str, live: str) -> list[Any]:
        return [gr.Button(visible=False), gr.Row(visible=True), status, live]

    def _idle(self, status: str) -> list[Any]:
        return [gr.Button(visible=True), gr.Row(visible=False), status, ""]


def build_buttons(name: str, label: str) -> tuple[gr.Button, gr.Row, gr.Button, gr.Button]:
    """Build the buttons of a panel, in the block that is open; their ids begin with `name`."""
    generate = gr.Button(label, variant="primary", elem_id=f"{name}-generate")
    with gr.Row(visible=False, elem_classes=["actions", "ending"]) as ending:
        finish = gr.Button("Finish now", elem_id=f"{name}-finish")
        stop = gr.Button("Stop", elem_id=f"{name}-stop")
    return generate, ending, finish, stop


class _CandidateTiles:
    """The candidates in the making, and those that are finished; each image is encoded once."""

    def __init__(self) -> None:
        self._encoded: dict[int, tuple[Image.Image, str]] = {}

    def markup(self, live: Live) -> str:
        """Return all candidates of a prompt, those that nothing is known of as blanks."""
        if live.progress is None:
            return ""
        shown = [
            self._tile(place, live.statuses.get(place), _captions(live, place))
            for place in range(live.progress.candidates)
        ]
        return tiles(shown, "candidates in the making")

    def _tile(self, place: int, status: CandidateStatus | None, captions: Sequence[str]) -> Tile:
        if status is None or status.image is None:
            return Tile("", captions=captions)
        if place not in self._encoded or self._encoded[place][0] is not status.image:
            self._encoded[place] = status.image, data_url(status.image)
        about = f"candidate {place + 1}: {captions[0]}"
        return Tile(self._encoded[place][1], about, captions, size=status.image.size)


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
    loading = "" if live.loading is None else _loading(live.loading)
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


def _loading(loading: Loading) -> str:
    share = f" {percent(loading.loaded / loading.total)}" if loading.total else ""
    return f"Loading {loading.model} …{share}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    return f"about {round(seconds / 60)} min"


def _summary(outcomes: Sequence[Outcome]) -> str:
    """Return what came of it, in a line."""
    made = sum(outcome.made for outcome in outcomes)
    if not made:
        return "Ended before anything was drawn."
    already = "" if any(outcome.drawn for outcome in outcomes) else ", which were there already"
    if len(outcomes) > 1:
        return f"{counted(made, 'image')}{already}."
    [outcome] = outcomes
    return (
        f"The best {len(outcome.best)} of {counted(made, 'candidate')}{already}. "
        f"Seed {outcome.plan.seed}."
    )


def _failures(outcome: Outcome) -> list[str]:
    return [f"The candidate of seed {r.seed} failed: {r.failed}" for r in outcome.failed]
