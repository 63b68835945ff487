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
PARSERS = [
    Parser(
        name="a template",
        read=lambda text: expand(text, 7, _folder()),
        refuses=(InputError,),
        signs=SIGNS,
        examples=EXAMPLES,
    ),
]
