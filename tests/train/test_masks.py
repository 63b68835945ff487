"""What teaches the network that finds things by name: masks are where things are, and names mean
them."""

import random
from pathlib import Path

import pytest
import torch

from pipelines.segmentation.named import Small
from pipelines.segmentation.network import MaskConfig
from train.loop import Schedule, train
from train.masks import (
    BACKGROUND,
    Lesson,
    MasksRecipe,
    MasksTask,
    Name,
    intersection_over_union,
    masks_of,
    measure,
)
from train.shipping import ship
from train.stickers import masks
from train.stickers.held_out import is_held_out
from train.stickers.renderer import render
from train.stickers.scene import Placed, Scene, draw_scene
from train.stickers.vocabulary import GROUND_BY_NAME, THING_INDEX, THINGS, Thing
from train.stickers.wording import other_words

TINY = MaskConfig(widths=(8, 8), features=4, runs=256, run_width=16)
CPU = torch.device("cpu")


def test_a_map_says_of_every_pixel_what_it_shows() -> None:
    rng = random.Random(3)
    scenes = [draw_scene(rng, snap=False) for _ in range(40)]
    for scene, image, things in zip(scenes, render(scenes), masks.things(scenes), strict=True):
        assert {*things.unique().tolist()} == {BACKGROUND, *(THING_INDEX[t] for t in scene.things)}
        ground = torch.tensor(GROUND_BY_NAME[scene.ground].rgb)[:, None, None]
        changed = (image.int() - ground).abs().amax(0) > 0
        assert not (~changed & (things != BACKGROUND)).float().mean() > 0.02  # inks like the ground
        edge = changed & (things == BACKGROUND)  # less than half covered
        assert edge.float().mean() < 0.1


def test_names_mean_their_things() -> None:
    panda, circle = THING_INDEX[Thing("panda")], THING_INDEX[Thing("circle", "red")]
    rng = random.Random(1)
    heard = [masks.name(panda, rng) for _ in range(300)]
    only = [each for each in heard if each.things == {panda}]
    assert len(only) > 250
    known = {"panda", "pandas", *other_words()["panda"]}
    assert all(any(word in each.text for word in known) for each in only)
    animals = {each.things for each in heard} - {frozenset((panda,))}
    assert animals == {masks.meant_by("animal")}
    heard = [masks.name(circle, rng) for _ in range(300)]
    assert all("red" in each.text for each in heard if each.things == {circle})
    circles = masks.meant_by("circle")
    assert {thing.name for thing in THINGS if THING_INDEX[thing] in circles} == {"circle"}
    assert {each.things for each in heard} == {
        frozenset((circle,)),
        circles,
        masks.meant_by("shape"),
    }
    assert masks.name(BACKGROUND, rng).things == {BACKGROUND}


def test_what_is_nothing_here_is_called_by_none_of_its_words() -> None:
    words = masks.unknown_words()
    assert len(words) > 1000
    assert "zebra" in words
    assert not {"panda", "cat", "red circle", "red panda", "apple"} & {*words}


def test_training_sees_no_combination_that_is_held_out() -> None:
    rng = random.Random(0)
    assert not any(
        is_held_out(scene.things) for scene in masks.draw(rng, 100, False) if scene.kind != "packed"
    )
    assert all(is_held_out(scene.things) for scene in masks.draw(rng, 30, True))
    others = [masks.other(rng) for _ in range(2000)]
    single = {number for each in others if len(each.things) == 1 for number in each.things}
    assert len(single) > 70
    assert not single & {number for thing, number in THING_INDEX.items() if is_held_out([thing])}


def test_masks_are_those_of_all_that_a_name_means() -> None:
    things = torch.tensor([[[0, 1], [BACKGROUND, 2]]])
    names = [Name("a", frozenset((1,))), Name("b", frozenset((0, 2))), Name("c", frozenset())]
    names.append(Name("background", frozenset((BACKGROUND,))))
    found = masks_of(things, names, 3)[0].int().tolist()
    assert found == [[[0, 1], [0, 0]], [[1, 0], [0, 1]], [[0, 0], [0, 0]], [[0, 0], [1, 0]]]


def test_agreement_is_what_is_shared_of_all() -> None:
    whole = torch.ones(1, 2, 2, dtype=torch.bool)
    half, none = whole.clone(), torch.zeros_like(whole)
    half[0, 0] = False
    found = torch.cat([whole, half, none, none])
    wanted = torch.cat([whole, whole, whole, none])
    assert intersection_over_union(found, wanted).tolist() == [1, 0.5, 0, 1]


class _Oracle(torch.nn.Module):
    """Finds nothing but red circles, by their colour."""

    def forward(self, images: torch.Tensor, names: list[str]) -> torch.Tensor:
        red = torch.tensor([226, 38, 45])[None, :, None, None] / 255
        near = ((images - red).abs().amax(1) < 0.2).float() * 2 - 1  # (B, h, w)
        sure = torch.tensor([1.0 if "circle" in name else -1.0 for name in names])
        return torch.minimum(near[:, None], sure[None, :, None, None])


def test_a_measure_tells_what_is_there_from_what_is_not() -> None:
    circle = Thing("circle", "red")

    def draw(rng: random.Random, number: int, held_out: bool) -> list[Scene]:
        assert held_out
        return [Scene("single", (Placed(circle, 1, 2, 5),), "white")] * number

    lesson = Lesson(
        draw,
        render,
        masks.things,
        lambda number, rng: Name("a circle", frozenset((number,))),
        lambda rng: Name("a zebra", frozenset()),
        len(THINGS),
    )
    found = measure(_Oracle(), lesson, 50)  # type: ignore[arg-type]
    assert found["there"] > 0.9
    assert found["absent"] == 1
    blank = measure(_Oracle(), lesson, 50, remake=torch.zeros_like)  # type: ignore[arg-type]
    assert blank["there"] == 0


@pytest.mark.slow
def test_it_learns_is_shipped_and_read(tmp_path: Path) -> None:
    task = MasksTask(masks.LESSON, MasksRecipe(TINY, names=8), [torch.zeros_like])
    batch = task.batch(random.Random(0), 6, CPU)
    dark = batch.images.mean((1, 2, 3)) < 0.2
    assert dark.tolist() == [True, True, False, False, False, False]  # made again, as black
    assert batch.images.shape == (6, 3, 64, 64)
    assert batch.masks.shape == (6, 8, 64, 64)
    assert batch.masks.any(3).any(2).any(0).sum() >= 4  # most of what is asked for is there
    figures = task(batch, torch.Generator())
    assert all(bool(value.isfinite()) for value in figures.values())
    weights = train(task, Schedule(4, 1e-3, steps=2), tmp_path / "run" / "masks")
    assert (weights / "model.safetensors").is_file()
    [folder] = ship(tmp_path / "run", tmp_path / "models", tmp_path / "rerankers")
    assert folder == tmp_path / "models" / "stickers-masks"
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert Small(folder, CPU).network.config == TINY


@pytest.mark.slow
def test_a_few_scenes_are_learned_by_heart() -> None:
    """A network that sees the same batch again and again finds what is named in it."""
    torch.manual_seed(0)
    small = MaskConfig(widths=(16, 16, 16), features=8, runs=512, run_width=32)
    task = MasksTask(masks.LESSON, MasksRecipe(small, names=12))
    batch = task.batch(random.Random(5), 4, CPU)
    optimizer = torch.optim.AdamW(task.parameters(), 5e-3)
    before = task(batch, torch.Generator())["iou"]
    for _ in range(120):
        optimizer.zero_grad()
        figures = task(batch, torch.Generator())
        figures["loss"].backward()
        optimizer.step()
    assert figures["iou"] > before + 0.4
