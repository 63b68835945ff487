from itertools import combinations

from train.stickers.held_out import is_held_out, is_held_out_colour, is_held_out_pair
from train.stickers.vocabulary import NOUN_THINGS, SHAPE_THINGS, Thing


def test_the_split_never_changes() -> None:
    """Shipped weights were trained on it: another hash would make their scores a lie."""
    assert {thing.key for thing in SHAPE_THINGS if is_held_out_colour(thing)} == {
        "black circle",
        "red square",
        "black square",
        "blue triangle",
        "orange diamond",
    }
    assert sum(is_held_out_pair(a, b) for a, b in combinations(NOUN_THINGS, 2)) == 129


def test_about_one_pair_in_eight_is_held_out_and_every_noun_has_both_kinds() -> None:
    for noun in NOUN_THINGS:
        number = sum(is_held_out_pair(noun, other) for other in NOUN_THINGS)
        assert 0 < number < len(NOUN_THINGS) / 3, noun.key


def test_a_pair_has_no_order_and_needs_two_different_nouns() -> None:
    for first, second in combinations(NOUN_THINGS, 2):
        assert is_held_out_pair(first, second) == is_held_out_pair(second, first)
    assert not any(is_held_out_pair(noun, noun) for noun in NOUN_THINGS)
    red = Thing("square", "red")
    assert not any(is_held_out_pair(noun, red) for noun in NOUN_THINGS)


def test_one_held_out_combination_is_enough() -> None:
    pair = next(p for p in combinations(NOUN_THINGS, 2) if is_held_out_pair(*p))
    other = next(n for n in NOUN_THINGS if n not in pair)
    assert is_held_out([other, *pair])
    assert is_held_out([Thing("circle", "black")])
    assert not is_held_out([pair[0], pair[0], Thing("circle", "red")])
