import random
from dataclasses import replace

import pytest

from train.stickers.facts import (
    CHANGES,
    Description,
    change,
    describe,
    draw_told,
    holds,
    possible_changes,
)
from train.stickers.held_out import is_held_out
from train.stickers.scene import Placed, Scene, draw_scene
from train.stickers.vocabulary import Thing

pytestmark = pytest.mark.slow

PANDA, BUS = Thing("panda"), Thing("bus")
RED, BLUE = Thing("circle", "red"), Thing("circle", "blue")
PAIR = Scene("relation", (Placed(PANDA, 0, 2, 3), Placed(BUS, 5, 2, 3)), "white", "left of")


@pytest.mark.parametrize("snap", [True, False])
def test_what_is_told_holds_and_what_is_changed_does_not(snap: bool) -> None:
    rng = random.Random(0)
    changed_facts = set()
    for _ in range(10_000):
        scene = draw_scene(rng, snap=snap, held_out=True)
        told = describe(scene, rng)
        assert holds(told, scene), (told, scene)
        for fact in possible_changes(told):
            changed = change(told, fact, rng, held_out=True)
            assert changed is not None
            assert changed != told
            assert not holds(changed, scene), (fact, told, changed)
            changed_facts.add(fact)
    assert changed_facts == set(CHANGES)


def test_a_changed_caption_of_training_is_never_held_out() -> None:
    rng = random.Random(0)
    number = 0
    while number < 10_000:
        told = describe(draw_scene(rng), rng)
        assert not is_held_out(told.things)
        for fact in possible_changes(told):
            changed = change(told, fact, rng)
            if changed is not None:
                assert not is_held_out(changed.things), changed
                number += 1


def test_nothing_but_what_is_told_may_stand_there() -> None:
    assert holds(Description((BUS, PANDA)), PAIR)
    assert not holds(Description((PANDA,)), PAIR)
    assert not holds(Description((PANDA,), count=2), PAIR)
    assert not holds(Description((PANDA, BUS, RED)), PAIR)


def test_each_fact_counts() -> None:
    told = Description((PANDA, BUS), relation="left of", ground="white")
    assert holds(told, PAIR)
    assert holds(replace(told, things=(BUS, PANDA), relation="right of"), PAIR)
    assert not holds(replace(told, relation="above"), PAIR)
    assert not holds(replace(told, ground="pink"), PAIR)
    single = Scene("single", (Placed(PANDA, 0, 0, 2),), "pink")
    assert holds(Description((PANDA,), size="small", place="top left"), single)
    assert not holds(Description((PANDA,), size="large"), single)
    assert not holds(Description((PANDA,), place="bottom"), single)


def test_colours_of_equal_shapes_cannot_be_swapped_unless_their_order_is_told() -> None:
    assert "swap" not in possible_changes(Description((RED, BLUE)))
    assert "swap" in possible_changes(Description((RED, BLUE), relation="above"))
    assert "swap" in possible_changes(Description((RED, Thing("star", "blue"))))


def test_short_descriptions_occur() -> None:
    rng = random.Random(0)
    told = [describe(draw_scene(rng), rng) for _ in range(3000)]
    bare = [each for each in told if each == Description(each.things, count=each.count)]
    assert len(bare) > 700


def test_scenes_are_drawn_of_what_is_told() -> None:
    rng = random.Random(5)
    for _ in range(60):
        told = describe(draw_scene(rng), rng)
        scenes = [draw_told(told, rng) for _ in range(4)]
        assert all(holds(told, scene) for scene in scenes)
        assert len(set(scenes)) > 1
