"""Templates of prompts: choices, variables and wildcards."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from fuzzing import Parser

from gen.errors import InputError
from gen.settings.templates import expand


@cache
def _folder() -> Path:
    folder = Path(mkdtemp())
    (folder / "w.txt").write_text("red\n{a|b}\n__w__ ${c:x}\n__v__\n")
    (folder / "v.yaml").write_text("v: [2::blue, {text: green, weight: 3}]\n")
    return folder


SIGNS = (
    *("{", "}", "|", "$$", "__", "${", "%{", "::", "2$$", "1-3$$, $$", "0.5::", "~", "@", "!", "#"),
    *(
        "\\",
        "...",
        "=",
        "?=",
        "(c=a)",
        "__w__",
        "__v__",
        "__*__",
        "${c",
        "${c=",
        "{a|b}",
        "9" * 400,
    ),
)
EXAMPLES = ("a {3::red|2$$ and $$b|__w__} fox ${c=!{a|b}}${c:d} __w(c=a)__ %{x ... y$${@a|b}}",)
FILES = (
    (".txt", (b"\n", b"#", b"{a|b}", b"__input__", b"::", b"\xff", b"\0"), b"red\n# x\n2::{a|b}\n"),
    (
        ".yaml",
        (b"\n", b"- ", b": ", b"  ", b"&a ", b"*a", b"{", b"}", b"[", b"]", b"!!int ", b"|", b"? "),
        b"input: [2::blue, {text: green, weight: 3}]\nb: &a {c: [d]}\ne: *a\n",
    ),
    (
        ".json",
        (b"{", b"}", b"[", b"]", b'"', b":", b",", b"1", b"1e999", b'"weight"', b'"text"'),
        b'{"input": ["a", {"text": "b", "weight": 2}], "c": {"d": ["e"]}}',
    ),
)


def _read_file(path: Path) -> str:
    """Draw from each list that a file has."""
    return expand("__**__ __input__ {1-3$$__*__}", 7, path.parent)


PARSERS = [
    Parser(
        name="a template",
        read=lambda text: expand(text, 7, _folder()),
        refuses=(InputError,),
        signs=SIGNS,
        examples=EXAMPLES,
    ),
    *(
        Parser(
            name=f"a file of wildcards as {suffix[1:]}",
            read=_read_file,
            refuses=(InputError,),
            signs=signs,
            examples=(example,),
            suffix=suffix,
        )
        for suffix, signs, example in FILES
    ),
]
