from collections import Counter

import pytest

from train.stickers.scene import KINDS
from train.stickers.statistics import main_figures, phrasings, tally

pytestmark = pytest.mark.slow

NUMBER = 10_000


@pytest.fixture(scope="module")
def counts() -> dict[str, Counter[str]]:
    return tally(NUMBER)


@pytest.mark.parametrize(
    ("section", "percent"),
    [
        ("kind of scene", 4),
        ("size of a single thing", 8),
        ("place of a single thing", 3),
        ("ground", 13),
        ("number of things", 3),
        ("thing", 0.9),
        ("size told", 1),
        ("place told", 1),
        ("relation told", 4),
        ("ground told", 6),
        ("phrase of opening", 3),
        ("phrase of relation", 0.1),
        ("phrase of place", 0.1),
        ("phrase of ground", 3),
        ("phrase of size", 1),
    ],
)
def test_nothing_is_rare(counts: dict[str, Counter[str]], section: str, percent: float) -> None:
    value, least = counts[section].most_common()[-1]
    assert least >= percent / 100 * NUMBER, value


def test_sections_add_up(counts: dict[str, Counter[str]]) -> None:
    assert counts["kind of scene"].keys() == KINDS.keys()
    for section in ("kind of scene", "ground", "number of things"):
        assert counts[section].total() == NUMBER
    single = counts["kind of scene"]["single"] + counts["kind of scene"]["coloured shape"]
    assert counts["size of a single thing"].total() == single
    for sort, told in (("place", "place told"), ("relation", "relation told")):
        assert counts[f"phrase of {sort}"].total() == counts[told].total()
    assert counts["phrase of ground"].total() == counts["ground told"].total()
    assert counts["phrase of size"].total() == counts["size told"].total()


def test_phrases_are_told_apart() -> None:
    found = phrasings("a photo of a clover to the left of a bus, pale blue background")
    assert found == {
        "opening": ["a photo of"],
        "relation": ["to the left of"],
        "place": [],
        "ground": [", {} background"],
        "size": [],
    }
    found = phrasings("a tiny fox on the left side on an orange ground")
    assert (found["place"], found["relation"]) == (["on the left side"], [])
    assert found["size"] == ["tiny"]


def test_the_figures_are_shares() -> None:
    text = main_figures(400)
    assert text.startswith("of 400 scenes")
    assert "kind of scene" in text
    assert "%" in text
