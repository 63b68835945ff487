"""The `rerank` command; the only part of the package that prints."""

import argparse
import csv
import io
import json
import math
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.checkpoints.errors import WeightsError
from rerank import scorers
from rerank.extras import MissingExtraError
from rerank.flags import parse
from rerank.model.specs import DEFAULT
from rerank.pictures import Encoded, list_pictures
from rerank.ranking import Ranked, Ranking

if TYPE_CHECKING:
    from rerank.claims.checking import Checked
    from rerank.reranker import Reranker

DONE, BAD_INPUT, BAD_WEIGHTS, SOME_FAILED, NO_ROOM, INTERRUPTED = 0, 2, 3, 4, 5, 130
UNFORESEEN = 1
TICK, CROSS = "✓", "✗"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    for stream in (sys.stdout, sys.stderr):  # file names need not be text
        if isinstance(stream, io.TextIOWrapper):  # None where it is closed
            stream.reconfigure(errors="backslashreplace")
    options = parse(list(sys.argv[1:] if argv is None else argv))
    commands = {
        "rank": _rank,
        "classify": _classify,
        "index": _index,
        "search": _search,
        "calibrate": _calibrate,
    }
    try:
        return commands[options.command](options)
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, "interrupted")
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:
        if options.debug:
            raise
        return _fail(*_explain(error))


# ---- rank


@dataclass(frozen=True)
class Judged:
    """What `rerank PROMPT …` shows: the model's name, the files, their ranking, and the claims by
    the index of a file."""

    model: str
    files: Sequence[Path]
    ranking: Ranking
    checked: "Mapping[int, Checked]"
    unparsed: Sequence[str]


def _rank(options: argparse.Namespace) -> int:
    """Find the files, score them, print the table."""
    files = list_files(options.pictures)
    judged = _judged(options, files)
    ranking = judged.ranking
    scored = [file for index, file in enumerate(files) if index not in ranking.failed]
    _tell_failures(files, ranking.failed)
    if options.top_k is not None and options.top_k > len(scored):
        _note(f"{options.top_k} pictures were asked for, there are {len(scored)}")
    if judged.unparsed:
        _note(f"not checked: {'; '.join(judged.unparsed)}")
    if options.json:
        _print_json(options.prompt, judged)
    elif options.csv:
        _print_csv(judged)
    else:
        _print_table(judged)
    if ranking.none_matches:
        _note("none of these matches the prompt")
    if options.copy_to is not None:
        _copy(judged, options.copy_to)
    if options.sheet is not None:
        _draw_sheet(options.prompt, judged, options.sheet)
    if not scored:
        return BAD_INPUT
    return SOME_FAILED if ranking.failed else DONE


def _judged(options: argparse.Namespace, files: Sequence[Path]) -> Judged:
    models = options.model if options.model is not None else [(DEFAULT, 1.0)]
    jury = _load(options, models[0][0])
    parts = len(jury.chunks(options.prompt))
    if parts > 1:
        _note(f"the prompt is longer than {jury.context} tokens: it is scored in {parts} parts")
    if len(models) > 1 or options.aesthetic is not None:
        return _judged_by_panel(options, files, jury, models)
    encoded = _encode(jury, files, options)
    with _out_of_memory():
        ranking = jury.top_k(
            options.prompt,
            encoded,
            options.top_k if options.top_k is not None else max(1, len(files)),
            diversity=options.diversity,
            calibrate=_calibrates(options),
            templates=options.template,
        )
        ranking.failed |= _without_number(jury.score(options.prompt, encoded), ranking.failed)
        checked: dict[int, Checked] = {}
        unparsed: tuple[str, ...] = ()
        if options.claims:
            unparsed = jury.claims(options.prompt).unparsed
            shown = [each.index for each in ranking]
            found = jury.check(options.prompt, Encoded(encoded.features[shown]))
            checked = dict(zip(shown, found, strict=True))
    return Judged(jury.name, files, ranking, checked, unparsed)


def _judged_by_panel(
    options: argparse.Namespace,
    files: Sequence[Path],
    jury: "Reranker",
    models: Sequence[tuple[str, float]],
) -> Judged:
    if options.diversity or _calibrates(options) or options.claims or options.template:
        raise ValueError(
            "--diversity, --calibrate, --claims and --template are for one model alone"
        )
    loaded = [jury, *(_load(options, name) for name, _ in models[1:])]
    panel = scorers.panel(loaded, models, options.aesthetic)
    with _out_of_memory():
        opinions = panel.judge(
            options.prompt, files, progress=_counter(options, len(files)), skip_bad=True
        )
    ranking = opinions.ranking(options.top_k)
    ranking.failed |= _without_number(opinions.scores, ranking.failed)
    return Judged(panel.name, files, ranking, {}, ())


def _calibrates(options: argparse.Namespace) -> bool:
    return options.calibrate or options.calibration is not None


def _without_number(scores: Sequence[float], failed: Mapping[int, str]) -> dict[int, str]:
    return {
        index: "the model gives no finite score"
        for index, score in enumerate(scores)
        if index not in failed and not math.isfinite(score)
    }


def _print_table(judged: Judged) -> None:
    for place, each in enumerate(judged.ranking, start=1):
        columns = [f"{place:4}", f"{each.score:+.4f}"]
        if each.probability is not None and each.percentile is not None:
            columns.append(
                f"{each.probability:4.0%} likely, above {each.percentile:.0f} % of others"
            )
        columns += [f"{name} {score:+.4f}" for name, score in each.parts.items()]
        columns.append(str(judged.files[each.index]))
        if each.alike:
            columns.append(f"(and {len(each.alike)} like it)")
        print("  ".join(columns), flush=True)
        if each.index in judged.checked:
            verdicts = judged.checked[each.index].results
            marks = [f"{TICK if v.holds else CROSS} {v.claim.text}" for v in verdicts]
            print("      " + "  ".join(marks), flush=True)


def _print_json(prompt: str, judged: Judged) -> None:
    ranking = judged.ranking
    table: dict[str, Any] = {"prompt": prompt, "model": judged.model, "parts": ranking.chunks}
    if ranking.none_matches is not None:
        table["none_matches"] = ranking.none_matches
    if judged.checked:
        table["unsplit"] = list(judged.unparsed)
    table["results"] = [_to_json(place, each, judged) for place, each in enumerate(ranking, 1)]
    table["failed"] = _failures(judged.files, ranking.failed)
    print(json.dumps(table, indent=2), flush=True)


def _to_json(place: int, each: Ranked, judged: Judged) -> dict[str, Any]:
    row: dict[str, Any] = {
        "rank": place,
        "score": each.score,
        "file": str(judged.files[each.index]),
    }
    if each.probability is not None:
        row |= {"percentile": each.percentile, "probability": each.probability}
    if each.alike:
        row["alike"] = [str(judged.files[index]) for index in each.alike]
    if each.parts:
        row["parts"] = dict(each.parts)
    if each.index in judged.checked:
        found = judged.checked[each.index]
        row["claims"] = [
            {"kind": v.claim.kind, "claim": v.claim.text, "holds": v.holds} for v in found.results
        ]
        row["fits_best"] = found.corrected
    return row


def _print_csv(judged: Judged) -> None:
    rows = [_to_json(place, each, judged) for place, each in enumerate(judged.ranking, start=1)]
    text = io.StringIO()
    columns = ["rank", "score", "percentile", "probability", "file"]
    columns = [name for name in columns if not rows or name in rows[0]]
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    print(text.getvalue(), end="", flush=True)


def _copy(judged: Judged, folder: Path) -> None:
    """Copy the ranked files, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    width = max(2, len(str(len(judged.ranking))))
    for place, each in enumerate(judged.ranking, start=1):
        file = judged.files[each.index]
        target = folder / f"{place:0{width}}-{file.name}"
        shutil.copyfile(file, folder / f".{target.name}.new")
        os.replace(folder / f".{target.name}.new", target)


def _draw_sheet(prompt: str, judged: Judged, path: Path) -> None:
    from rerank import contact_sheet
    from rerank.model.preprocessing import open_picture

    images, captions = [], []
    for place, each in enumerate(judged.ranking, start=1):
        file = judged.files[each.index]
        images.append(open_picture(file))
        lines = [f"{place}.  {each.score:.4f}"]
        if each.probability is not None:
            lines[0] += f"   {each.probability:.0%} likely"
        if each.index in judged.checked:
            wrong = [v.claim.text for v in judged.checked[each.index].results if not v.holds]
            lines.append(f"not: {', '.join(wrong)}" if wrong else "all claims hold")
        captions.append([(line, "") for line in (*lines, file.name)])
    contact_sheet.draw([contact_sheet.Block(prompt, "", images, captions)]).save(path)


# ---- the other commands


def _classify(options: argparse.Namespace) -> int:
    """The likeliest label of each picture."""
    files = list_files(options.pictures)
    jury = _load(options, options.model)
    encoded = _encode(jury, files, options)
    with _out_of_memory():
        found = jury.classify(encoded, options.label, templates=options.template)
    _tell_failures(files, encoded.failed)
    rows: list[dict[str, Any]] = [
        {"file": str(file), "label": next(iter(chances)), "probabilities": chances}
        for index, (file, chances) in enumerate(zip(files, found, strict=True))
        if index not in encoded.failed
    ]
    if options.json:
        failed = _failures(files, encoded.failed)
        print(json.dumps({"model": jury.name, "results": rows, "failed": failed}, indent=2))
    else:
        for row in rows:
            label, chance = next(iter(row["probabilities"].items()))
            print(f"{chance:6.1%}  {label}  {row['file']}", flush=True)
    if not rows:
        return BAD_INPUT
    return SOME_FAILED if encoded.failed else DONE


def _index(options: argparse.Namespace) -> int:
    """Make the index of a folder, or bring it up to date."""
    from rerank.search.index import Index

    jury = _load(options, options.model)
    with _out_of_memory():
        index, update = Index.build(
            options.folder, jury, where=options.index, progress=_counter(options)
        )
    for path, why in update.failed.items():
        _note(f"{path} is left out: {_reason(path, why)}")
    print(
        f"{len(index.entries)} pictures: {update.added} read, {update.kept} there already, "
        f"{update.removed} forgotten"
    )
    return SOME_FAILED if update.failed else DONE


def _search(options: argparse.Namespace) -> int:
    """Find pictures in an index."""
    from rerank.search.index import Index

    if (options.query is None) == (options.like is None):
        raise ValueError("say what to look for: a text, or --like PICTURE")
    jury = _load(options, options.model)
    index = Index.open(options.folder, jury, where=options.index)
    found = index.search(options.like if options.query is None else options.query, options.top_k)
    if options.json:
        rows = [{"score": f.score, "file": str(f.path), "stale": f.stale} for f in found]
        print(json.dumps({"model": jury.name, "results": rows}, indent=2))
    else:
        for place, each in enumerate(found, start=1):
            stale = "  (changed or removed since)" if each.stale else ""
            print(f"{place:4}  {each.score:+.4f}  {each.path}{stale}", flush=True)
    if stale_files := index.stale():
        _note(
            f"{len(stale_files)} pictures are new, changed or gone: "
            f"`rerank index {options.folder}` brings the index up to date"
        )
    return DONE


def _calibrate(options: argparse.Namespace) -> int:
    """Make a calibration.json."""
    from rerank.calibration import calibrating, calibration

    rows = calibrating.read_captions(options.captions)
    jury = _load(options, options.model)
    files = list(dict.fromkeys(file for file, _, _ in rows))
    encoded = _encode(jury, files, options)
    _tell_failures(files, encoded.failed)
    pairs = [
        calibrating.Pair(files.index(file), caption, matches)
        for file, caption, matches in rows
        if files.index(file) not in encoded.failed
    ]
    pairs = calibrating.with_wrong_ones(jury, pairs)
    captions = [caption for _, caption, _ in rows]
    made, quality = calibrating.make(
        jury, encoded, pairs, captions, _counter(options, len(pairs), "pairs")
    )
    path = options.output if options.output is not None else jury.folder / calibration.FILE
    calibration.write(made, path)
    print(
        f"{path}: on {quality.pairs} pairs held back, the expected calibration error is "
        f"{quality.error:.3f}, and {quality.right:.1%} are told right"
    )
    return SOME_FAILED if encoded.failed else DONE


# ---- what they share


def list_files(arguments: Sequence[Path]) -> list[Path]:
    """The files given, and the pictures directly in the folders given, sorted by name.

    Raises ValueError for a folder without any.
    """
    files: list[Path] = []
    for path in arguments:
        if path.is_dir():
            files += list_pictures(path)
        else:
            files.append(path)  # also if it is not there: reported with the other bad ones
    return files


def _load(options: argparse.Namespace, name: str) -> "Reranker":
    from PIL import Image

    from rerank.reranker import Reranker

    # The library has its own, lower limit, which becomes one line per file.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        jury = Reranker.load(
            name,
            options.device,
            exact=options.exact,
            processor=options.processor,
            calibration=getattr(options, "calibration", None),
        )
    for warning in caught:
        _note(str(warning.message))
    return jury


def _encode(jury: "Reranker", files: Sequence[Path], options: argparse.Namespace) -> Encoded:
    with _out_of_memory():
        return jury.encode(files, progress=_counter(options, len(files)), skip_bad=True)


@contextmanager
def _out_of_memory() -> Iterator[None]:
    """Raise MemoryError for whatever a library raises when memory is short."""
    from pipelines.runtime.devices import is_out_of_memory

    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise MemoryError from error
        raise


def _counter(
    options: argparse.Namespace, total: int | None = None, what: str = "pictures"
) -> Callable[[int], None] | None:
    """Shows how many are done, on a terminal."""
    if options.quiet or not sys.stderr.isatty():
        return None
    of = "" if total is None else f" of {total}"

    def show(done: int) -> None:
        end = "\r\033[K" if done == total else ""
        print(f"\r{done}{of} {what}{end}", end="", file=sys.stderr, flush=True)

    return show


def _tell_failures(files: Sequence[Path], failed: Mapping[int, str]) -> None:
    for index, why in sorted(failed.items()):
        _note(f"{files[index]} is left out: {_reason(files[index], why)}")


def _failures(files: Sequence[Path], failed: Mapping[int, str]) -> list[dict[str, str]]:
    return [
        {"file": str(files[index]), "reason": _reason(files[index], why)}
        for index, why in sorted(failed.items())
    ]


def _reason(file: Path, why: str) -> str:
    return why.removeprefix(f"{file}: ")


def _explain(error: Exception) -> tuple[int, str]:
    """The exit code and the line for an error."""
    match error:
        case WeightsError():
            return BAD_WEIGHTS, str(error)
        case ValueError() | OSError() | MissingExtraError():
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
