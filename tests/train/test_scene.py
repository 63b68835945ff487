import random
from collections import Counter
from itertools import combinations

import pytest

from train.stickers.held_out import is_held_out
from train.stickers.scene import (
    CELLS,
    KINDS,
    SIZE_CELLS,
    Placed,
    Scene,
    draw_scene,
    edit,
    pack_scene,
    stands_at,
    stands_in,
)
from train.stickers.vocabulary import PLACES, RELATIONS, Thing

pytestmark = pytest.mark.slow

NUMBER = 10_000
PANDA = Thing("panda")


def overlap(first: Placed, second: Placed) -> bool:
    return all(
        a < b + second.side and b < a + first.side
        for a, b in ((first.x, second.x), (first.y, second.y))
    )


def clean(scene: Scene) -> bool:
    """Everything inside the picture, nothing over anything else."""
    inside = all(
        0 <= value <= CELLS - sprite.side
        for sprite in scene.sprites
        for value in (sprite.x, sprite.y)
    )
    return inside and not any(overlap(a, b) for a, b in combinations(scene.sprites, 2))


@pytest.mark.parametrize("snap", [True, False])
def test_scenes_are_clean_and_never_held_out(snap: bool) -> None:
    rng = random.Random(0)
    kinds: Counter[str] = Counter()
    for _ in range(NUMBER):
        scene = draw_scene(rng, snap=snap)
        kinds[scene.kind] += 1
        assert clean(scene), scene
        assert not is_held_out(scene.things), scene
        assert all(sprite.side in SIZE_CELLS.values() for sprite in scene.sprites)
    assert kinds.keys() == KINDS.keys()
    assert min(kinds.values()) / NUMBER > 0.04


def test_snapped_sprites_stand_on_whole_cells() -> None:
    rng = random.Random(0)
    scenes = [draw_scene(rng) for _ in range(NUMBER)] + [pack_scene(rng) for _ in range(500)]
    assert all(float(value).is_integer() for s in scenes for p in s.sprites for value in (p.x, p.y))


def test_free_sprites_stand_on_whole_pixels() -> None:
    rng = random.Random(0)
    places = [
        value
        for _ in range(2000)
        for sprite in draw_scene(rng, snap=False).sprites
        for value in (sprite.x * 8, sprite.y * 8)
    ]
    assert all(float(value).is_integer() for value in places)
    assert sum(value % 8 != 0 for value in places) > len(places) / 2


@pytest.mark.parametrize("snap", [True, False])
def test_what_a_scene_says_of_itself_is_so(snap: bool) -> None:
    rng = random.Random(1)
    for _ in range(NUMBER):
        scene = draw_scene(rng, snap=snap, held_out=True)
        first = scene.sprites[0]
        if scene.relation is not None:
            assert stands_in(scene.relation, first, scene.sprites[1]), scene
        if scene.place is not None and scene.size is not None:
            assert stands_at(first, scene.place), scene
            assert SIZE_CELLS[scene.size] == first.side


def test_held_out_scenes_are_drawn_when_asked_for() -> None:
    rng = random.Random(0)
    number = sum(is_held_out(draw_scene(rng, held_out=True).things) for _ in range(2000))
    assert 100 < number < 600


def test_the_same_seed_draws_the_same_scenes() -> None:
    first, second = random.Random(5), random.Random(5)
    assert [draw_scene(first) for _ in range(50)] == [draw_scene(second) for _ in range(50)]


@pytest.mark.parametrize("snap", [True, False])
def test_an_edited_scene_is_another_and_clean(snap: bool) -> None:
    rng = random.Random(0)
    for _ in range(3000):
        scene = draw_scene(rng, snap=snap)
        edited = edit(scene, rng, snap=snap)
        assert edited != scene
        assert clean(edited), edited
        assert not is_held_out(edited.things), edited


@pytest.mark.parametrize("snap", [True, False])
def test_packed_scenes_are_clean_and_full(snap: bool) -> None:
    rng = random.Random(0)
    scenes = [pack_scene(rng, snap=snap) for _ in range(500)]
    assert all(map(clean, scenes))
    assert sum(len(scene.sprites) for scene in scenes) > 3 * len(scenes)


def test_relations_by_hand() -> None:
    centre = Placed(PANDA, 3, 3, 2)
    for relation, (dx, dy) in RELATIONS.items():
        for other, (ox, oy) in RELATIONS.items():
            moved = Placed(PANDA, 3 + 2 * ox, 3 + 2 * oy, 2)
            assert stands_in(relation, moved, centre) == (relation == other), (dx, dy)
    assert not stands_in("left of", Placed(PANDA, 1, 1, 2), centre)  # diagonal: neither
    assert not stands_in("left of", Placed(PANDA, 2, 3, 2), centre)  # half over it


def test_places_by_hand() -> None:
    corner = Placed(PANDA, 0, 0, 2)
    assert {name for name in PLACES if stands_at(corner, name)} == {"left", "top", "top left"}
    middle = Placed(PANDA, 3, 3, 2)
    assert {name for name in PLACES if stands_at(middle, name)} == {"centre"}
