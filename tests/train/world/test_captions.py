import random

import pytest

from train.world import words
from train.world.captions import RELATION_FORMS, STYLE_FORMS, Speaker, slip
from train.world.facts import Told, describe
from train.world.scene import draw_scene
from train.world.vocabulary import STYLES, THINGS

BY_NAME = {thing.name: number for number, thing in enumerate(THINGS)}


@pytest.fixture(scope="module")
def speaker() -> Speaker:
    return Speaker(["zorblax"], ["frumious"])


def told(*names: str, **facts: object) -> Told:
    return Told(names, tuple(BY_NAME[name] for name in names), **facts)  # type: ignore[arg-type]


def test_captions_name_what_is_told_in_many_ways(speaker: Speaker) -> None:
    rng = random.Random(0)
    said = {speaker.phrase(told("panda", style="3d"), rng) for _ in range(300)}
    assert len(said) > 150
    assert sum("panda" in text for text in said) / len(said) > 0.9  # the others have a slip
    assert sum("3d" in text or "3-d" in text for text in said) / len(said) > 0.6


def test_counts_are_said_with_plurals(speaker: Speaker) -> None:
    rng = random.Random(0)
    said = [speaker.phrase(told("fox", count=3), rng) for _ in range(200)]
    assert sum("foxes" in text for text in said) > 180
    assert sum("three" in text or "3" in text for text in said) > 180


def test_every_style_and_relation_can_be_said() -> None:
    assert STYLE_FORMS.keys() == STYLES.keys()
    assert set(RELATION_FORMS) == {"left of", "right of", "above", "below"}


def test_no_template_is_left_unfilled(speaker: Speaker) -> None:
    rng = random.Random(0)
    for _ in range(500):
        text = speaker.phrase(describe(draw_scene(rng), rng), rng)
        assert "{" not in text
        assert "  " not in text


def test_a_slip_changes_one_word() -> None:
    rng = random.Random(0)
    for _ in range(50):
        slipped = slip("a strawberry on a chair", rng).split(" ")
        differences = sum(
            a != b for a, b in zip(slipped, ["a", "strawberry", "on", "a", "chair"], strict=True)
        )
        assert differences <= 1


def test_words_without_a_drawing_have_neighbours_and_some_are_held_out() -> None:
    table, kept = words.load(), words.load(held_out=True)
    assert len(table.near) > 1000
    assert not set(table.near) & set(kept.near)
    assert table.shares.sum(1) == pytest.approx(1, abs=0.01)
    word, neighbours, shares = table.draw_near(random.Random(0))
    assert word in table.near
    assert len(neighbours) == len(shares) == words.NEIGHBOURS
