"""How many templates of dynamicprompts mean here what they mean there.

`python -m benchmarks.templates SOURCE`, a checkout of github.com/adieyal/dynamicprompts. Templates
are all texts with its signs in its tests, and all lines with them in the code of its documents. Of
each all combinations are compared with those that the library lists, with the wildcards of its
tests; where a choice is made at random or in turn, all that Salon makes has to be among what runs
of the library come to, which go on without end. Printed is how many agree, how many are refused in
a line, by both or by Salon alone, and every one that differs.
"""

import argparse
import ast
import logging
import re
import signal
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from shutil import copytree
from tempfile import mkdtemp

from dynamicprompts.enums import SamplingMethod
from dynamicprompts.sampling_context import SamplingContext
from dynamicprompts.wildcards import WildcardManager

from gen.errors import InputError
from gen.settings.templates import combinations, expand

SIGNS = re.compile(r"\{[^{}%]*[|$}]|__[^\s_][^\s]*__|[$%]\{")
JINJA = re.compile(r"\{%|\{\{")  # another grammar, of a generator that Salon does not have
NAMES = re.compile(r"__\w+__(\.py)?")  # of Python
DATA = re.compile(r"[{\s]*[\w\"-]+:")
WILDCARD = re.compile(r"__([a-z][a-z_/-]*[a-z])(?:\([^)]*\))?__")
UNKNOWN = ("missing", "invalid_wildcard")
MOST = 1200  # combinations that are listed
CHANCE = re.compile(r"(\{|__)[~@]")  # a choice at random or in turn, which has no end there
RUNS = 50  # of those that are compared
PATIENCE = 20.0  # seconds of the library with one: of what has no values it looks for one for ever


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="a checkout of dynamicprompts")
    source = parser.parse_args().source
    warnings.simplefilter("ignore")
    logging.disable()
    sources = {
        "tests": in_tests(source / "tests"),
        "documents": in_documents([source / "README.md", *(source / "docs").glob("*.md")]),
    }
    wildcards = Path(mkdtemp())
    copytree(source / "tests" / "test_data" / "wildcards", wildcards, dirs_exist_ok=True)
    for name in {
        name for each in sources.values() for text in each for name in WILDCARD.findall(text)
    }:
        path = wildcards / f"{name}.txt"  # of those that documents leave to the reader
        if not [*wildcards.glob(f"{name}.*")] and name not in UNKNOWN:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("one\nanother\n")
    for kind, templates in sources.items():
        found: dict[str, list[str]] = {}
        for template in templates:
            found.setdefault(compared(template, wildcards), []).append(template)
        total = sum(map(len, found.values()))
        counts = ", ".join(f"{len(each)} {name}" for name, each in sorted(found.items()))
        print(f"{kind}: {total} templates: {counts}")
        for name, each in found.items():
            if name not in ("agree", "refused by both"):
                for template in each:
                    print(f"  {name}: {template!r}")


def compared(template: str, wildcards: Path) -> str:
    """Say how what Salon makes of a template compares with what the library makes of it."""
    theirs = by_the_library(template, wildcards, 0)
    try:
        ours = combinations(template, wildcards)
    except InputError as error:
        if "\n" in str(error):
            return "refused in more than a line"
        return "refused by both" if theirs is None else "refused"
    if ours == [""]:  # which a prompt may not be
        return "refused by both" if theirs is None else "refused"
    if theirs is None:
        return "read, and refused by the library"
    if not CHANCE.search(template):
        return "agree" if ours == theirs else "differ"
    runs = [by_the_library(template, wildcards, seed) or [] for seed in range(RUNS)]
    may_be = {each for run in runs for each in run}
    chosen = {expand(template, seed, wildcards) for seed in range(RUNS)}
    return "agree" if {*ours} | chosen <= may_be else "differ"


def by_the_library(template: str, wildcards: Path, seed: int) -> list[str] | None:
    """Return what the library lists, each once; None where it raises, or finds no end."""
    context = SamplingContext(
        SamplingMethod.COMBINATORIAL, WildcardManager(wildcards), rand=Random(seed)
    )
    signal.signal(signal.SIGVTALRM, _give_up)
    signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE)
    most = RUNS if CHANCE.search(template) else MOST
    try:
        listed = islice(context.sample_prompts(template), most)
        return [*dict.fromkeys(str(each).strip() for each in listed)]
    except Exception:  # of many kinds
        return None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _give_up(*_: object) -> None:
    raise TimeoutError


def in_tests(folder: Path) -> list[str]:
    """Return the templates in the tests, each once."""
    texts = (
        node.value
        for path in sorted(folder.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    return _templates(texts)


def in_documents(paths: list[Path]) -> list[str]:
    """Return the templates in the code of documents, each once."""
    texts = []
    for path in paths:
        text = path.read_text(encoding="utf-8")
        for language, block in re.findall(r"```([^\n]*)\n(.*?)```", text, re.DOTALL):
            if language.strip() == "python" or "import " in block:
                texts += re.findall(r'"([^"\n]*)"', block)
            elif language.strip() not in ("json", "yaml") and not re.match(
                r"[{\s]*[\w\"-]+:", block
            ):
                texts += _paragraphs(block)
    return _templates(iter(texts))


def _paragraphs(block: str) -> list[str]:
    """Return the lines of a block, or what lies between empty lines where a brace spans lines."""
    lines = block.splitlines()
    if all(line.count("{") == line.count("}") for line in lines):
        return lines
    return [part.strip() for part in re.split(r"\n\s*\n", block)]


def _templates(texts: Iterator[str]) -> list[str]:
    found = dict.fromkeys(text for text in texts if SIGNS.search(text) and not JINJA.search(text))
    return [text for text in found if not NAMES.fullmatch(text) or text.strip("_").islower()]


if __name__ == "__main__":
    main()
