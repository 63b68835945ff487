"""How a ranking is shown: as a table, JSON, CSV, copies of the files, a contact sheet. No torch."""

import csv
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.runtime.terminal import FULL
from rerank.ranking import Ranked, Ranking
from rerank.whole_files import shortened, written_whole

if TYPE_CHECKING:
    from PIL import Image

    from rerank.claims.checking import Checked

TICK, CROSS = "✓", "✗"


@dataclass(frozen=True)
class Scored:
    """What `rerank PROMPT …` shows: the model's name, the files, their ranking, and the claims by
    the index of a file."""

    model: str
    files: Sequence[Path]
    ranking: Ranking
    checked: "Mapping[int, Checked]"
    unparsed: Sequence[str]


def table(scored: Scored) -> Iterator[str]:
    """Yield the lines of a table for people."""
    for place, each in enumerate(scored.ranking, start=1):
        columns = [f"{place:4}", f"{each.score:+.4f}"]
        if each.probability is not None and each.percentile is not None:
            columns.append(
                f"{each.probability:4.0%} likely, above {each.percentile:.0f} % of others"
            )
        columns += [f"{name} {score:+.4f}" for name, score in each.parts.items()]
        columns.append(str(scored.files[each.index]))
        if each.alike:
            columns.append(f"(and {len(each.alike)} like it)")
        yield "  ".join(columns)
        if each.index in scored.checked:
            verdicts = scored.checked[each.index].results
            marks = [f"{TICK if v.holds else CROSS} {v.claim.text}" for v in verdicts]
            yield "      " + "  ".join(marks)


def to_json(prompt: str, scored: Scored) -> str:
    """Return one JSON object with all that is known."""
    ranking = scored.ranking
    content: dict[str, Any] = {"prompt": prompt, "model": scored.model, "parts": ranking.chunks}
    if ranking.none_matches is not None:
        content["none_matches"] = ranking.none_matches
    if scored.checked:
        content["unsplit"] = list(scored.unparsed)
    content["results"] = [_row(place, each, scored) for place, each in enumerate(ranking, 1)]
    content["failed"] = failures(scored.files, ranking.failed)
    return json.dumps(content, indent=2)


def _row(place: int, each: Ranked, scored: Scored) -> dict[str, Any]:
    row: dict[str, Any] = {
        "rank": place,
        "score": each.score,
        "file": str(scored.files[each.index]),
    }
    if each.probability is not None:
        row |= {"percentile": each.percentile, "probability": each.probability}
    if each.alike:
        row["alike"] = [str(scored.files[index]) for index in each.alike]
    if each.parts:
        row["parts"] = dict(each.parts)
    if each.index in scored.checked:
        found = scored.checked[each.index]
        row["claims"] = [
            {"kind": v.claim.kind, "claim": v.claim.text, "holds": v.holds} for v in found.results
        ]
        row["fits_best"] = found.corrected
    return row


def to_csv(scored: Scored) -> str:
    """Return a table of comma-separated values, with a header."""
    rows = [_row(place, each, scored) for place, each in enumerate(scored.ranking, start=1)]
    text = io.StringIO()
    columns = ["rank", "score", "percentile", "probability", "file"]
    columns = [name for name in columns if not rows or name in rows[0]]
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def copy(scored: Scored, folder: Path) -> dict[Path, str]:
    """Copy the ranked files, each whole or not at all; return why some could not be copied.

    Raises OSError when the disk is full.
    """
    failed = {}
    width = max(2, len(str(len(scored.ranking))))
    for place, each in enumerate(scored.ranking, start=1):
        file = scored.files[each.index]
        target = folder / shortened(f"{place:0{width}}-{file.name}")
        try:
            with written_whole(target) as temporary:
                shutil.copyfile(file, temporary)
        except OSError as error:
            if error.errno in FULL:
                raise
            failed[file] = str(error.strerror)
    return failed


def draw_contact_sheet(prompt: str, scored: Scored, path: Path) -> list[Path]:
    """Draw the ranked images, with what is known of each below it, and return where.

    On one page, or as many as it takes: s.png, s-2.png and so on. Memory holds one page and one
    image at a time. Raises OSError when the disk is full.
    """
    from rerank import contact_sheet

    ranked = list(enumerate(scored.ranking, start=1))
    size = contact_sheet.PAGE_ROWS * contact_sheet.COLUMNS
    pages: list[Path] = []
    for start in range(0, max(1, len(ranked)), size):
        shown = ranked[start : start + size]
        images = [_miniature(scored.files[each.index]) for _, each in shown]
        captions = [_caption(place, each, scored) for place, each in shown]
        page = contact_sheet.draw([contact_sheet.Block(prompt, "", images, captions)])
        name = path.name if start == 0 else f"{path.stem}-{len(pages) + 1}{path.suffix}"
        pages.append(path.with_name(name))
        with written_whole(pages[-1]) as temporary:
            format = contact_sheet.FORMATS[path.suffix.lower()]
            temporary.write_bytes(contact_sheet.encode(page, format))
    return pages


def _miniature(file: Path) -> "Image.Image":
    """Return an image at its size on the page; a grey one for a file that is gone since."""
    from PIL import Image

    from pipelines.images import BadImageError, decoded
    from rerank.contact_sheet import GREY, IMAGE, fitted

    try:
        with decoded(file, enough=IMAGE) as image:
            return fitted(image)
    except BadImageError:
        return Image.new("RGB", (IMAGE, IMAGE), GREY)


def _caption(place: int, each: Ranked, scored: Scored) -> list[tuple[str, str]]:
    file = scored.files[each.index]
    lines = [f"{place}.  {each.score:.4f}"]
    if each.probability is not None:
        lines[0] += f"   {each.probability:.0%} likely"
    if each.index in scored.checked:
        wrong = [v.claim.text for v in scored.checked[each.index].results if not v.holds]
        lines.append(f"not: {', '.join(wrong)}" if wrong else "all claims hold")
    return [(line, "") for line in (*lines, file.name)]


def failures(files: Sequence[Path], failed: Mapping[int, str]) -> list[dict[str, str]]:
    """Return the files that could not be scored, each with the reason."""
    return [
        {"file": str(files[index]), "reason": reason(files[index], why)}
        for index, why in sorted(failed.items())
    ]


def reason(file: Path, why: str) -> str:
    """Return why a file failed, without its name in front."""
    return why.removeprefix(f"{file}: ")
