from itertools import combinations

import pytest
import torch

from train.stickers.atlas import ATLAS, sprites
from train.stickers.vocabulary import (
    COLOURS,
    GROUNDS,
    NOUNS,
    SHAPES,
    SIZES,
    THINGS,
    Thing,
    article,
    category,
)


def test_the_world_is_as_large_as_promised() -> None:
    assert len(NOUNS) >= 48
    assert len(SHAPES) >= 5
    assert len(COLOURS) == 8
    assert len(GROUNDS) >= 6
    assert len(THINGS) == len(NOUNS) + len(SHAPES) * len(COLOURS)
    assert {noun.category for noun in NOUNS} == {
        "animal",
        "food",
        "vehicle",
        "plant",
        "sky",
        "thing",
    }


def test_every_word_names_one_thing() -> None:
    words = [
        word
        for known in (*NOUNS, *SHAPES)
        for word in {known.name, known.plural, *(w for pair in known.synonyms for w in pair)}
    ]
    words += [word for words_of_size in SIZES.values() for word in words_of_size]
    words += [word for ground in GROUNDS for word in (ground.name, *ground.synonyms)]
    # "pink" and "white" are grounds alone: no shape has these colours
    words += [colour.name for colour in COLOURS]
    assert len(words) == len(set(words))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("apple", "an"),
        ("umbrella", "an"),
        ("octopus", "an"),
        ("image of a fox", "an"),
        ("bus", "a"),
        ("orange circle", "an"),
        ("blue umbrella", "a"),
    ],
)
def test_article(words: str, expected: str) -> None:
    assert article(words) == expected


def test_keys_and_categories() -> None:
    assert Thing("circle", "red").key == "red circle"
    assert category(Thing("circle", "red")) == "shape"
    assert category(Thing("panda")) == "animal"
    assert len({thing.key for thing in THINGS}) == len(THINGS)


def test_the_atlas_is_small() -> None:
    assert ATLAS.stat().st_size < 2_000_000


@pytest.mark.parametrize("side", [16, 24, 40])
def test_sprites_are_premultiplied_and_unlike_each_other(side: int) -> None:
    tiles = sprites(side)
    assert tiles.shape == (len(THINGS), 4, side, side)
    rgb, alpha = tiles[:, :3], tiles[:, 3:]
    assert tiles.min() >= 0
    assert tiles.max() <= 1
    assert (rgb <= alpha + 1 / 255 + 1e-6).all()  # premultiplied by Pillow to whole numbers
    assert (alpha.mean((1, 2, 3)) > 0.1).all()  # nothing is a mere line
    on_white = (rgb + 1 - alpha).flatten(1)
    for first, second in combinations(range(len(THINGS)), 2):
        difference = (on_white[first] - on_white[second]).square().mean().sqrt()
        assert difference > 0.05, (THINGS[first].key, THINGS[second].key)


@pytest.mark.parametrize("side", [24, 40])
def test_larger_sprites_have_an_empty_margin(side: int) -> None:
    inner = torch.zeros(side, side, dtype=torch.bool)
    inner[1:-1, 1:-1] = True
    assert sprites(side)[:, :, ~inner].abs().max() == 0
