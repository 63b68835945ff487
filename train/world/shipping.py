"""What the world's weights know, for tools that know nothing of this world: vocabulary.json."""

from __future__ import annotations

import random
import re
from typing import Any

from train.world import words
from train.world.captions import PLACE_FORMS, RELATION_FORMS, STYLE_FORMS, Speaker
from train.world.facts import describe
from train.world.lexicon import plural
from train.world.scene import draw_scene
from train.world.vocabulary import (
    ACCEPTED,
    BACKGROUND_WORDS,
    BACKGROUNDS,
    COLOURS,
    NOUN_NUMBERS,
    NOUNS,
    NUMBERS,
    SHAPES,
    STYLES,
    article,
)

CAPTIONS = 40_000  # among which the words are looked for


def vocabulary() -> dict[str, Any]:
    """Return the content of vocabulary.json, in the format of `train.shipping.world_vocabulary`,
    with the styles beside it."""
    return {
        "nouns": [
            _named(thing.name, thing.also)
            | {"plural": thing.plural, "category": thing.category, "codepoint": thing.key}
            for thing in NOUNS
        ],
        "shapes": [_named(name, also) for name, also in SHAPES.items()],
        "colours": [{"name": name, "rgb": list(rgb)} for name, rgb in COLOURS.items()],
        "grounds": [
            {"name": name, "rgb": list(rgb), "synonyms": list(BACKGROUND_WORDS[name])}
            for name, rgb in BACKGROUNDS.items()
        ],
        "styles": list(STYLES),
        "relations": {name: list(forms) for name, forms in RELATION_FORMS.items()},
        "places": {name: list(forms) for name, forms in PLACE_FORMS.items()},
        "counts": {NUMBERS[count]: count for count in range(1, 6)},
        "words": known_words(),
    }


def _named(name: str, also: tuple[str, ...]) -> dict[str, Any]:
    return {
        "name": name,
        "plural": plural(name),
        "article": article(name),
        "synonyms": [{"name": word, "plural": plural(word)} for word in also],
    }


def known_words() -> list[str]:
    """Return every word that tells something: those of all things, and of captions without
    fillers."""
    speaker, rng = Speaker(["this"], ["this"], ["this"]), random.Random(0)
    texts = [*ACCEPTED, *(plural(word) for word in ACCEPTED), *words.load().near]
    texts += [form for forms in STYLE_FORMS.values() for form in forms]
    for _ in range(CAPTIONS):
        scene = draw_scene(rng, NOUN_NUMBERS, held_out=True)
        texts.append(speaker.phrase(describe(scene, rng), rng))
    return sorted({word for text in texts for word in re.findall(r"[a-z0-9]+", text)})
