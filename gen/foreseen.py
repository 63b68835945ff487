"""What can be said of prompts before anything is drawn: misunderstandings, in a line each."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import rerank.model.specs
from gen.plan import Plan
from gen.settings.vocabulary import doubts
from pipelines.checkpoints.errors import WeightsError
from pipelines.families import family_of

DROPPED_SHOWN = 200  # characters
NOTES_SHOWN = 8
NUMBER = re.compile(r"\s*[-+]?[0-9.]{1,12}\s*")


class Notes:
    """The notes on a run's prompts, each with the number of prompts that it is about."""

    def __init__(self, reranker: Callable[[], rerank.model.specs.Spec | None]) -> None:
        self.counts: Counter[str] = Counter()
        try:
            self._reranker = reranker()
        except WeightsError:  # who draws with it says so
            self._reranker = None

    def about(self, plan: Plan) -> None:
        """Look at a prompt."""
        self.counts.update([*doubts(plan, self._reranker), *_dropped(plan), *_numbers(plan)])

    def about_words(self, prompts: Sequence[str]) -> None:
        """Look at the prompts of a command line: a prompt without quotes is many."""
        if len(prompts) > 1 and all(len(prompt.split()) == 1 for prompt in prompts):
            line = " ".join(prompts)
            self.counts[
                f'these are {len(prompts)} prompts of one word; for one prompt, quote it: "{line}"'
            ] += 1

    @property
    def shown(self) -> frozenset[str]:
        """The notes that `lines` tells."""
        return frozenset(line for line, _ in self.counts.most_common(NOTES_SHOWN))

    def lines(self) -> Iterator[str]:
        """Yield the notes that most prompts have, and how many are left out."""
        for line, count in self.counts.most_common(NOTES_SHOWN):
            yield line if count == 1 else f"{line} ({count} prompts)"
        if (left := len(self.counts) - NOTES_SHOWN) > 0:
            yield f"{left} other notes come with their prompts"


def dropped(name: str, context: int, text: str) -> str:
    """Say that a model does not read the end of a prompt."""
    cut = text if len(text) <= DROPPED_SHOWN else f"{text[:DROPPED_SHOWN]}…"
    return f"{name} reads {context} tokens; this end is dropped: {cut!r}"


def _dropped(plan: Plan) -> Iterator[str]:
    for spec, _ in plan.models:
        if text := family_of(spec).dropped_text(spec, plan.request.prompt):
            yield dropped(spec.name, spec.context, text)


def _numbers(plan: Plan) -> Iterator[str]:
    text = plan.request.negative_prompt
    if text is not None and NUMBER.fullmatch(text):
        yield (
            f'the negative prompt is "{text}", a text: for a number of images say --candidates, '
            "for those that are returned --top-k"
        )
