"""README.md, docs/ and their neighbours are true: every example runs, every link leads somewhere.

The examples of a document run in their order, in one empty folder beside a copy of prompts/.
Commands that serve, train or measure for long have their flags read and go no further; `make`,
`pip` and `source` are checked against Makefile and pyproject.toml.
"""

import argparse
import importlib
import io
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any, NoReturn

import pytest
from accelerate.commands.launch import launch_command_parser

from gen import cli
from gen.engine import Engine
from gen.run_folder.folder import RunFolder
from pipelines.runtime.terminal import Parser
from train.stickers.vocabulary import COLOURS, GROUNDS, NOUNS, SHAPES
from ui.service.rules import read_rules
from ui.service.service import Service

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
MANUAL = {str(path.relative_to(ROOT)): path for path in (ROOT / "README.md", *PAGES)}
DOCUMENTS = {**MANUAL, **{path.name: path for path in ROOT.glob("*.md")}}
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PACKAGES = ("gen", "pipelines", "rerank", "ui", "train")
RUN = ("generate", "rerank")
SERVER = "http://127.0.0.1:7860"
LANGUAGES = ("sh", "python", "json", "text", "toml")


@dataclass(frozen=True)
class Block:
    """What stands between two fences: ```language title="file"."""

    language: str
    file: str  # under which the reader is to save it; "" for none
    text: str


def blocks_of(document: str) -> list[Block]:
    """Return the fenced blocks of a document, each of which names its language."""
    fences = re.findall(r'(?ms)^```(\w+)(?: title="(\S+)")?\n(.*?)^```$', document)
    assert document.count("```") == 2 * len(fences), "a fence names no language"
    return [Block(*fence) for fence in fences]


TEXTS = {name: path.read_text("utf-8") for name, path in DOCUMENTS.items()}
BLOCKS = {name: blocks_of(TEXTS[name]) for name in MANUAL}


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a block, `|` and `>` being words of their own."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars="|>")
        words.whitespace_split = True
        if command := list(words):
            yield command


class Understood(BaseException):
    """A command has read its flags."""


class Reader:
    """Does what a reader does who copies an example into a terminal."""

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        capture: pytest.CaptureFixture[str],
        folders: dict[str, str],
    ) -> None:
        self.patch, self.capture, self.folders = patch, capture, folders

    def follow(self, block: Block) -> None:
        """Run a block, or save it under the name that it has."""
        text = block.text
        for placeholder, real in self.folders.items():
            text = text.replace(placeholder, real)
        if block.file:
            Path(block.file).write_text(text, encoding="utf-8")
            if block.language == "toml":
                read_rules(Path(block.file))
        elif block.language == "python":
            exec(compile(text, "example", "exec"), {"__name__": "__main__"})
        elif block.language == "sh":
            for command in commands(text):
                self.type(command)

    def type(self, words: list[str]) -> None:
        """Run one command, with what is piped into it and where its output goes."""
        while re.fullmatch(r"[A-Z_]+=\S+", words[0]):
            words = words[1:]
        if "|" in words:
            bar = words.index("|")
            made = subprocess.run(words[:bar], capture_output=True, check=True).stdout
            self.patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(made)))
            words = words[bar + 1 :]
        if ">" in words:
            *words, _, file = words
            self.run(words)
            Path(file).write_text(self.capture.readouterr().out, encoding="utf-8")
        else:
            self.run(words)

    def run(self, words: list[str]) -> None:
        """Run, or check, a plain command."""
        match words:
            case ["make", *targets]:
                assert set(targets) <= set(re.findall(r"(?m)^([a-z]+):", MAKEFILE))
            case ["pip", "install", *rest]:
                check_install(rest)
            case ["source", script]:
                [folder] = re.findall(r"(?m)^VENV \?= (.*)$", MAKEFILE)
                assert script == f"{folder}/bin/activate"
            case ["torchrun", "--nproc-per-node", _, "-m", "--", *rest]:
                self.run(["python", "-m", *rest])
            case ["accelerate", "launch", *rest]:
                launched = launch_command_parser().parse_args(rest)
                assert launched.module
                self.run(["python", "-m", launched.training_script, *launched.training_script_args])
            case ["python", "-c", code]:
                exec(code, {})
            case ["python", "-m", module, *rest]:
                self.understand([module, *rest], lambda: run_module(module))
            case [name, *rest]:
                module, function = PROJECT["scripts"][name].split(":")
                main = getattr(importlib.import_module(module), function)
                if name in RUN:
                    self.succeed(main, expanded(rest))
                else:
                    self.understand(words, lambda: main(rest))

    def succeed(self, main: Callable[[Sequence[str]], int], words: list[str]) -> None:
        """The command does its work and ends with 0."""
        self.capture.readouterr()
        try:
            code: Any = main(words)
        except SystemExit as end:  # --help and --version
            code = end.code
        said = self.capture.readouterr()
        assert code in (0, None), f"{words} ends with {code}: {said.err}"
        sys.stdout.write(said.out)

    def understand(self, words: list[str], main: Callable[[], object]) -> None:
        """The command knows its flags; what they ask for is not done."""

        def stopping(parse: Callable[..., Any]) -> Callable[..., NoReturn]:
            def read_and_stop(*arguments: Any) -> NoReturn:
                parse(*arguments)
                raise Understood

            return read_and_stop

        with self.patch.context() as patch:
            for parser in (argparse.ArgumentParser, Parser):
                patch.setattr(parser, "parse_args", stopping(parser.parse_args))
            patch.setattr(sys, "argv", words)
            with pytest.raises(Understood):
                main()


def run_module(name: str) -> None:
    """What `python -m` does."""
    runpy.run_module(name, run_name="__main__")


def expanded(words: list[str]) -> list[str]:
    """The words with `*` replaced by the files that match."""
    found = []
    for word in words:
        files = sorted(glob(word)) if "*" in word else [word]
        assert files, f"nothing matches {word}"
        found += files
    return found


def check_install(words: list[str]) -> None:
    """`pip install` names this project's own constraints and extras."""
    wanted = [extra for word in words for extra in re.findall(r"\.\[(.+)\]", word)]
    assert wanted
    assert {name for extra in wanted for name in extra.split(",")} <= PROJECT[
        "optional-dependencies"
    ].keys()
    if "-c" in words:
        assert (ROOT / words[words.index("-c") + 1]).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, blocks in BLOCKS.items() if blocks])
def test_the_examples_work(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_diffusion_folder: Path,
    tiny_clip_folder: Path,
) -> None:
    (tmp_path / "prompts").symlink_to(ROOT / "prompts")
    monkeypatch.chdir(tmp_path)
    folders = {
        "MODEL_FOLDER": str(tiny_diffusion_folder),
        "CLIP_FOLDER": str(tiny_clip_folder),
    }
    with ExitStack() as stack:
        if SERVER in "".join(block.text for block in BLOCKS[name]):
            folders[SERVER] = stack.enter_context(serving(tmp_path))
        reader = Reader(monkeypatch, capsys, folders)
        for block in BLOCKS[name]:
            assert block.language in LANGUAGES
            reader.follow(block)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """`generate-ui` with the shipped weights, on a port that is free."""
    server = pytest.importorskip("ui.server", reason="gradio is not installed")
    with RunFolder(folder / "served") as run_folder:
        service = Service(Engine(), run_folder)
        with server.served(service, "127.0.0.1", 0) as url:
            yield url
            service.stop()


def test_every_command_is_shown() -> None:
    blocks = (block for part in BLOCKS.values() for block in part if block.language == "sh")
    shown = {word for block in blocks for command in commands(block.text) for word in command}
    assert set(PROJECT["scripts"]) <= shown


@pytest.mark.parametrize(
    "command",
    [
        'generate "a panda" --candidtaes 4',
        'rerank "a panda" . --best 3',
        "generate-ui --share",
        "salon-train clip --hours 3",
        "make everything",
        'pip install -e ".[all]"',
        "python -m train.evaluate --slow",
        "accelerate launch --use_fsdp --fsdp_vresion 2 -m train dalle",
    ],
)
def test_a_wrong_example_would_be_found(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader = Reader(monkeypatch, capsys, {})
    with pytest.raises((AssertionError, SystemExit, pytest.fail.Exception)):
        reader.follow(Block("sh", "", command))


def test_the_exit_codes_are_those_of_the_command() -> None:
    told = {int(code) for code in re.findall(r"(?m)^\| (\d+) \|", TEXTS["docs/command-line.md"])}
    assert told == {
        cli.DONE,
        cli.BUG,
        cli.BAD_INPUT,
        cli.BAD_WEIGHTS,
        cli.SOME_FAILED,
        cli.NO_ROOM,
        cli.INTERRUPTED,
    }


def test_what_it_can_draw_is_what_it_was_shown() -> None:
    prompts = TEXTS["docs/prompts.md"]
    lists = re.findall(r"(?m)^- \*\*(.+)\*\*: ((?:.+\n)(?:  .+\n)*)", prompts)
    told = {title: re.split(r",\s+", " ".join(names.split())) for title, names in lists}
    categories = {
        "Animals": "animal",
        "Food": "food",
        "Vehicles": "vehicle",
        "Plants": "plant",
        "Sky": "sky",
        "Things": "thing",
    }
    assert told == {
        **{
            title: [noun.name for noun in NOUNS if noun.category == category]
            for title, category in categories.items()
        },
        "Shapes": [shape.name for shape in SHAPES],
        "Colours of shapes": [colour.name for colour in COLOURS],
        "Backgrounds": [ground.name for ground in GROUNDS],
    }
    assert {noun.category for noun in NOUNS} == set(categories.values())


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)]+)\)", TEXTS[name])
    here = [link.partition("#") for link in links if not link.startswith("https://")]
    file = DOCUMENTS[name]
    for target, _, heading in here:
        there = file.parent / target if target else file
        assert there.is_file(), target
        assert not heading or heading in headings(there.read_text("utf-8")), heading


def headings(document: str) -> set[str]:
    """Return the names under which the headings of a document can be linked to."""
    titles = re.findall(r"(?m)^#+ (.*)$", document)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_site_has_every_page() -> None:
    listed = re.findall(r"(?m)^  - .*: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"))
    assert sorted(listed) == sorted(path.name for path in PAGES)


@pytest.mark.parametrize(("name", "most"), [("README.md", 150), ("ARCHITECTURE.md", 250)])
def test_what_is_read_first_is_short(name: str, most: int) -> None:
    assert len(TEXTS[name].splitlines()) <= most
