"""How a ranking is shown: as a table, JSON, CSV, copies of the files, a contact sheet. No torch."""

import csv
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rerank.ranking import Ranked, Ranking

if TYPE_CHECKING:
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


def copy(scored: Scored, folder: Path) -> None:
    """Copy the ranked files, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    width = max(2, len(str(len(scored.ranking))))
    for place, each in enumerate(scored.ranking, start=1):
        file = scored.files[each.index]
        target = folder / f"{place:0{width}}-{file.name}"
        shutil.copyfile(file, folder / f".{target.name}.new")
        os.replace(folder / f".{target.name}.new", target)


def draw_contact_sheet(prompt: str, scored: Scored, path: Path) -> None:
    """Draw the ranked images on one page, with what is known of each below it."""
    from pipelines.images import open_image
    from rerank import contact_sheet

    images, captions = [], []
    for place, each in enumerate(scored.ranking, start=1):
        file = scored.files[each.index]
        images.append(open_image(file))
        lines = [f"{place}.  {each.score:.4f}"]
        if each.probability is not None:
            lines[0] += f"   {each.probability:.0%} likely"
        if each.index in scored.checked:
            wrong = [v.claim.text for v in scored.checked[each.index].results if not v.holds]
            lines.append(f"not: {', '.join(wrong)}" if wrong else "all claims hold")
        captions.append([(line, "") for line in (*lines, file.name)])
    contact_sheet.draw([contact_sheet.Block(prompt, "", images, captions)]).save(path)


def failures(files: Sequence[Path], failed: Mapping[int, str]) -> list[dict[str, str]]:
    """Return the files that could not be scored, each with the reason."""
    return [
        {"file": str(files[index]), "reason": reason(files[index], why)}
        for index, why in sorted(failed.items())
    ]


def reason(file: Path, why: str) -> str:
    """Return why a file failed, without its name in front."""
    return why.removeprefix(f"{file}: ")
