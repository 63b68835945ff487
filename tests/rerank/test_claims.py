import json
import time
from pathlib import Path

import pytest

from rerank import WeightsError
from rerank.claims.claims import Claims, split
from rerank.claims.sentences import MOST_THINGS
from rerank.claims.vocabulary import (
    ENGLISH,
    Vocabulary,
    article,
    pluralise,
    read_vocabulary,
    singularise,
)
from rerank.model.specs import SPECS

ROWS = [
    json.loads(line)
    for line in (Path(__file__).parent / "free_sentences.jsonl").read_text("utf-8").splitlines()
]


@pytest.fixture(scope="module")
def stickers() -> Vocabulary:
    return read_vocabulary(SPECS["stickers-clip"].folder)


def changed(claims: Claims, kind: str) -> set[str]:
    return {text for claim in claims.claims if claim.kind == kind for text in claim.changed}


def told(claims: Claims) -> list[str]:
    return [f"{claim.kind} {claim.text}" for claim in claims.claims]


@pytest.mark.parametrize("row", ROWS, ids=[row["text"] for row in ROWS])
def test_free_sentences(row: dict[str, object]) -> None:
    found = split(str(row["text"]), ENGLISH)
    assert sorted(told(found)) == sorted(row["claims"])  # type: ignore[arg-type]
    assert list(found.unparsed) == row["unsplit"]


def test_there_are_fifty_free_sentences() -> None:
    assert len({row["text"] for row in ROWS}) == 50


@pytest.mark.parametrize(
    "text", ["", " ", ",", "the", "of of of", "left of", "12", "🐼", "a " * 99]
)
def test_odd_texts(text: str, stickers: Vocabulary) -> None:
    for vocabulary in (ENGLISH, stickers):
        for claim in split(text, vocabulary).claims:
            assert text not in claim.changed


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("a red apple", "colour", {"an orange apple", "a blue apple"}),
        ("An orange cup", "colour", {"A red cup"}),
        ("three dogs", "count", {"one dog", "two dogs", "six dogs"}),
        ("one box", "count", {"two boxes"}),
        ("three boxes of chocolate", "count", {"one box of chocolate"}),
        ("a large house", "size", {"a small house"}),
        ("a dog under a chair", "relation", {"a dog above a chair", "a chair under a dog"}),
        ("a man riding a horse", "relation", {"a horse riding a man"}),
        ("an old cat", "object", {"a dog", "a car"}),
        ("a cat on a white background", "ground", {"a cat on a black background"}),
        ("a cat at the top left", "place", {"a cat on the right", "a cat in the middle"}),
        ("a red cube and a blue ball", "colour", {"a blue cube and a red ball"}),
    ],
)
def test_facts_are_exchanged_in_the_words_of_the_prompt(
    text: str, kind: str, expected: set[str]
) -> None:
    assert expected <= changed(split(text, ENGLISH), kind)


def test_places_that_may_both_be_true_are_not_exchanged(stickers: Vocabulary) -> None:
    found = changed(split("a fox on the left", stickers), "place")
    assert "a fox in the top left corner" not in found
    assert {"a fox on the right", "a fox in the top right corner"} <= found
    assert "a fox at the top" not in found


def test_a_closed_world(stickers: Vocabulary) -> None:
    found = split("a small hamburger beneath two kittens, mint background", stickers)
    assert told(found) == [
        "object burger", "size small burger",
        "object cat", "count 2 cat", "relation burger below cat", "ground light green",
    ]  # fmt: skip
    assert "a small pizza beneath two kittens, mint background" in changed(found, "object")
    assert "a small hamburger above two kittens, mint background" in changed(found, "relation")
    assert found.unparsed == ()


def test_an_article_is_a_number_where_a_single_thing_is_named(stickers: Vocabulary) -> None:
    assert changed(split("an apple", stickers), "count") == {
        "two apples", "three apples", "four apples", "five apples",
    }  # fmt: skip
    assert "count" not in {claim.kind for claim in split("an apple and a bus", stickers).claims}
    assert "count" not in {claim.kind for claim in split("an apple", ENGLISH).claims}


def test_shapes_are_exchanged_with_their_colour(stickers: Vocabulary) -> None:
    found = changed(split("a red circle", stickers), "object")
    assert {"a red square", "a panda", "an apple"} <= found
    assert "a red panda" not in found
    assert {"a blue star", "an orange star"} <= changed(split("a fox", stickers), "object")


def test_a_relation_said_behind_both(stickers: Vocabulary) -> None:
    found = split("a cat with a dog to its left", ENGLISH)
    assert "relation dog left of cat" in told(found)
    assert "a cat with a dog to its right" in changed(found, "relation")


def test_versions_are_few_and_always_the_same(stickers: Vocabulary) -> None:
    claims = split("a panda to the left of a red circle on white", stickers)
    few = claims.changed(3)
    assert few == split(claims.prompt, stickers).changed(3)
    assert len(few) == len(set(few)) == 3 * len(claims.claims)
    assert claims.prompt not in few


def test_a_damaged_vocabulary_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "vocabulary.json").write_text('{"nouns": 7}')
    with pytest.raises(WeightsError, match=r"vocabulary\.json: not a vocabulary"):
        read_vocabulary(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "," * 10_000,
        ", " * 5000,
        " " * 10_000,
        "([" * 5000,
        "x" * 10_000,
        "bowl of " * 1250,
        "left of " * 1250,
        "a red ball, a blue ball, " * 400,
        "a, " * 3333,
    ],
    ids=lambda value: value[:9],
)
def test_hostile_texts_take_no_time(text: str, stickers: Vocabulary) -> None:
    for vocabulary in (ENGLISH, stickers):
        begun = time.process_time()
        assert len(split(text, vocabulary).claims) < 200
        assert time.process_time() - begun < 20  # what is quadratic takes minutes


def test_more_things_than_anybody_asks_for_are_left_unparsed() -> None:
    found = split("a cat, " * 40, ENGLISH)
    assert len(found.claims) == MOST_THINGS
    assert len(found.unparsed) == 40 - MOST_THINGS


def test_a_noun_of_nouns_is_one_thing() -> None:
    assert told(split("a bowl of cups of tea", ENGLISH)) == ["object bowl of cups of tea"]
    assert split("a bowl of", ENGLISH).unparsed == ("of",)


def test_words() -> None:
    for one, many in (("dog", "dogs"), ("box", "boxes"), ("berry", "berries"), ("day", "days")):
        assert pluralise(one) == many
        assert singularise(many) == one
    assert singularise("glass") == "glass"
    assert [article(word) for word in ("apple", "hourglass", "unicorn", "box")] == [
        "an", "an", "a", "a",
    ]  # fmt: skip
