import json
from collections import Counter
from pathlib import Path

import pytest

from train.stickers.facts import Description
from train.stickers.held_out import is_held_out, is_held_out_colour
from train.stickers.prompts import (
    EVALUATION,
    FREE,
    FREE_PER_TAG,
    PER_TAG,
    TAGS,
    UNKNOWN_TAG,
    Prompt,
    from_metadata,
    make_free_prompts,
    make_prompts,
    read_prompts,
    say,
    to_lines,
    to_metadata,
    write_prompts,
)
from train.stickers.vocabulary import NOUN_THINGS, RELATIONS, SHAPE_THINGS, Thing

PROMPTS = make_prompts()


def with_tag(tag: str) -> list[Prompt]:
    return [prompt for prompt in PROMPTS if prompt.tag == tag]


def test_the_file_is_what_the_generator_writes(tmp_path: Path) -> None:
    assert EVALUATION.read_text(encoding="utf-8") == to_lines(PROMPTS)
    assert write_prompts(tmp_path / "new" / "eval.jsonl")[0].read_text() == to_lines(PROMPTS)
    assert read_prompts() == PROMPTS


def test_six_categories_in_turns() -> None:
    assert len(PROMPTS) == 240
    assert [prompt.tag for prompt in PROMPTS] == list(TAGS) * PER_TAG
    assert len({prompt.text for prompt in PROMPTS}) == 240


def test_free_wordings_ask_for_scenes_of_the_same_kinds(tmp_path: Path) -> None:
    prompts = make_free_prompts()
    assert FREE.read_text(encoding="utf-8") == to_lines(prompts)
    assert read_prompts(FREE) == prompts
    assert [prompt.tag for prompt in prompts] == [*TAGS, UNKNOWN_TAG] * FREE_PER_TAG
    assert not {prompt.text for prompt in prompts} & {prompt.text for prompt in PROMPTS}
    assert len({prompt.text for prompt in prompts}) == len(prompts)
    plain = {prompt.tag: say(prompt.description) for prompt in prompts}
    assert not {prompt.text for prompt in prompts} & set(plain.values())
    for prompt in prompts:
        assert (prompt.twin is not None) == (prompt.tag == UNKNOWN_TAG)
        if prompt.twin is not None:
            assert prompt.twin == say(prompt.description)
    pairs = [prompt.description.things for prompt in prompts if prompt.tag == "two_object"]
    assert 0.4 < sum(map(is_held_out, pairs)) / len(pairs) < 0.6


def test_every_noun_occurs_in_several_categories() -> None:
    found = Counter(thing for prompt in PROMPTS for thing in set(prompt.description.things))
    assert min(found[noun] for noun in NOUN_THINGS) >= 3
    assert {p.description.things[0] for p in with_tag("single_object") + with_tag("counting")} == (
        set(NOUN_THINGS)
    )


@pytest.mark.parametrize("tag", ["two_object", "position"])
def test_half_of_the_pairs_are_held_out(tag: str) -> None:
    told = [prompt.description for prompt in with_tag(tag)]
    assert sum(is_held_out(each.things) for each in told) == PER_TAG // 2
    assert len({frozenset(each.things) for each in told}) == PER_TAG


def test_relations_and_counts_are_balanced() -> None:
    position = [prompt.description for prompt in with_tag("position")]
    by_relation = Counter((each.relation, is_held_out(each.things)) for each in position)
    assert by_relation == {(name, held): 5 for name in RELATIONS for held in (True, False)}
    counts = Counter(prompt.description.count for prompt in with_tag("counting"))
    assert counts == {2: 10, 3: 10, 4: 10, 5: 10}


def test_every_coloured_shape_occurs_once_alone_and_twice_beside_another() -> None:
    assert {prompt.description.things for prompt in with_tag("colors")} == {
        (shape,) for shape in SHAPE_THINGS
    }
    pairs = [prompt.description.things for prompt in with_tag("color_attr")]
    assert Counter(shape for pair in pairs for shape in pair) == dict.fromkeys(SHAPE_THINGS, 2)
    assert all(a.name != b.name and a.colour != b.colour for a, b in pairs)
    assert sum(is_held_out_colour(shape) for pair in pairs for shape in pair) == 10


@pytest.mark.parametrize(
    ("description", "text", "metadata"),
    [
        (
            Description((Thing("octopus"),)),
            "an octopus",
            {"include": [{"class": "octopus", "count": 1}]},
        ),
        (
            Description((Thing("cactus"),), count=3),
            "three cacti",
            {
                "include": [{"class": "cactus", "count": 3}],
                "exclude": [{"class": "cactus", "count": 4}],
            },
        ),
        (
            Description((Thing("panda"), Thing("car")), relation="left of"),
            "a panda left of a car",
            {
                "include": [
                    {"class": "car", "count": 1},
                    {"class": "panda", "count": 1, "position": ["left of", 0]},
                ]
            },
        ),
        (
            Description((Thing("circle", "red"), Thing("star", "blue"))),
            "a red circle and a blue star",
            {
                "include": [
                    {"class": "circle", "count": 1, "color": "red"},
                    {"class": "star", "count": 1, "color": "blue"},
                ]
            },
        ),
    ],
)
def test_rows_are_geneval_rows(description: Description, text: str, metadata: dict) -> None:
    assert say(description) == text
    prompt = Prompt("tag", text, description)
    assert to_metadata(prompt) == {"tag": "tag", **metadata, "prompt": text}
    assert from_metadata(to_metadata(prompt)) == prompt


def test_rows_read_back() -> None:
    assert [from_metadata(json.loads(line)) for line in to_lines(PROMPTS).splitlines()] == PROMPTS


@pytest.mark.parametrize(
    ("include", "message"),
    [
        ([{"class": "zebra", "count": 1}], "no 'zebra'"),
        ([{"class": "panda", "count": 1, "color": "red"}], "no 'red panda'"),
        (
            [
                {"class": "bus", "count": 1},
                {"class": "panda", "count": 1, "position": ["behind", 0]},
            ],
            "'behind'",
        ),
    ],
)
def test_unknown_rows_are_refused(include: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_metadata({"tag": "x", "include": include, "prompt": "words"})
