import pytest

from train.world.atlas import notice
from train.world.lexicon import plural
from train.world.vocabulary import (
    ACCEPTED,
    FIRST,
    GENERAL,
    NOUNS,
    SHAPE_NUMBERS,
    STYLES,
    THINGS,
    article,
    has_style,
)

BY_NAME = {thing.name: number for number, thing in enumerate(THINGS)}


def test_the_world_has_all_things_and_the_first_are_those_that_people_ask_for() -> None:
    assert len(NOUNS) == 1223
    assert len({thing.name for thing in THINGS}) == len(THINGS)
    assert 400 <= len(FIRST) <= 600
    coco = ["bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "traffic light"]
    coco += ["stop sign", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear"]
    coco += ["zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"]
    coco += ["kite", "skateboard", "bottle", "wine glass", "spoon", "bowl", "banana", "apple"]
    coco += ["sandwich", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair"]
    coco += ["couch", "potted plant", "bed", "toilet", "laptop", "keyboard", "phone", "teddy bear"]
    assert [name for name in coco if BY_NAME.get(name) not in FIRST] == []


@pytest.mark.parametrize(
    ("name", "many"),
    [
        ("fox", "foxes"),
        ("slice of pizza", "slices of pizza"),
        ("pair of glasses", "pairs of glasses"),
        ("ladybug", "ladybugs"),
        ("strawberry", "strawberries"),
        ("mouse", "mice"),
        ("computer mouse", "computer mice"),
        ("sheep", "sheep"),
        ("knife", "knives"),
        ("sun behind a cloud", "suns behind a cloud"),
        ("box of french fries", "boxes of french fries"),
        ("man", "men"),
        ("german", "germans"),
    ],
)
def test_plurals(name: str, many: str) -> None:
    assert plural(name) == many


def test_a_word_means_the_things_of_its_strictest_list() -> None:
    assert ACCEPTED["panda"] == {BY_NAME["panda"]}
    assert {BY_NAME["cat"], BY_NAME["cat face"]} <= ACCEPTED["kitten"]
    assert BY_NAME["car"] in ACCEPTED["automobile"]
    assert len(ACCEPTED["animal"]) == len(GENERAL["animal"])


def test_shapes_are_in_every_style_and_some_drawings_are_not() -> None:
    assert all(has_style(SHAPE_NUMBERS[0], style) for style in STYLES)
    assert not all(has_style(number, "blob") for number in FIRST)


def test_articles_go_by_sound() -> None:
    assert [article(word) for word in ("umbrella", "unicorn", "ufo", "apple", "eucalyptus")] == (
        ["an", "a", "a", "an", "a"]
    )


def test_every_set_is_credited() -> None:
    text = notice()
    assert all(set_name in text for set_name in ("Noto", "Fluent", "Twemoji", "WordNet"))
