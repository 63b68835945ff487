"""What `generate` shows: a bar and notes on standard error, results on standard output."""

import argparse
import json
from typing import Any

from gen.engine import Outcome
from gen.events import Event, Finished, Loading, Note, Progress
from gen.plan import Survey
from gen.result import Result
from gen.settings.prompt_file import Row
from pipelines.runtime import terminal

PROMPT_SHOWN = 90  # characters
TICK, CROSS = "✓", "✗"


class Screen:
    """What the user sees of a run. `told` are the notes that were shown before."""

    def __init__(
        self, options: argparse.Namespace, survey: Survey, told: frozenset[str] = frozenset()
    ) -> None:
        self._told = told
        self._quiet, self._verbose, self._json = options.quiet, options.verbose, options.json
        self._survey = survey
        self._prompts_told = 0
        self._candidates_told = 0
        self._bar: Any = None

    def __enter__(self) -> "Screen":
        from tqdm import tqdm

        self._bar = tqdm(
            total=self._survey.candidates,
            disable=True if self._quiet else None,  # None: unless standard error is no terminal
            bar_format="{desc}|{bar}| {postfix}, {remaining} left",
            dynamic_ncols=True,
            leave=False,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, event: Event) -> None:
        """Follow the engine."""
        if isinstance(event, Note):
            if event.text not in self._told:
                self.warn(event.text)
            return
        if isinstance(event, Loading):
            share = f" {event.loaded / event.total:.0%}" if event.total else ""
            self._bar.set_postfix_str(f"loading {event.model}{share}", refresh=False)
            self._bar.refresh()
            return
        if isinstance(event, Finished):  # told when the prompt is done
            return
        self._move_bar(event)
        if self._verbose and event.step == event.steps:
            made = event.made + event.drawing
            self.warn(f"{event.drawing} drawn at once, {made} of {event.candidates} candidates")

    def _move_bar(self, event: Progress) -> None:
        self._bar.n = self._candidates_told + event.share * event.candidates
        if self._survey.prompts > 1:
            self._bar.set_description_str(
                f"prompt {self._prompts_told + 1}/{self._survey.prompts} ", refresh=False
            )
        made = f"{event.made}/{event.candidates} candidates, step {event.step}/{event.steps}"
        self._bar.set_postfix_str(made, refresh=False)
        self._bar.refresh()

    def tell(self, row: Row, outcome: Outcome) -> None:
        """Tell that a prompt is done: its scores and file names."""
        self._prompts_told += 1
        self._candidates_told += outcome.plan.count
        if self._json:
            terminal.write(json.dumps(_to_json(row, outcome), ensure_ascii=False))
            return
        prompt = " ".join(outcome.plan.request.prompt.split())
        if len(prompt) > PROMPT_SHOWN:
            prompt = prompt[:PROMPT_SHOWN] + "…"
        there = outcome.made - outcome.drawn
        already = f", {there} were there already" if there else ""
        self.say(f"{outcome.number:04d} {prompt} (seed {outcome.plan.seed}{already})")
        for result in outcome.best:
            state = "" if result.unfinished is None else f"  unfinished: {result.unfinished}"
            self.say(f"{result.rank:4}.{_columns(result)}  {result.path}{state}")
            if result.claims:
                marks = [f"{TICK if c.holds else CROSS} {c.text}" for c in result.claims]
                self.say(f"      {'  '.join(marks)}")
        for result in outcome.failed:
            self.say(f"   failed: seed {result.seed}: {result.failed}")

    def say(self, line: str) -> None:
        """Write a line for people, unless scripts are reading."""
        if not self._quiet and not self._json:
            self._bar.clear()
            terminal.write(line)

    def warn(self, line: str) -> None:
        """Write a line beside the results."""
        if not self._quiet:
            self._bar.clear()
            complain(line, kind="note")


def _to_json(row: Row, outcome: Outcome) -> dict[str, Any]:
    identity = {} if row.id is None else {"id": row.id}
    return {
        **identity,
        "number": outcome.number,
        "request": outcome.plan.request.to_json(),
        "made": outcome.made,
        "drawn": outcome.drawn,
        "results": [result.to_json() for result in outcome.best],
        "failed": [result.to_json() for result in outcome.failed],
    }


def _columns(result: Result) -> str:
    """Return what is known of an image, for its line."""
    columns = [] if result.score is None else [f"{result.score:8.4f}"]
    if result.match is not None and result.percentile is not None:
        columns.append(f"{result.match:4.0%} likely, above {result.percentile:.0f} % of others")
    if result.log_likelihood is not None:
        columns.append(f"{result.log_likelihood:8.1f} nats")
    columns += [f"{name} {part:+.4f}" for name, part in result.scores.items()]
    return "  ".join(columns)


def complain(line: str, kind: str = "error") -> None:
    """Write an error or a note."""
    terminal.complain(f"generate: {kind}: {line}")
