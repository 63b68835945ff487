"""The grammar of weights, case by case."""

import pytest

from pipelines.diffusion.prompt_weights import Fragment, parse, plain


def told(prompt: str) -> list[tuple[str, float]]:
    return [(part.text, pytest.approx(part.weight)) for part in parse(prompt)]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("((x))", [("x", 1.21)]),
        ("[x]", [("x", 1 / 1.1)]),
        ("(x:1.3)", [("x", 1.3)]),
        ("(x : .5 )", [("x ", 0.5)]),
        ("(x:-1)", [("x", -1.0)]),
        ("(((house:1.3)))", [("house", 1.573)]),
        ("([x])", [("x", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        ("a (b [c", [("a ", 1.0), ("b ", 1.1), ("c", 1.0)]),
        ("closed) twice]", [("closed) twice]", 1.0)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        (r"\(a\) \[b\] \\", [(r"(a) [b] " + "\\", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        ("ratio 16:9", [("ratio 16:9", 1.0)]),
        ("[x:1.3]", [("x:1.3", 1 / 1.1)]),  # numbers count in round brackets only
        ("", [("", 1.0)]),
        ("()", [("", 1.0)]),
        ("a <lora:style:0.8>cat", [("a cat", 1.0)]),
        ("a <cat>", [("a <cat>", 1.0)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1.0),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.1),
            ],
        ),
    ],
)
def test_grammar(prompt: str, expected: list[tuple[str, float]]) -> None:
    assert told(prompt) == expected


def test_break_begins_a_chunk() -> None:
    assert parse("one BREAK two") == [Fragment("one"), Fragment("two", breaks=True)]
    assert parse("(one BREAK two:2)") == [Fragment("one", 2.0), Fragment("two", 2.0, breaks=True)]
    assert parse("BREAKFAST break") == [Fragment("BREAKFAST break")]


def test_plain_words() -> None:
    assert plain("a (red:1.3) [fox] <lora:x:1>") == "a red fox"
    assert plain("one BREAK two") == "one two"
    assert plain("a (red) fox", "plain") == "a (red) fox"
    assert parse("a (red) fox", "plain") == [Fragment("a (red) fox")]


def test_time_is_bounded() -> None:
    assert parse("(" * 5000 + "x" + ")" * 5000)[0].text == "x"
    assert len(parse("(a)[b]" * 1000)) == 2000
