import random

from train.world.facts import CHANGES, change, describe, holds, possible_changes, word_for
from train.world.held_out import is_held_out, is_held_out_word
from train.world.scene import CELLS, KINDS, draw_scene, edit, is_visible, pack_scene
from train.world.vocabulary import FIRST, SHAPE_NUMBERS, THINGS, has_style

NUMBER = 400


def scenes(number: int = NUMBER, *, held_out: bool = False) -> list:
    rng = random.Random(0)
    return [draw_scene(rng, held_out=held_out) for _ in range(number)]


def test_sprites_lie_within_the_image_and_apart() -> None:
    for scene in scenes():
        taken: set[tuple[float, float]] = set()
        for sprite in scene.sprites:
            assert min(sprite.x, sprite.y) >= 0
            assert max(sprite.x, sprite.y) + sprite.side <= CELLS
            cells = {
                (sprite.x + x, sprite.y + y) for x in range(sprite.side) for y in range(sprite.side)
            }
            assert not cells & taken, scene
            taken |= cells


def test_training_never_sees_what_is_held_out_and_every_kind_comes() -> None:
    drawn = scenes()
    assert {scene.kind for scene in drawn} == set(KINDS)
    assert not any(is_held_out(scene.things, scene.style) for scene in drawn)
    assert any(is_held_out(scene.things, scene.style) for scene in scenes(held_out=True))
    for scene in drawn:
        assert all(has_style(thing, scene.style) for thing in scene.things)
        assert all(is_visible(thing, scene.background) for thing in scene.things)


def test_a_packed_scene_is_nearly_covered() -> None:
    rng = random.Random(0)
    shares = [
        sum(sprite.side**2 for sprite in pack_scene(rng).sprites) / CELLS**2 for _ in range(50)
    ]
    assert sum(shares) / len(shares) > 0.55


def test_an_edited_scene_differs_in_one_respect() -> None:
    rng = random.Random(0)
    for scene in scenes(100):
        other = edit(scene, rng)
        assert other != scene
        assert not is_held_out(other.things, other.style)


def test_what_is_told_holds_and_what_is_changed_does_not() -> None:
    rng = random.Random(0)
    refused = dict.fromkeys(CHANGES, 0)
    tried = dict.fromkeys(CHANGES, 0)
    for scene in scenes(1000):
        told = describe(scene, rng)
        assert holds(told, scene), (told, scene)
        for fact in possible_changes(told):
            tried[fact] += 1
            refused[fact] += not holds(change(told, rng, fact), scene)
    for fact in CHANGES:
        assert tried[fact] > 20
        assert refused[fact] / tried[fact] > 0.97, fact


def test_a_caption_of_training_uses_no_word_that_is_held_out() -> None:
    rng = random.Random(0)
    for thing in (*FIRST, *SHAPE_NUMBERS):
        for _ in range(5):
            word = word_for(thing, rng)
            assert word == THINGS[thing].name or not is_held_out_word(thing, word)
