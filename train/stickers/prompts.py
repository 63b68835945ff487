"""The evaluation set: 240 prompts in the format of GenEval (Ghosh et al., arXiv 2310.11513).

Six categories of 40, in turns, so that any first rows are balanced. Half of the pairs of nouns were
never trained on; every coloured shape occurs once alone and twice beside another, the held-out
colours among them. Every noun occurs.

The same kinds of scenes are asked for once more in free wordings, which stand in
`train.world.prompts` and in no training: 34 of each category, and 34 of `unknown`, whose words mean
nothing here; their twins say the same without those words. Never train or tune on either file.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from train.stickers.facts import Description
from train.stickers.held_out import is_held_out
from train.stickers.vocabulary import (
    NOUN_BY_NAME,
    NOUN_THINGS,
    NUMBERS,
    RELATIONS,
    SHAPE_BY_NAME,
    SHAPE_THINGS,
    Thing,
    article,
)
from train.world.prompts import (
    FREE_COLOUR,
    FREE_COUNT,
    FREE_RELATION,
    FREE_SINGLE,
    FREE_TWO,
    UNKNOWN,
)

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
PER_TAG = 40
UNKNOWN_TAG = "unknown"
FREE_PER_TAG = 34  # also of `unknown`
FREE_SEED = 2  # of the scenes; 0 are those of `EVALUATION`, 1 those of the calibration
OPENINGS = ("", "a photo of ", "a picture of ", "a sticker of ")
EVALUATION = Path(__file__).parents[2] / "prompts" / "eval.jsonl"
FREE = EVALUATION.with_name("free.jsonl")


@dataclass(frozen=True)
class Prompt:
    """One row: its category, the words, what must be seen; and for words that mean nothing, the
    same without them."""

    tag: str
    text: str
    description: Description
    twin: str | None = None


def make_prompts(seed: int = 0) -> list[Prompt]:
    """Return the evaluation set, the same for the same seed."""
    rng = random.Random(seed)
    nouns = rng.sample(NOUN_THINGS, len(NOUN_THINGS))
    pairs = _pairs(rng)
    relations = list(RELATIONS) * (PER_TAG // len(RELATIONS))  # each in every kind of pair
    described = {
        "single_object": [Description((noun,)) for noun in nouns[:PER_TAG]],
        "two_object": [Description(pair) for pair in pairs[:PER_TAG]],
        "counting": [
            Description((noun,), count=2 + index % 4)
            for index, noun in enumerate(reversed(nouns[-PER_TAG:]))
        ],
        "colors": [Description((shape,)) for shape in rng.sample(SHAPE_THINGS, PER_TAG)],
        "position": [
            Description(pair, relation=relation)
            for pair, relation in zip(pairs[PER_TAG:], relations, strict=True)
        ],
        "color_attr": [Description(pair) for pair in _shape_pairs(rng)],
    }
    return [
        Prompt(tag, rng.choice(OPENINGS) + say(described[tag][index]), described[tag][index])
        for index in range(PER_TAG)
        for tag in TAGS
    ]


def make_free_prompts() -> list[Prompt]:
    """Return the same kinds of scenes in free wordings, and those with unknown words."""
    rng = random.Random(FREE_SEED)
    scenes = make_prompts(FREE_SEED)[: FREE_PER_TAG * len(TAGS)]
    nouns = rng.sample(NOUN_THINGS, FREE_PER_TAG)
    prompts = []
    for index, noun in enumerate(nouns):
        for scene in scenes[index * len(TAGS) : (index + 1) * len(TAGS)]:
            text = say_freely(scene.description, scene.tag, index, rng)
            prompts.append(Prompt(scene.tag, text, scene.description))
        told = Description((noun,))
        text = UNKNOWN[index % len(UNKNOWN)].format(x=noun.key, ax=say(told))
        prompts.append(Prompt(UNKNOWN_TAG, text, told, twin=say(told)))
    return prompts


def say_freely(description: Description, tag: str, index: int, rng: random.Random) -> str:
    """Return words of no grammar that is trained, each form as often as any other."""
    forms = {
        "single_object": FREE_SINGLE,
        "two_object": FREE_TWO,
        "counting": FREE_COUNT,
        "colors": FREE_COLOUR,
        "position": FREE_RELATION.get(description.relation or "", ()),
        "color_attr": FREE_TWO,
    }[tag]
    form = rng.choice(forms) if tag == "position" else forms[index % len(forms)]
    first, *others = description.things
    parts = {"x": first.key, "ax": f"{article(first.key)} {first.key}", "xs": _plural(first)}
    for second in others:
        parts |= {"y": second.key, "ay": f"{article(second.key)} {second.key}"}
    return form.format(**parts, n=NUMBERS[description.count], s=first.name, c=first.colour or "")


def _pairs(rng: random.Random) -> list[tuple[Thing, Thing]]:
    """Pairs of nouns for two categories: four held-out ones, four others, and so on, each noun
    about as often as any other."""
    pools: dict[bool, list[tuple[Thing, Thing]]] = {True: [], False: []}
    for pair in combinations(NOUN_THINGS, 2):
        pools[is_held_out(pair)].append(rng.choice((pair, pair[::-1])))
    used = dict.fromkeys(NOUN_THINGS, 0)
    chosen = []
    for index in range(2 * PER_TAG):
        pool = pools[index // len(RELATIONS) % 2 == 0]
        pair = min(pool, key=lambda pair: (used[pair[0]] + used[pair[1]], rng.random()))
        pool.remove(pair)
        for noun in pair:
            used[noun] += 1
        chosen.append(pair)
    return chosen


def _shape_pairs(rng: random.Random) -> list[tuple[Thing, Thing]]:
    """Return every coloured shape twice, each time with one of another form and another colour."""
    firsts, seconds = (rng.sample(SHAPE_THINGS, PER_TAG) for _ in range(2))
    while alike := [
        index
        for index, (first, second) in enumerate(zip(firsts, seconds, strict=True))
        if first.name == second.name or first.colour == second.colour
    ]:
        one, other = alike[0], rng.randrange(PER_TAG)
        seconds[one], seconds[other] = seconds[other], seconds[one]
    return list(zip(firsts, seconds, strict=True))


def say(description: Description) -> str:
    """Return the plain words of GenEval: `three apples`, `a panda left of a car`."""
    if description.count > 1:
        return f"{NUMBERS[description.count]} {_plural(description.things[0])}"
    words = [f"{article(thing.key)} {thing.key}" for thing in description.things]
    return f" {description.relation or 'and'} ".join(words)


def _plural(thing: Thing) -> str:
    if thing.colour is None:
        return NOUN_BY_NAME[thing.name].plural
    return f"{thing.colour} {SHAPE_BY_NAME[thing.name].plural}"


def to_metadata(prompt: Prompt) -> dict[str, Any]:
    """Return a row as GenEval writes it: the words, what must be there, and for a count what not.

    Of a relation the second thing comes first, since `position` points back to it.
    """
    told = prompt.description
    include = [_included(thing, told.count) for thing in told.things]
    if told.relation is not None:
        include = [include[1], include[0] | {"position": [told.relation, 0]}]
    row: dict[str, Any] = {"tag": prompt.tag, "include": include}
    if told.count > 1:
        row["exclude"] = [_included(told.things[0], told.count + 1)]
    twin = {} if prompt.twin is None else {"twin": prompt.twin}
    return row | {"prompt": prompt.text, **twin}


def _included(thing: Thing, count: int) -> dict[str, Any]:
    colour = {} if thing.colour is None else {"color": thing.colour}
    return {"class": thing.name, "count": count} | colour


def from_metadata(row: dict[str, Any]) -> Prompt:
    """Return a row of the format that `to_metadata` writes.

    Raises
    ------
    ValueError : a thing, colour or position that the world does not know.
    """
    things = [Thing(each["class"], each.get("color")) for each in row["include"]]
    for thing in things:
        if thing not in NOUN_THINGS + SHAPE_THINGS:
            raise ValueError(f"there is no {thing.key!r} in the world ({row['prompt']!r})")
    relation = None
    if "position" in row["include"][-1]:
        relation, anchor = row["include"][-1]["position"]
        if relation not in RELATIONS or anchor != 0:
            raise ValueError(f"position {relation!r} of {anchor} is unknown ({row['prompt']!r})")
        things.reverse()
    told = Description(tuple(things), count=row["include"][0]["count"], relation=relation)
    return Prompt(row["tag"], row["prompt"], told, row.get("twin"))


def to_lines(prompts: list[Prompt]) -> str:
    """Return the prompts as JSONL."""
    return "".join(json.dumps(to_metadata(prompt)) + "\n" for prompt in prompts)


def read_prompts(path: Path = EVALUATION) -> list[Prompt]:
    """Return the prompts of a JSONL file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [from_metadata(json.loads(line)) for line in lines]


def write_prompts(path: Path = EVALUATION) -> list[Path]:
    """Write the evaluation set to `path`, and the one in free wordings beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    free = path.with_name(FREE.name)
    path.write_text(to_lines(make_prompts()), encoding="utf-8")
    free.write_text(to_lines(make_free_prompts()), encoding="utf-8")
    return [path, free]
