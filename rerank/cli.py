"""The `rerank` command. Besides it, `console` and `search.commands` print; nothing else does."""

import argparse
import json
import math
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.hashes import files_hash
from pipelines.runtime import terminal
from pipelines.runtime.limits import wait_politely
from rerank import output, scorers
from rerank.console import (
    BAD_INPUT,
    BAD_WEIGHTS,
    DONE,
    INTERRUPTED,
    NO_ROOM,
    SOME_FAILED,
    UNFORESEEN,
    counter,
    encode,
    load,
    note,
    out_of_memory,
    tell_unread,
)
from rerank.extras import MissingExtraError
from rerank.flags import parse
from rerank.images import Encoded, list_images
from rerank.model.specs import DEFAULT
from rerank.output import Scored
from rerank.search.commands import index_images, search_images

if TYPE_CHECKING:
    from rerank.claims.checking import Checked
    from rerank.reranker import Reranker


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    wait_politely()
    terminal.prepare_streams()  # file names need not be text
    warnings.filterwarnings("ignore", module="PIL")  # of what is odd in files that can be read
    words = list(sys.argv[1:] if argv is None else argv)
    commands = {
        "rank": _rank,
        "classify": _classify,
        "index": index_images,
        "search": search_images,
        "calibrate": _calibrate,
        "learn": _learn,
    }
    try:
        options = parse(words)
        return commands[options.command](options)
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, "interrupted")
    except Exception as error:
        if "--debug" in words:
            raise
        return _fail(*_explain(error))


# ---- rank


def _rank(options: argparse.Namespace) -> int:
    """Find the files, score them, print the table."""
    files = list_files(options.images)
    _prepare_outputs(options, files)
    scored = _score(options, files)
    ranking = scored.ranking
    count = len(files) - len(ranking.failed)
    _tell_failures(files, ranking.failed)
    if options.top_k is not None and options.top_k > count:
        note(f"{options.top_k} images were asked for, there are {count}")
    if scored.unparsed:
        note(f"not checked: {'; '.join(scored.unparsed)}")
    if options.json:
        terminal.write(output.to_json(options.prompt, scored))
    elif options.csv:
        terminal.write(output.to_csv(scored), end="")
    else:
        for line in output.table(scored):
            terminal.write(line)
    if ranking.none_matches:
        note("none of these matches the prompt")
    not_copied = {} if options.copy_to is None else output.copy(scored, options.copy_to)
    for file, why in not_copied.items():
        note(f"{file} is not copied: {why}")
    if options.sheet is not None:
        pages = output.draw_contact_sheet(options.prompt, scored, options.sheet)
        if len(pages) > 1:
            note(f"the contact sheet takes {len(pages)} pages, up to {pages[-1]}")
    if count == 0:
        return BAD_INPUT
    return SOME_FAILED if ranking.failed or not_copied else DONE


def _prepare_outputs(options: argparse.Namespace, files: Sequence[Path]) -> None:
    """Make the folders of --copy-to and --sheet. Raises ValueError for what cannot be written."""
    if options.copy_to is not None:
        if any(file.parent.resolve() == options.copy_to.resolve() for file in files):
            raise ValueError(f"--copy-to {options.copy_to}: ranked images lie there: name another")
        options.copy_to.mkdir(parents=True, exist_ok=True)
    if options.sheet is not None:
        from rerank.contact_sheet import FORMATS

        if options.sheet.suffix.lower() not in FORMATS:
            kinds = ", ".join(FORMATS)
            raise ValueError(f"--sheet {options.sheet}: its name must end in one of {kinds}")
        options.sheet.parent.mkdir(parents=True, exist_ok=True)
        if options.sheet.is_dir() or not os.access(options.sheet.parent, os.W_OK):
            raise ValueError(f"--sheet {options.sheet}: cannot be written there")


def _score(options: argparse.Namespace, files: Sequence[Path]) -> Scored:
    models = options.model if options.model is not None else [(DEFAULT, 1.0)]
    reranker = load(options, models[0][0])
    parts = len(reranker.chunks(options.prompt))
    if parts > 1:
        note(f"the prompt is longer than {reranker.context} tokens: it is scored in {parts} parts")
    if len(models) > 1 or options.aesthetic is not None:
        return _score_by_panel(options, files, reranker, models)
    encoded = encode(reranker, files, options)
    with out_of_memory():
        ranking = reranker.top_k(
            options.prompt,
            encoded,
            options.top_k if options.top_k is not None else max(1, len(files)),
            diversity=options.diversity,
            calibrate=_calibrates(options),
            templates=options.template,
        )
        ranking.failed |= _without_number(reranker.score(options.prompt, encoded), ranking.failed)
        checked: dict[int, Checked] = {}
        unparsed: tuple[str, ...] = ()
        if options.claims:
            unparsed = reranker.claims(options.prompt).unparsed
            shown = [each.index for each in ranking]
            found = reranker.check(options.prompt, Encoded(encoded.features[shown]))
            checked = dict(zip(shown, found, strict=True))
    return Scored(reranker.name, files, ranking, checked, unparsed)


def _score_by_panel(
    options: argparse.Namespace,
    files: Sequence[Path],
    reranker: "Reranker",
    models: Sequence[tuple[str, float]],
) -> Scored:
    if options.diversity or _calibrates(options) or options.claims or options.template:
        raise ValueError(
            "--diversity, --calibrate, --claims and --template are for one model alone"
        )
    loaded = [reranker, *(load(options, name) for name, _ in models[1:])]
    panel = scorers.panel(loaded, models, options.aesthetic)
    with out_of_memory():
        scores = panel.score_each(
            options.prompt, files, progress=counter(options, len(files)), skip_bad=True
        )
    ranking = scores.ranking(options.top_k)
    ranking.failed |= _without_number(scores.scores, ranking.failed)
    return Scored(panel.name, files, ranking, {}, ())


def _calibrates(options: argparse.Namespace) -> bool:
    return options.calibrate or options.calibration is not None


def _without_number(scores: Sequence[float], failed: Mapping[int, str]) -> dict[int, str]:
    return {
        index: "the model gives no finite score"
        for index, score in enumerate(scores)
        if index not in failed and not math.isfinite(score)
    }


# ---- the other commands


def _classify(options: argparse.Namespace) -> int:
    """Return the likeliest label of each image."""
    files = list_files(options.images)
    reranker = load(options, options.model)
    encoded = encode(reranker, files, options)
    with out_of_memory():
        found = reranker.classify(encoded, options.label, templates=options.template)
    _tell_failures(files, encoded.failed)
    rows: list[dict[str, Any]] = [
        {"file": str(file), "label": next(iter(chances)), "probabilities": chances}
        for index, (file, chances) in enumerate(zip(files, found, strict=True))
        if index not in encoded.failed
    ]
    if options.json:
        failed = output.failures(files, encoded.failed)
        content = {"model": reranker.name, "results": rows, "failed": failed}
        terminal.write(json.dumps(content, indent=2))
    else:
        for row in rows:
            label, chance = next(iter(row["probabilities"].items()))
            terminal.write(f"{chance:6.1%}  {label}  {row['file']}")
    if not rows:
        return BAD_INPUT
    return SOME_FAILED if encoded.failed else DONE


def _calibrate(options: argparse.Namespace) -> int:
    """Make a calibration.json."""
    from rerank.calibration import calibrating, calibration

    rows = calibrating.read_captions(options.captions)
    reranker = load(options, options.model)
    files = list(dict.fromkeys(file for file, _, _ in rows))
    encoded = encode(reranker, files, options)
    _tell_failures(files, encoded.failed)
    pairs = [
        calibrating.Pair(files.index(file), caption, matches)
        for file, caption, matches in rows
        if files.index(file) not in encoded.failed
    ]
    pairs = calibrating.with_wrong_ones(reranker, pairs)
    captions = [caption for _, caption, _ in rows]
    made, quality = calibrating.make(
        reranker, encoded, pairs, captions, counter(options, len(pairs), "pairs")
    )
    path = options.output if options.output is not None else reranker.folder / calibration.FILE
    calibration.write(made, path)
    terminal.write(
        f"{path}: on {quality.pairs} pairs held out, the expected calibration error is "
        f"{quality.error:.3f}, and {quality.right:.1%} are told right"
    )
    return SOME_FAILED if encoded.failed else DONE


def _learn(options: argparse.Namespace) -> int:
    """Make a head that scores as somebody chose."""
    from rerank.learn.choices import files_of, read_choices
    from rerank.learn.learning import learn_choices

    choices, reranker = read_choices(options.choices), load(options, options.model)
    files = files_of(choices)
    encoded = encode(reranker, files, options)
    _tell_failures(files, encoded.failed)
    learned = learn_choices(choices, files, encoded)
    learned.save(options.output, files_hash(reranker.folder))
    terminal.write(f"{options.output}: {learned.summary()}")
    return SOME_FAILED if encoded.failed else DONE


# ---- what they share


def list_files(arguments: Sequence[Path]) -> list[Path]:
    """Return the files given, and the images directly in the folders given, sorted by name.

    Raises ValueError for a folder without any.
    """
    files: list[Path] = []
    for path in arguments:
        if path.is_dir():
            files += list_images(path)
            tell_unread(path)
        else:
            files.append(path)  # also if it is not there: reported with the other bad ones
    return files


def _tell_failures(files: Sequence[Path], failed: Mapping[int, str]) -> None:
    for index, why in sorted(failed.items()):
        note(f"{files[index]} is left out: {output.reason(files[index], why)}")


def _explain(error: Exception) -> tuple[int, str]:
    """Return the exit code and the line for an error."""
    match error:
        case WeightsError():
            return BAD_WEIGHTS, str(error)
        case OSError() if error.errno in terminal.FULL:
            where = "the disk" if error.filename is None else error.filename
            return NO_ROOM, f"cannot write {where}: {error.strerror}: make room and run it again"
        case OSError() if error.filename is not None:
            return BAD_INPUT, f"{error.filename}: {error.strerror}"
        case ValueError() | OSError() | MissingExtraError():
            return BAD_INPUT, str(error)
        case MemoryError():
            return NO_ROOM, "out of memory: close other programs, or use --device cpu"
        case _:
            return UNFORESEEN, f"{type(error).__name__}: {error} (--debug shows where)"


def _fail(code: int, line: str) -> int:
    note(line)
    return code
