"""What a model with a small world of its own was never shown of a prompt."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import rerank.model.specs
from gen import editing
from gen.plan import Plan
from gen.settings.unread import unread_signs
from pipelines.checkpoints.configs import read_json
from pipelines.checkpoints.specs import Spec
from pipelines.diffusion.embeddings import Word, read_words

LONGEST_SHOWN = 40  # characters of a word


def doubts(plan: Plan, reranker: rerank.model.specs.Spec | None) -> Iterator[str]:
    """One line for each model that does not know all words of the prompt, with the way out, for
    signs that are not understood, and for what happens to the files of an edit."""
    yield from editing.notes(plan.request)
    yield from unread_signs(plan)
    told: set[str] = set()
    for spec in {spec.name: spec for spec, _ in plan.models}.values():
        learned = {
            part
            for word in learned_words(spec)
            for part in unknown_words(word.text, spec.vocabulary)
        }
        if words := [w for w in unknown_words(plan.words, spec.vocabulary) if w not in learned]:
            told.update(words)
            yield (
                f"{spec.name} does not know {_listed(words)}: it draws {spec.draws}; for other "
                "things name the folder of a large checkpoint with -m FOLDER"
            )
    if reranker is not None:
        words = unknown_words(plan.words, reranker.folder / "vocabulary.json")
        if unheard := [word for word in words if word not in told]:
            yield (
                f"the reranker {reranker.name} does not know {_listed(unheard)}: name the "
                "folder of another CLIP model with --reranker FOLDER"
            )


def learned_words(spec: Spec) -> list[Word]:
    """Return the words that a model learned by textual inversion. Raises WeightsError."""
    return [word for path in spec.adapters.embeddings for word in read_words(path)]


def unknown_words(prompt: str, path: Path | None) -> list[str]:
    """Return the words of the prompt that a vocabulary.json lacks, in order; none if there is no
    list."""
    known = frozenset() if path is None else _known_words(path)
    if not known:
        return []
    words = re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", prompt.lower())
    return [word for word in dict.fromkeys(words) if not _is_known(word, known)]


@cache
def _known_words(path: Path) -> frozenset[str]:
    try:
        words = read_json(path)["words"]
        return frozenset(str(word).lower() for word in words)
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()


def _is_known(word: str, known: frozenset[str]) -> bool:
    parts = re.split("['’-]", word)
    return word in known or all(part in known or part == "s" for part in parts)


def _listed(words: list[str]) -> str:
    shown = (w if len(w) <= LONGEST_SHOWN else f"{w[:LONGEST_SHOWN]}…" for w in words)
    return ", ".join(f"“{word}”" for word in shown)
