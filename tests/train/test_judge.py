import random
from dataclasses import replace

import pytest
import torch

from train.stickers import judge as judging
from train.stickers.facts import Description
from train.stickers.judge import Found, find, judge
from train.stickers.renderer import render
from train.stickers.scene import SIZE_CELLS, Placed, Scene
from train.stickers.trial import (
    Trial,
    accepted_flaws,
    blur,
    draw_trial,
    main_figures,
    refused_changes,
    refused_pictures,
)
from train.stickers.vocabulary import GROUNDS, SHAPE_THINGS, THINGS, Thing

pytestmark = pytest.mark.slow

NUMBER = 200  # `salon-train judge` tries 1,000
ENOUGH = 0.98
PANDA, BUS, FOX = Thing("panda"), Thing("bus"), Thing("fox")


@pytest.fixture(scope="module")
def trial() -> Trial:
    return draw_trial(NUMBER)


def test_true_captions_are_accepted(trial: Trial) -> None:
    assert trial.accepted(trial.pictures).share >= ENOUGH


def test_off_the_grid_too() -> None:
    free = draw_trial(100, seed=2, snap=False)
    assert free.accepted(free.pictures).share >= ENOUGH


def test_one_changed_fact_is_refused(trial: Trial) -> None:
    for fact, rate in refused_changes(trial).items():
        assert rate.number >= 10, fact
        assert rate.share >= ENOUGH, (fact, rate)


def test_spoilt_pictures_are_refused(trial: Trial) -> None:
    for name, rate in refused_pictures(trial).items():
        assert rate.number == NUMBER
        assert rate.share >= ENOUGH, (name, rate)


def test_small_flaws_are_forgiven() -> None:
    rates = accepted_flaws(draw_trial(60))
    mild = ("blurred by 0.5 px", "blurred by 0.7 px", "noise of 5/255", "noise of 10/255")
    for name in (*mild, "colours off by up to 5%"):
        assert rates[name].share >= 0.95, (name, rates[name])
    assert rates["blurred by 1.5 px"].share < rates["blurred by 1.0 px"].share


@pytest.mark.parametrize("cells", SIZE_CELLS.values())
def test_everything_is_found_where_it_stands(cells: int) -> None:
    rng = random.Random(cells)
    scenes = []
    for thing in THINGS:
        x, y = (rng.randrange(64 - 8 * cells + 1) / 8 for _ in range(2))  # any pixel
        ground = rng.choice(GROUNDS).name
        scenes.append(Scene("x", (Placed(thing, x, y, cells),), ground))
    for scene, sight in zip(scenes, find(render(scenes)), strict=True):
        assert sight.scene == replace(scene, kind="seen")
        assert sight.found[0].score == pytest.approx(1, abs=1e-3)


def test_a_diamond_is_not_found_inside_a_disc() -> None:
    """Nor any shape in any larger one of its colour."""
    scenes = [Scene("x", (Placed(thing, 1, 2, 5),), "white") for thing in SHAPE_THINGS]
    for thing, sight in zip(SHAPE_THINGS, find(render(scenes)), strict=True):
        assert [found.thing for found in sight.found] == [thing]


def test_touching_squares_are_counted() -> None:
    black = Thing("square", "black")
    boxes = [(0, 0), (3, 0), (0, 3), (3, 3)]
    scene = Scene("x", tuple(Placed(black, x, y, 3) for x, y in boxes), "white")
    (sight,) = find(render([scene]))
    assert {(each.x, each.y) for each in sight.found} == {(0, 0), (24, 0), (0, 24), (24, 24)}


def test_something_else_in_the_picture_makes_it_wrong() -> None:
    picture = render([Scene("x", (Placed(PANDA, 0, 0, 3),), "white")])
    told = Description((PANDA,))
    assert judge(picture, told)[0].right
    picture[:, :, 50:56, 50:56] = torch.tensor([200, 30, 90]).view(3, 1, 1)
    verdict = judge(picture, told)[0]
    assert not verdict.right
    assert "no known thing" in verdict.reason


def test_an_unknown_ground_makes_it_wrong() -> None:
    picture = render([Scene("x", (Placed(PANDA, 0, 0, 3),), "white")])
    picture[picture == 255] = 100
    assert find(picture)[0].ground is None
    assert "ground" in judge(picture, Description((PANDA,)))[0].reason


def test_an_empty_picture_shows_nothing() -> None:
    sight = find(render([Scene("x", (), "pink")]))[0]
    assert sight.found == ()
    assert sight.ground == "pink"
    assert judge(render([Scene("x", (), "pink")]), Description((PANDA,)))[0].reason == (
        "it shows nothing"
    )


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (Description((PANDA, BUS), relation="right of", ground="pink"), "right of"),
        (Description((PANDA, BUS), ground="white"), "the ground is not white"),
        (Description((PANDA, FOX)), "it shows bus, panda"),
        (Description((PANDA,)), "it shows bus, panda"),
    ],
)
def test_reasons(told: Description, reason: str) -> None:
    scene = Scene("x", (Placed(PANDA, 0, 2, 3), Placed(BUS, 4, 2, 3)), "pink")
    verdict = judge(render([scene]), told)[0]
    assert not verdict.right
    assert reason in verdict.reason


def test_single_facts_have_reasons() -> None:
    picture = render([Scene("x", (Placed(PANDA, 0, 0, 2),), "pink")])
    assert judge(picture, Description((PANDA,), size="small", place="top left"))[0].right
    assert "size" in judge(picture, Description((PANDA,), size="large"))[0].reason
    assert "place" in judge(picture, Description((PANDA,), place="bottom"))[0].reason


def test_larger_pictures_are_judged_alike() -> None:
    scene = Scene("x", (Placed(PANDA, 0.25, 2, 3), Placed(BUS, 4, 2, 3)), "pink")
    (sight,) = find(render([scene], size=128))
    assert sight.scene is not None
    assert set(sight.scene.sprites) == set(scene.sprites)


def test_scores_by_a_second_way() -> None:
    """The products on shrunk and unshrunk pictures are those of the definition."""
    picture = render([Scene("x", (Placed(PANDA, 1, 2, 3),), "beige")]).float() / 255
    ground = torch.tensor([[0.9, 0.8, 0.7]])
    difference = picture - ground[:, :, None, None]
    templates = judging._templates(24, 1, picture.device)
    scores = templates.scores(difference, ground)
    assert scores.shape == (1, len(THINGS), 41, 41)
    for thing, y, x in ((0, 16, 8), (30, 3, 20), (87, 40, 40)):
        d = difference[0, :, y : y + 24, x : x + 24]
        u = templates.sprites[thing, :3] - templates.sprites[thing, 3:] * ground[0][:, None, None]
        expected = 2 * (d * u).sum() / (d.square().sum() + u.square().sum())
        assert scores[0, thing, y, x] == pytest.approx(expected.item(), abs=1e-4)


def test_two_things_at_one_place_are_one() -> None:
    better, worse = Found(PANDA, 0, 0, 24, 0.99), Found(FOX, 4, 4, 24, 0.9)
    beside = Found(BUS, 24, 0, 24, 0.95)
    assert judging._without_overlaps([worse, better, beside]) == [better, beside]


@pytest.mark.parametrize(
    "pictures",
    [
        torch.zeros(3, 64, 64, dtype=torch.uint8),
        torch.zeros(1, 3, 64, 32, dtype=torch.uint8),
        torch.zeros(1, 3, 60, 60, dtype=torch.uint8),
        torch.zeros(1, 3, 64, 64),
    ],
)
def test_other_tensors_are_refused(pictures: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="must be"):
        find(pictures)


def test_no_pictures_no_sights() -> None:
    assert find(torch.zeros(0, 3, 64, 64, dtype=torch.uint8)) == []


def test_blur_keeps_flat_colours_and_the_mean() -> None:
    flat = torch.full((1, 3, 64, 64), 77, dtype=torch.uint8)
    assert torch.equal(blur(flat, 2.0), flat)
    dot = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    dot[:, :, 24:40, 24:40] = 200
    spread = blur(dot, 3.0).float()
    assert spread.mean().item() == pytest.approx(dot.float().mean().item(), rel=0.02)
    assert spread.max() < 200


def test_the_figures_name_every_trial() -> None:
    text = main_figures(12)
    for title in ("true captions", "one fact changed", "half covered", "noise of 15/255", "swap"):
        assert title in text
