"""Words for things: how each is usually called, what else it is called, what kinds there are.

`build` writes things.tsv, the table that everything else reads, from concepts.tsv, from WordNet and
from names.toml. A word is kept only if it is common enough to be one piece of CLIP's byte-pair
vocabulary; a two-word name needs two such words.
"""

from __future__ import annotations

import gzip
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from train.world import wordnet
from train.world.concepts import CONCEPTS, Concept
from train.world.wordnet import WordNet

THINGS = Path(__file__).with_name("things.tsv")
NAMES = Path(__file__).with_name("names.toml")
MOST_WORDS = 16  # of one kind for a thing
COMMON_TAG = 4  # a tag that more things carry says too little

PARTS: Mapping[str, tuple[int, ...]] = {
    "animals & nature": (wordnet.ANIMAL, wordnet.PLANT),
    "food & drink": (wordnet.FOOD, wordnet.PLANT, wordnet.ARTIFACT),
    "travel & places": (wordnet.ARTIFACT, wordnet.OBJECT, wordnet.PHENOMENON),
    "objects": (wordnet.ARTIFACT, wordnet.OBJECT),
    "activities": (wordnet.ARTIFACT, wordnet.PLANT),
    "people": (wordnet.PERSON, wordnet.BODY),
    "smileys": (wordnet.ARTIFACT,),
}
# Endings that make a plural in another way than by rule; fish stays fish.
IRREGULAR: Mapping[str, str] = {
    "mouse": "mice", "goose": "geese", "foot": "feet", "tooth": "teeth", "child": "children",
    "man": "men", "woman": "women", "person": "people", "ox": "oxen", "leaf": "leaves",
    "loaf": "loaves", "knife": "knives", "wolf": "wolves", "elf": "elves", "calf": "calves",
    "scarf": "scarves", "shelf": "shelves", "cactus": "cacti", "dice": "dice", "fish": "fish",
    "sheep": "sheep", "deer": "deer", "shrimp": "shrimp", "squid": "squid", "bison": "bison",
    "sushi": "sushi", "bread": "breads", "up": "up", "potato": "potatoes", "tomato": "tomatoes",
    "mango": "mangoes", "volcano": "volcanoes", "tornado": "tornadoes", "hero": "heroes",
}  # fmt: skip
# Words behind which a name goes on without changing.
JOINTS = "of|with|behind|in|on|a|holding|pointing|tilted|without|gesturing|getting"


def plural(name: str) -> str:
    """Return the plural of `name`: of the word before `of`, `with`, `in`, … if there is one."""
    found = re.match(rf"(.+?)( (?:{JOINTS}) .*|$)", name)
    assert found is not None
    head, joint = found.groups()
    *before, word = head.split(" ")
    return " ".join([*before, _plural_word(word)]) + joint


def _plural_word(word: str) -> str:
    for ending, changed in IRREGULAR.items():
        if word == ending or (len(ending) > 3 and word.endswith(ending)):
            return word.removesuffix(ending) + changed
    if word.endswith(("glasses", "shoes", "ies", "pants", "jeans", "shorts", "scissors")):
        return word
    if re.search(r"(s|x|z|ch|sh)$", word):
        return word + "es"
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + "s"


def common_words(merges: Path) -> frozenset[str]:
    """Return the whole words of CLIP's byte-pair vocabulary (bpe_simple_vocab_16e6.txt.gz)."""
    lines = gzip.decompress(merges.read_bytes()).decode().splitlines()[1 : 49152 - 256 - 2 + 1]
    pieces = ("".join(line.split()) for line in lines)
    ends = (piece.removesuffix("</w>") for piece in pieces if piece.endswith("</w>"))
    return frozenset(word for word in ends if word.isalpha() and len(word) > 2)


def build(merges: Path, out: Path = THINGS) -> Path:
    """Write things.tsv. Needs WordNet in the cache and CLIP's merges, to know common words."""
    nouns, common = WordNet(), common_words(merges)
    concepts = [concept for concept in CONCEPTS if concept.category != "people-variant"]
    names = [name_of(concept) for concept in concepts]
    tags = Counter(tag for concept in concepts for tag in set(concept.tags))
    lists = {name: set(those) for name, those in _tables()["first"].items()}
    lines = ["codepoint\tname\tplural\tcategory\tfirst\talso\tkinds\ttags"]
    for concept, name in zip(concepts, names, strict=True):
        by_category = concept.category in ("animals & nature", "food & drink")
        first = concept.name in lists["chosen"]
        first |= by_category and concept.name not in lists["left_out"]
        stage = 2 if concept.name in lists["early"] else int(first)
        taken = {name, *names}
        also = _kept(_tables()["also"].get(name, "").split(", "), set())
        same, kinds = _words_of(nouns, concept, name)
        also = list(dict.fromkeys([*also, *_kept(_common(same, common), taken)]))[:MOST_WORDS]
        kinds = _kept(_common(kinds, common), {*taken, *also})[:MOST_WORDS]
        loose = [tag for tag in concept.tags if tags[tag] < COMMON_TAG and tag in nouns.offsets]
        loose = _kept(_common(loose, common), {*taken, *also, *kinds})[:MOST_WORDS]
        columns = ("|".join(words) for words in (also, kinds, loose))
        row = (concept.codepoint, name, plural(name), concept.category, str(stage), *columns)
        lines.append("\t".join(row))
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return out


def name_of(concept: Concept) -> str:
    """Return how people call a thing."""
    name = str(_tables()["renamed"].get(concept.name, concept.name))
    return name.replace("’", "'").replace(": ", " with ").lower()


@cache
def _tables() -> dict[str, Any]:
    """Return names.toml: names as people say them, further words, and which things come first."""
    return tomllib.loads(NAMES.read_text(encoding="utf-8"))


def _words_of(nouns: WordNet, concept: Concept, name: str) -> tuple[list[str], list[str]]:
    """Return WordNet's other words for a thing, and its words for kinds of it."""
    parts = PARTS[concept.category]
    spoken = name.removesuffix(" face").removeprefix("pair of ").removeprefix("pile of ")
    offset = nouns.first(spoken, parts)
    if offset is None:
        return [], []
    kinds = [
        word
        for below in nouns.below(offset)
        for word in nouns.senses[below].words
        if nouns.offsets.get(word.lower(), (0,))[0] == below  # not a rare meaning of the word
    ]
    return list(nouns.senses[offset].words), kinds


def _common(words: Iterable[str], common: frozenset[str]) -> list[str]:
    return [word for word in words if all(part in common for part in word.split(" "))]


def _kept(words: Iterable[str], taken: set[str]) -> list[str]:
    return [word for word in dict.fromkeys(words) if word and word not in taken]
