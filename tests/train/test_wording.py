import random

import pytest

from train.stickers.captions import phrase
from train.stickers.facts import Description, describe
from train.stickers.prompts import FREE, read_prompts
from train.stickers.scene import draw_scene
from train.stickers.vocabulary import THINGS, Thing
from train.stickers.wording import Wording, invented, number, other_words, told
from train.world import words
from train.world.held_out import chosen
from train.world.vocabulary import BACKGROUNDS
from train.world.vocabulary import THINGS as WORLD


@pytest.fixture(scope="module")
def free() -> Wording:
    return Wording(1.0)


def test_things_are_those_of_the_world() -> None:
    numbers = [number(thing) for thing in THINGS]
    assert len(set(numbers)) == len(THINGS)
    assert WORLD[number(Thing("panda"))].name == "panda"
    assert WORLD[number(Thing("star", "brown"))].name == "brown star"


def test_facts_stay_what_they_are() -> None:
    rng = random.Random(0)
    for _ in range(500):
        description = describe(draw_scene(rng), rng)
        facts = told(description, rng)
        assert facts.things == tuple(map(number, description.things))
        assert (facts.count, facts.relation) == (description.count, description.relation)
        assert (facts.size, facts.place) == (description.size, description.place)
        assert (facts.background is None) == (description.ground is None)
        assert facts.background in (None, *BACKGROUNDS)


def test_each_other_word_means_one_thing_and_some_are_held_out() -> None:
    by_name = other_words()
    every = [word for found in by_name.values() for word in found]
    assert len(every) == len(set(every)) > 60
    assert not set(every) & set(by_name)
    assert "toad" in by_name["frog"]
    assert "flower" not in every  # a sunflower, or a tulip
    also = {word for thing in THINGS[:48] for word in WORLD[number(thing)].also}
    held = {word for word in also if chosen(f"word:{word}")}
    ours = {phrase for thing in by_name for phrase in by_name[thing]}
    assert len(held) > 5
    assert len(held & ours) < len(held)


def test_a_share_is_free(free: Wording) -> None:
    description, rng = Description((Thing("panda"),)), random.Random(0)
    own = {phrase(description, random.Random(seed)) for seed in range(300)}
    mixed = [Wording(0.6).say(description, random.Random(seed)) for seed in range(300)]
    assert 0.3 < sum(text in own for text in mixed) / len(mixed) < 0.6
    assert sum(free.say(description, rng) in own for _ in range(200)) < 60
    assert Wording(0.0).say(description, random.Random(3)) == phrase(
        description, _after_one(random.Random(3))
    )


def _after_one(rng: random.Random) -> random.Random:
    rng.random()
    return rng


def test_words_that_mean_nothing_tell_nothing(free: Wording) -> None:
    telling = {"red", "left", "above", "two", "small", "white"} | {t.name for t in THINGS}
    telling |= {"foxes", "toad", "apples"}
    assert not telling & set(free.speaker.unknown)
    made = {invented(random.Random(seed)) for seed in range(300)}
    assert len(made) > 250
    assert len(made - set(words.load().unknown)) > 250


def test_no_evaluated_prompt_is_said(free: Wording) -> None:
    """Free wordings of the evaluation set come from forms that the speaker has not."""
    asked = read_prompts(FREE)
    said = {
        free.say(prompt.description, random.Random(seed)) for prompt in asked for seed in range(20)
    }
    assert len({prompt.text.lower() for prompt in asked} & said) <= 0.02 * len(asked)
