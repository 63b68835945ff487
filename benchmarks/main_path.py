"""Count what a reader meets on the way from the `generate` command to the saved image.

    python -m benchmarks.main_path [--tree FOLDER]

Runs one `generate` of the shipped model in a process of its own and follows it. Three figures, each
in files and in lines of functions, for `gen`, `pipelines` and `rerank`:

- to the image: the functions on the call stack when the UNet runs, when the VAE decodes, and when
  the image file gets its name. A test holds this to 8 files and 1,000 lines of gen and pipelines.
- to all milestones: also when the request is resolved, the text encoder and the reranker run, the
  manifest is written and the result is printed.
- executed: every function that runs at all.

`--tree` follows another checkout in the same way, so that two trees can be compared by one measure.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("gen", "pipelines", "rerank")
TO_IMAGE = ("UNet2DConditionModel runs", "VAE decodes", "image written")
IS_FUNCTION = 0x1  # CO_OPTIMIZED: bodies of modules and classes run when they are imported
NETWORK = os.path.join("torch", "nn", "modules", "module.py")
COMMAND = ("a red fox", "--candidates", "1", "--top-k", "1", "--steps", "2", "--seed", "7")


@dataclass(frozen=True)
class Figure:
    """Lines of functions by file, and what they are."""

    lines: dict[str, int]
    functions: list[str]

    def of(self, *packages: str) -> tuple[int, int]:
        """Return how many files and lines lie in some packages."""
        counts = [n for file, n in self.lines.items() if file.split("/")[0] in packages]
        return len(counts), sum(counts)


@dataclass(frozen=True)
class MainPath:
    """The figures, and the milestones at which the stack was looked at."""

    to_image: Figure
    on_path: Figure
    executed: Figure
    milestones: list[str]


class Tracer:
    """Follows this process: which functions run, and which are on the stack at a milestone."""

    def __init__(self, tree: Path) -> None:
        self.tree = f"{tree}{os.sep}"
        self.executed: set[CodeType] = set()
        self.to_image: set[CodeType] = set()
        self.on_path: set[CodeType] = set()
        self.milestones: dict[str, None] = {}

    def begin(self) -> None:
        """Follow calls, image files, and what is printed."""
        import builtins
        import threading

        said = builtins.print

        def show(*words: Any, **options: Any) -> None:
            self.look("printed", sys._getframe(1))
            said(*words, **options)

        builtins.print = show
        sys.addaudithook(self.hear)
        threading.setprofile(self.follow)
        sys.setprofile(self.follow)

    def follow(self, frame: FrameType, event: str, _: object) -> None:
        """Note a call."""
        if event != "call":
            return
        code = frame.f_code
        if self.is_ours(code):
            self.executed.add(code)
            if code.co_name == "resolve" and "plan" in code.co_filename:
                self.look("request resolved", frame)
            elif code.co_name == "append" and "manifest" in code.co_filename:
                self.look("manifest written", frame)
        elif code.co_filename.endswith(NETWORK) and code.co_name == "_call_impl":
            caller = frame.f_back
            while caller is not None and caller.f_code.co_filename.endswith(NETWORK):
                caller = caller.f_back
            if caller is not None and self.is_ours(caller.f_code):
                self.look(f"{type(frame.f_locals.get('self')).__name__} runs", frame)
        elif code.co_name == "decode" and "autoencoder" in code.co_filename:
            self.look("VAE decodes", frame)

    def hear(self, event: str, facts: tuple[Any, ...]) -> None:
        """Note an image file that gets its name when it is whole."""
        if event == "os.rename" and str(facts[1]).endswith(".png"):
            self.look("image written", sys._getframe(1))

    def look(self, milestone: str, frame: FrameType | None) -> None:
        """Note what is on the stack."""
        self.milestones[milestone] = None
        while frame is not None:
            if self.is_ours(frame.f_code):
                self.on_path.add(frame.f_code)
                if milestone in TO_IMAGE:
                    self.to_image.add(frame.f_code)
            frame = frame.f_back

    def is_ours(self, code: CodeType) -> bool:
        """Return whether code is a function of the packages that are counted."""
        file = code.co_filename
        inside = file.startswith(self.tree) and file[len(self.tree) :].split(os.sep)[0] in PACKAGES
        return inside and bool(code.co_flags & IS_FUNCTION)

    def result(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return {
            "to_image": [self._plain(code) for code in self.to_image],
            "on_path": [self._plain(code) for code in self.on_path],
            "executed": [self._plain(code) for code in self.executed],
            "milestones": list(self.milestones),
        }

    def _plain(self, code: CodeType) -> list[Any]:
        file = code.co_filename[len(self.tree) :].replace(os.sep, "/")
        return [file, code.co_qualname, code.co_firstlineno, last_line(code)]


def last_line(code: CodeType) -> int:
    """Return the last line of a function, those of functions inside it included."""
    lines = [line for _, _, line in code.co_lines() if line is not None]
    inner = [last_line(each) for each in code.co_consts if isinstance(each, CodeType)]
    return max([code.co_firstlineno, *lines, *inner])


def follow_here(tree: Path, out: Path) -> None:
    """Run the command in this process, followed, and write what was met."""
    tracer = Tracer(tree)
    from gen.cli import main

    with tempfile.TemporaryDirectory() as folder:
        tracer.begin()
        code = main([*COMMAND, "-o", folder, "--device", "cpu"])
        sys.setprofile(None)
    if code != 0:
        sys.exit(code)
    out.write_text(json.dumps(tracer.result()))


def measure(tree: Path = ROOT) -> MainPath:
    """Follow one `generate` of the code in a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "met.json"
        code = f"""
import sys
sys.path.insert(0, {str(tree)!r})
import gen
sys.path.append({str(ROOT)!r})
import importlib.util
spec = importlib.util.spec_from_file_location("main_path", {str(Path(__file__).resolve())!r})
module = importlib.util.module_from_spec(spec)
sys.modules["main_path"] = module
spec.loader.exec_module(module)
from pathlib import Path
module.follow_here(Path({str(tree)!r}), Path({str(out)!r}))
"""
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        subprocess.run(
            [sys.executable, "-c", code], cwd=folder, env=environment, check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        met = json.loads(out.read_text())
    return MainPath(
        _figure(met["to_image"]),
        _figure(met["on_path"]),
        _figure(met["executed"]),
        met["milestones"],
    )


def _figure(functions: Iterable[tuple[str, str, int, int]]) -> Figure:
    lines: dict[str, set[int]] = defaultdict(set)
    for file, _, first, last in functions:
        lines[file].update(range(first, last + 1))
    names = sorted({f"{file}:{first} {name}" for file, name, first, _ in functions})
    return Figure({file: len(those) for file, those in sorted(lines.items())}, names)


def main() -> None:
    """Print the figures, and the functions on the way to the image."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tree", type=Path, default=ROOT, help="another checkout")
    found = measure(parser.parse_args().tree.resolve())
    for name in found.to_image.functions:
        print(f"  {name}")
    print(f"milestones: {', '.join(found.milestones)}")
    figures = {
        "to the image": found.to_image,
        "to all milestones": found.on_path,
        "executed": found.executed,
    }
    for title, figure in figures.items():
        own, beside = figure.of("gen", "pipelines"), figure.of("rerank")
        gen = figure.of("gen")
        print(
            f"{title}: {own[0]} files, {own[1]} lines of gen and pipelines; "
            f"gen alone {gen[0]}, {gen[1]}; rerank besides {beside[0]}, {beside[1]}"
        )
        print("  " + ", ".join(f"{file} {lines}" for file, lines in figure.lines.items()))


if __name__ == "__main__":
    main()
