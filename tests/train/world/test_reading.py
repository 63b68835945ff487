import pytest

from train.shipping import world_vocabulary
from train.world.facts import Told
from train.world.reading import Read, is_right
from train.world.shipping import vocabulary
from train.world.text import classes
from train.world.vocabulary import THINGS

BY_NAME = {thing.name: number for number, thing in enumerate(THINGS)}


def told(*words: str, **facts: object) -> Told:
    return Told(words, tuple(BY_NAME[word] for word in words), **facts)  # type: ignore[arg-type]


def read(asked: Told, *names: str) -> Read:
    return Read(tuple(BY_NAME[name] for name in names), classes(asked))


def test_two_things_may_be_read_in_any_order_but_not_where_a_relation_is_told() -> None:
    pair, above = told("panda", "car"), told("panda", "car", relation="above")
    assert is_right(read(pair, "car", "panda"), pair)
    assert is_right(read(above, "panda", "car"), above)
    assert not is_right(read(above, "car", "panda"), above)
    below = told("panda", "car", relation="below")
    assert is_right(read(below, "car", "panda"), below)


@pytest.mark.parametrize("names", [(), ("fox",), ("panda", "car")])
def test_other_things_are_wrong(names: tuple[str, ...]) -> None:
    asked = told("panda")
    assert not is_right(read(asked, *names), asked)


def test_other_facts_are_wrong() -> None:
    three, two = told("fox", count=3), told("fox", count=2)
    assert not is_right(read(two, "fox"), three)


def test_the_vocabulary_file_has_the_format_of_the_small_world(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("train.world.shipping.CAPTIONS", 300)
    known, small = vocabulary(), world_vocabulary()
    assert known.keys() == small.keys() | {"styles"}
    for name in ("nouns", "shapes"):
        assert known[name][0].keys() == small[name][0].keys()
    assert {"panda", "draw", "kitten"} <= set(known["words"])
