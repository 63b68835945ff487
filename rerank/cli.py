"""The `rerank` command: a ranked table of pictures for a prompt."""

import argparse
import io
import json
import math
import os
import sys
import warnings
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from rerank.specs import DEFAULT, SPECS, WeightsError

if TYPE_CHECKING:
    import torch

    from rerank.reranker import Ranked, Reranker

DONE, BAD_INPUT, BAD_WEIGHTS, SOME_FAILED, NO_ROOM, INTERRUPTED = 0, 2, 3, 4, 5, 130
UNFORESEEN = 1
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"})
BATCH = 256  # files whose prepared pictures are in memory at a time

Failures = list[tuple[Path, str]]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    for stream in (sys.stdout, sys.stderr):  # file names need not be text
        if isinstance(stream, io.TextIOWrapper):  # None where it is closed
            stream.reconfigure(errors="backslashreplace")
    arguments = build_parser().parse_args(argv)
    try:
        return run(arguments)
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, "interrupted")
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:
        if arguments.debug:
            raise
        return _fail(*_explain(error))


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="rerank", description="Rank pictures by how well they match a text, best first."
    )
    parser.add_argument("prompt", type=_prompt, help="what the pictures should show")
    parser.add_argument(
        "pictures", nargs="+", type=Path, metavar="PICTURE|FOLDER",
        help="picture files, and folders whose pictures are taken",
    )  # fmt: skip
    parser.add_argument("-k", "--top-k", type=_count, metavar="K", help="show the best K only")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "-m", "--model", default=DEFAULT,
        help=f"{', '.join(SPECS)}, or the folder of a CLIP model (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--device", help="cpu, cuda or cuda:1 (default: cuda where there is one)")
    parser.add_argument("--debug", action="store_true", help="show a traceback on errors")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Find the files, score them, print the table. Raises what `_explain` knows."""
    files = list_files(arguments.pictures)

    import torch
    from PIL import Image

    from rerank.reranker import Reranker, rank

    # The library has its own, lower limit, which becomes one line per file.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    jury = Reranker.load(arguments.model, arguments.device)
    parts = len(jury.chunks(arguments.prompt))
    if parts > 1:
        _note(f"the prompt is longer than {jury.context} tokens: it is scored in {parts} parts")

    try:
        scored, failures = score_files(jury, arguments.prompt, files)
    except torch.OutOfMemoryError as error:
        raise MemoryError from error
    ranking = rank([score for _, score in scored])[: arguments.top_k]
    for path, reason in failures:
        _note(f"{path} is left out: {reason}")
    if arguments.top_k is not None and arguments.top_k > len(scored):
        _note(f"{arguments.top_k} pictures were asked for, there are {len(scored)}")
    paths = [path for path, _ in scored]
    if arguments.json:
        _print_json(arguments.prompt, jury.name, ranking, paths, failures)
    else:
        _print_table(ranking, paths)
    if not scored:
        return BAD_INPUT
    return SOME_FAILED if failures else DONE


def list_files(arguments: Sequence[Path]) -> list[Path]:
    """The files given, and the pictures directly in the folders given, sorted by name.

    Raises ValueError for a folder without any.
    """
    files: list[Path] = []
    for path in arguments:
        if not path.is_dir():
            files.append(path)  # also if it is not there: reported with the other bad ones
            continue
        found = sorted(
            entry
            for entry in path.iterdir()
            if entry.suffix.lower() in SUFFIXES and not entry.name.startswith(".")
        )
        if not found:
            raise ValueError(f"{path}: no pictures ({', '.join(sorted(SUFFIXES))}) in this folder")
        files += found
    return files


def score_files(
    jury: "Reranker", prompt: str, files: Sequence[Path]
) -> tuple[list[tuple[Path, float]], Failures]:
    """The files that could be scored with their finite scores, and the others with the reason."""
    from rerank.preprocessing import BadImageError

    scored: list[tuple[Path, float]] = []
    failures: Failures = []
    waiting = iter(files)
    while batch := list(islice(waiting, BATCH)):
        readable: list[Path] = []
        pictures: list[torch.Tensor] = []
        for path in batch:
            try:
                pictures.append(jury.prepare(path))
                readable.append(path)
            except BadImageError as error:
                failures.append((path, str(error).removeprefix(f"{path}: ")))
        for path, score in zip(readable, jury.score(prompt, pictures), strict=True):
            if math.isfinite(score):
                scored.append((path, score))
            else:
                failures.append((path, "the model gives no finite score"))
    return scored, failures


def _print_table(ranking: Sequence["Ranked"], paths: Sequence[Path]) -> None:
    for place, ranked in enumerate(ranking, start=1):
        print(f"{place:4}  {ranked.score:+.4f}  {paths[ranked.index]}", flush=True)


def _print_json(
    prompt: str,
    model: str,
    ranking: Sequence["Ranked"],
    paths: Sequence[Path],
    failures: Failures,
) -> None:
    table = {
        "prompt": prompt,
        "model": model,
        "results": [
            {"rank": place, "score": ranked.score, "file": str(paths[ranked.index])}
            for place, ranked in enumerate(ranking, start=1)
        ],
        "failed": [{"file": str(path), "reason": reason} for path, reason in failures],
    }
    print(json.dumps(table, indent=2), flush=True)


def _prompt(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the prompt is empty")
    return text


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _explain(error: Exception) -> tuple[int, str]:
    """The exit code and the line for an error."""
    match error:
        case WeightsError():
            return BAD_WEIGHTS, str(error)
        case ValueError() | OSError():
            return BAD_INPUT, str(error)
        case MemoryError():
            return NO_ROOM, "out of memory: close other programs, or use --device cpu"
        case _:
            return UNFORESEEN, f"{type(error).__name__}: {error} (--debug shows where)"


def _note(line: str) -> None:
    print(f"rerank: {line}", file=sys.stderr)


def _fail(code: int, line: str) -> int:
    _note(line)
    return code
