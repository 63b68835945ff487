"""Choices that the judge makes: `salon-train judged -m MODEL` writes a choices.jsonl.

A reward that can be verified, after learning from people's choices: the model draws candidates of
prompts of training, and the world's judge says which are right. Where a prompt has both, right
images are preferred to wrong ones, and `salon-train prefer` learns from that as from what people
chose. Both images of a choice are the model's own, so what it learns is which of its habits to
leave.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipelines.drafts import Pipeline, to_image
from train.worlds import World

CHOICES = "choices.jsonl"
ASKED = "judged.jsonl"  # a line for each prompt that was drawn, whatever came of it
PAIRS = 3  # of one prompt, at most


def judged(pipeline: Pipeline, world: World, folder: Path, prompts: int, candidates: int) -> Path:
    """Write choices among images of so many prompts, with the images, and return the file.

    Prompts are the same for the same world. What a stopped run has drawn is not drawn again: a
    model whose weights have changed wants another folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / ASKED
    done = _whole_lines(table)
    with table.open("a", encoding="utf-8") as file:
        for number in tqdm(range(len(done), prompts), unit="prompt", leave=False):
            file.write(json.dumps(_draw(pipeline, world, folder, number, candidates)) + "\n")
            file.flush()
    lines = [json.dumps(choice) + "\n" for row in _whole_lines(table) for choice in _pairs(row)]
    (folder / CHOICES).write_text("".join(lines), encoding="utf-8")
    return folder / CHOICES


def share_right(folder: Path) -> float:
    """Return the share of all images drawn that the judge found right."""
    right = [each for row in _whole_lines(folder / ASKED) for each in row["right"]]
    return sum(right) / len(right)


def _draw(
    pipeline: Pipeline, world: World, folder: Path, number: int, candidates: int
) -> dict[str, Any]:
    """Draw candidates of a prompt, keep those that choices can be made of, and return its line."""
    asked = world.lesson(random.Random(f"judged:{number}"))
    first = number * candidates  # every image has a seed of its own
    with pipeline.begin(asked.text, seeds=range(first, first + candidates)) as draft:
        draft.step(draft.total)
        images = draft.pixels().cpu()
    right = [each for each, _ in world.look(images, asked.description)]
    if any(right) and not all(right):
        for place, image in enumerate(images):
            to_image(image).save(folder / _name(number, place))
    return {"number": number, "prompt": asked.text, "right": right}


def _pairs(row: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Yield choices of a line: as many as leave no right and no wrong image unused, or `PAIRS`."""
    number, right = row["number"], row["right"]
    good = [place for place, each in enumerate(right) if each]
    bad = [place for place, each in enumerate(right) if not each]
    if not good or not bad:
        return
    for turn in range(min(PAIRS, max(len(good), len(bad)))):
        chosen, rejected = good[turn % len(good)], bad[turn % len(bad)]
        names = {"chosen": _name(number, chosen), "rejected": _name(number, rejected)}
        yield {"prompt": row["prompt"], **names}


def _name(number: int, place: int) -> str:
    return f"{number:05d}-{place}.png"


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Return what the lines of a file say; half a line that a stop has left is cut off."""
    if not path.is_file():
        return []
    written = path.read_bytes()
    whole = written[: written.rfind(b"\n") + 1]
    if whole != written:
        path.write_bytes(whole)
    return [json.loads(line) for line in whole.splitlines()]
