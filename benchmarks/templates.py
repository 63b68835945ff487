"""How many templates of dynamicprompts mean here what they mean there.

`python -m benchmarks.templates SOURCE`, a checkout of github.com/adieyal/dynamicprompts. Templates
are all texts with its signs in its tests, and all lines with them in the code of its documents.
Tests also put templates together while they run; the library's own environment records those:

    cd SOURCE && PYTHONPATH=SALON python -m pytest -p benchmarks.recorded_templates tests

and `--recorded SOURCE/templates.json` adds them. Of each template all combinations are compared
with those that the library lists, with the wildcards of its tests, and what a few hundred seeds
choose with as many choices of the library at random: which texts there are, and how often each
comes. Printed is how many agree, how many are refused in a line, by both or by Salon alone, and
every one that differs.
"""

import argparse
import ast
import json
import logging
import re
import signal
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from random import Random
from shutil import copytree
from tempfile import mkdtemp

from dynamicprompts.enums import SamplingMethod
from dynamicprompts.sampling_context import SamplingContext
from dynamicprompts.wildcards import WildcardManager
from dynamicprompts.wildcards.values import WildcardValues

from gen.errors import InputError
from gen.settings.templates import combinations, expand

SIGNS = re.compile(r"\{[^{}%]*[|$}]|__[^\s_][^\s]*__|[$%]\{")
JINJA = re.compile(r"\{%|\{\{")  # another grammar, of a generator that Salon does not have
NAMES = re.compile(r"__\w+__(\.py)?")  # of Python
DATA = re.compile(r"[{\s]*[\w\"-]+:")
UNKNOWN = ("missing", "invalid_wildcard", "colors-temp")  # that tests leave out on purpose
MOST = 1500  # combinations that are listed
AT_RANDOM = re.compile(r"(\{|__)~")
RUNS, EACH = 40, 6  # of the library at random: some of its choices are made once in a run
SEEDS = RUNS * EACH  # choices of ours
FEW = 20  # different texts, of which so many choices show all
APART = 0.25  # between how often two come to a text: over five standard deviations
PATIENCE = 5.0  # seconds of the library with one: of what has no values it looks for one for ever


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="a checkout of dynamicprompts")
    parser.add_argument("--recorded", type=Path, help="templates that its tests made as they ran")
    given = parser.parse_args()
    source = given.source
    warnings.simplefilter("ignore")
    logging.disable()
    sources = {
        "tests": in_tests(source / "tests", given.recorded),
        "documents": in_documents([source / "README.md", *(source / "docs").glob("*.md")]),
    }
    wildcards = Path(mkdtemp())
    copytree(source / "tests" / "test_data" / "wildcards", wildcards, dirs_exist_ok=True)
    for name in {
        name for each in sources.values() for text in each for name in unknown(text, wildcards)
    }:
        path = wildcards / f"{name.replace('*', '-more')}.txt"  # left to the reader, or faked
        if name not in UNKNOWN:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("one ${animal:bear}\nanother ${color:brown}\n", encoding="utf-8")
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
    template = template.expandtabs()  # as the library's parser does
    theirs = by_the_library(template, wildcards, SamplingMethod.COMBINATORIAL, MOST)
    try:
        ours: list[str] | None = combinations(template, wildcards)
    except InputError as error:
        if "\n" in str(error):
            return "refused in more than a line"
        if "are made of one" not in str(error):
            return "refused" if theirs else "refused by both"
        ours = None  # too many to be listed: those that seeds choose are compared
    if not theirs or ours == [""]:  # which a prompt may not be
        return "refused by both" if ours == [""] and theirs in ([""], [], None) else "differ"
    listed = [*dict.fromkeys(theirs)]
    is_endless = len(theirs) == MOST and len(listed) < MOST  # of which Salon lists the first
    alike = ours is None or ours == listed[: len(ours) if is_endless else None]
    if not alike and not AT_RANDOM.search(template):
        return "differ"
    return "agree" if chosen_alike(template, wildcards, {*listed}) else "chosen by seeds: differ"


def chosen_alike(template: str, wildcards: Path, listed: set[str]) -> bool:
    """Say whether seeds choose what the library chooses at random, and each text as often."""
    often = Counter(expand(template, seed, wildcards) for seed in range(SEEDS))
    as_often: Counter[str] = Counter()
    for run in range(RUNS):
        made = by_the_library(template, wildcards, SamplingMethod.RANDOM, EACH, run)
        as_often.update(made or [])
    if len(as_often) > FEW:
        return {*often} <= listed | {*as_often}
    alike = all(abs(often[each] - as_often[each]) < APART * SEEDS for each in often)
    return alike and often.keys() == as_often.keys()


def by_the_library(
    template: str, wildcards: Path, method: SamplingMethod, most: int, seed: int = 0
) -> list[str] | None:
    """Return what the library makes; None where it raises, or finds no end."""
    context = SamplingContext(method, WildcardManager(wildcards), rand=Random(seed))
    signal.signal(signal.SIGVTALRM, _give_up)
    signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE)
    try:
        return [str(each).strip() for each in islice(context.sample_prompts(template), most)]
    except Exception:  # of many kinds
        return None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def unknown(template: str, wildcards: Path) -> set[str]:
    """Return the names of wildcards in a template that mean nothing in the folder."""
    names: set[str] = set()

    class Noting(WildcardManager):
        def get_values(self, wildcard: str) -> WildcardValues:
            values = super().get_values(wildcard)
            if not values:
                names.add(wildcard)
            return values or WildcardValues(["a"])

    for method in (SamplingMethod.COMBINATORIAL, SamplingMethod.RANDOM):
        context = SamplingContext(method, Noting(wildcards), rand=Random(0))
        with suppress(Exception):  # of many kinds
            [*islice(context.sample_prompts(template), RUNS)]
    return names


def _give_up(*_: object) -> None:
    raise TimeoutError


def in_tests(folder: Path, recorded: Path | None = None) -> list[str]:
    """Return the templates in the tests, and those that were recorded, each once."""
    texts = (
        node.value
        for path in sorted(folder.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    made = [] if recorded is None else json.loads(recorded.read_text(encoding="utf-8"))
    found = {" ".join(each.split()): each for each in [*_templates(texts), *made]}
    return [*found.values()]


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
