"""Choices in prompts, case by case."""

from collections import Counter
from pathlib import Path

import pytest

from gen.errors import InputError
from gen.settings.templates import expand


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sea").mkdir()
    (tmp_path / "colours.txt").write_text("# warm\nred\n\nblue\n")
    (tmp_path / "colours2.txt").write_text("green\n")
    (tmp_path / "sea" / "fish.txt").write_text("a __colours__ {cod|eel}\n", encoding="utf-8-sig")
    (tmp_path / "cats.txt").write_text("a ${c:grey} cat\n")
    (tmp_path / "loop.txt").write_text("__loop__\n")
    return tmp_path


def all_of(template: str, folder: Path | None = None) -> Counter[str]:
    return Counter(expand(template, seed, folder) for seed in range(60))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("plain (words:1.3) [x]", {"plain (words:1.3) [x]"}),
        ("a {red|blue} fox", {"a red fox", "a blue fox"}),
        ("{ red | blue }", {"red", "blue"}),
        ("a{|n}", {"a", "an"}),
        ("{a|{b|c}}", {"a", "b", "c"}),
        ("{2$$a|b|c}", {"a,b", "b,a", "a,c", "c,a", "b,c", "c,b"}),
        ("{2$$ and $$a|b}", {"a and b", "b and a"}),
        ("{1-2$$+$$a|b}", {"a", "b", "a+b", "b+a"}),
        ("{-1$$a|b}", {"a", "b"}),
        ("{2-$$a|b}", {"a,b", "b,a"}),
        ("{9$$a|b}", {"a,b", "b,a"}),
        (r"\{a|b\}", {"{a|b}"}),
        ("{very |}small", {"very small", "small"}),
        ("a #1 fox at $5 and 50%", {"a #1 fox at $5 and 50%"}),
        (r"\#1 {a|b} # said", {"#1 a", "#1 b"}),
        ("__colours__", {"__colours__"}),  # without a folder
        ("${c=!{red|blue}}${c} and ${c}", {"red and red", "blue and blue"}),
        ("${c=red}${c:green}", {"red"}),
        ("${c:green}", {"green"}),
        ("${c=red}${c?=blue}${c}", {"red"}),
        ("${c?=red}${c?=blue}${c=green}${c}", {"green"}),
        ("${c?=red}${c?=blue}${c}", {"red"}),
    ],
)
def test_grammar(template: str, expected: set[str]) -> None:
    assert set(all_of(template)) == expected


def test_variables_are_chosen_anew_unless_at_once() -> None:
    assert set(all_of("${c={a|b}}${c}${c}")) == {"aa", "ab", "ba", "bb"}


def test_weights_are_how_often() -> None:
    found = all_of("{3::a|b}")
    assert 36 <= found["a"] <= 54
    assert set(all_of("{0::a|1::b}")) == {"b"}


def test_files(folder: Path) -> None:
    assert set(all_of("__colours__", folder)) == {"red", "blue"}
    assert set(all_of("__colours*__", folder)) == {"red", "blue", "green"}
    fish = {"a red cod", "a red eel", "a blue cod", "a blue eel"}
    assert set(all_of("__sea/fish__", folder)) == fish
    assert set(all_of("__sea/*__", folder)) == fish
    assert set(all_of("{__colours2__|x}", folder)) == {"green", "x"}
    assert set(all_of("{2$$__colours__}", folder)) == {"red,blue", "blue,red"}
    assert set(all_of("__cats__, __cats(c=red)__, __cats__", folder)) == {
        "a grey cat, a red cat, a grey cat"
    }


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("__nothing__", "means no line"),
        ("__../secret__", "means no line"),
        ("__loop__", "without end"),
        ("${c}", "was not set"),
        ("{open", "not closed"),
        ("{a$$b|c}", "in a choice"),
        ("{" + "1" * 400 + "::a|b}", "weight"),
        ("${c={a|b}}${c=${d}}${d=${c}}${c}", "without end"),
        ("{" + "|".join("ab" * 1000) + "}", "more than 1000 options"),
        ("${c={a|b}}" + "${c}" * 1001, "more than 1000 choices"),
        ("{" * 40 + "a" + "}" * 40, "more than 30 choices in each other"),
        ("${c=" + "x" * 5000 + "}${c}${c}${c}", "more than 10000 characters"),
    ],
)
def test_what_cannot_be(folder: Path, template: str, reason: str) -> None:
    (folder.parent / "secret.txt").write_text("secret")
    with pytest.raises(InputError, match=reason):
        expand(template, 0, folder)


def test_a_seed_makes_the_same_choices() -> None:
    template = "{a|b|c|d} {2$$e|f|g|h}"
    assert expand(template, 7) == expand(template, 7)
    assert len(all_of(template)) > 20
