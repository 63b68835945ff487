import random
import re

import pytest

from train.stickers.captions import phrase
from train.stickers.facts import Description, describe
from train.stickers.scene import draw_scene
from train.stickers.vocabulary import NOUNS, NUMBERS, SHAPES, Thing
from train.tokenizer import CONTEXT

VOWEL = re.compile(r"\b(an?) (\w)(\w?)")


@pytest.fixture(scope="module")
def captions() -> list[tuple[Description, str]]:
    rng = random.Random(0)
    told = [describe(draw_scene(rng, held_out=True), rng) for _ in range(10_000)]
    return [(each, phrase(each, rng)) for each in told]


def test_articles_fit_the_sound(captions: list[tuple[Description, str]]) -> None:
    for _, caption in captions:
        for found, first, second in VOWEL.findall(caption):
            vowel = first in "aeio" or first + second == "um"
            assert found == ("an" if vowel else "a"), caption


def test_captions_are_tidy_and_short(captions: list[tuple[Description, str]]) -> None:
    for _, caption in captions:
        assert caption == caption.strip()
        assert "  " not in caption
        assert " ," not in caption
        assert "{" not in caption
        # With start and end; every word and comma is one token, hyphens split a few.
        assert len(re.findall(r"\w+|[^\w\s]", caption)) + 2 <= CONTEXT, caption


def test_plurals_follow_numbers(captions: list[tuple[Description, str]]) -> None:
    known = {each.name: each for each in (*NOUNS, *SHAPES)}
    for told, caption in captions:
        each = known[told.things[0].name]
        singulars = {each.name, *(one for one, _ in each.synonyms)}
        plurals = {each.plural, *(many for _, many in each.synonyms)}
        if told.count > 1:
            assert any(re.search(rf"\b{word}\b", caption) for word in plurals), caption
            numbers = rf"\b({NUMBERS[told.count]}|{told.count}|pair of)\b"
            assert re.search(numbers, caption), caption
            assert not re.search(r"\b(there is|one)\b", caption), caption
        else:
            assert any(re.search(rf"\b{word}\b", caption) for word in singulars), caption
            assert "there are" not in caption


def test_everything_told_is_said(captions: list[tuple[Description, str]]) -> None:
    for told, caption in captions:
        for thing in told.things:
            assert thing.colour is None or thing.colour in caption
        if told.size == "medium":
            assert "medium-sized" in caption
        if told.ground is None:
            assert "background" not in caption
            assert "ground" not in caption


def test_short_prompts_occur(captions: list[tuple[Description, str]]) -> None:
    texts = {caption for _, caption in captions}
    assert {"a panda", "three apples", "a red circle"} & texts
    assert sum(len(text.split()) <= 3 for text in texts) > 100


def test_a_sentence_has_no_opening(captions: list[tuple[Description, str]]) -> None:
    """ "A photo of a cat is above a dog" would put the photo above the dog."""
    openings = r"^an? (picture|photo|image|sticker|drawing|illustration|cartoon) of"
    assert any(" is " in caption for _, caption in captions)
    for _, caption in captions:
        assert not (re.match(openings, caption) and " is " in caption), caption


def test_both_ends_of_a_relation() -> None:
    told = Description((Thing("panda"), Thing("bus")), relation="left of")
    texts = {phrase(told, random.Random(seed)) for seed in range(300)}
    assert "a panda to the left of a bus" in texts
    assert "a bus with a panda to its left" in texts
    assert not any(re.match(r".*bus.*left of.*panda", text) for text in texts)
