"""Contact sheets of what was drawn before, and X/Y sheets of comparisons, as pictures."""

import io
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Response
from PIL import Image
from starlette.exceptions import HTTPException

from gen.result import Result
from gen.run_folder import contact_sheet as sheet
from gen.run_folder.events import Axis, Comparison, SavedImage
from gen.run_folder.fold import PromptHistory
from ui.page.files import CACHING, opened
from ui.page.form import label_of
from ui.service.service import Studio

SHEETS = "/sheets/"
COMPARED = f"{SHEETS}compared-"
MOST_ON_SHEET = 128


def routes(studio: Studio) -> APIRouter:
    """The paths that sheets have."""
    router = APIRouter(include_in_schema=False)

    @router.get(COMPARED + "{number}.png", response_class=Response)
    def xy_sheet(number: int) -> Response:
        studio.history.refresh()
        comparison = studio.history.find_comparison(number)
        if comparison is None:
            raise HTTPException(404, "no such comparison")
        return _answer(_compared(studio, comparison))

    @router.get(SHEETS + "{number}.png", response_class=Response)
    def contact_sheet(number: int) -> Response:
        studio.history.refresh()
        past = studio.history.find(number)
        if past is None:
            raise HTTPException(404, "no such prompt")
        results = _readable(studio, past, past.images[:MOST_ON_SHEET])
        return _answer([sheet.block(past.request.prompt, f"prompt {number:04d}", results)])

    return router


def label(axis: Axis, value: Any) -> str:
    """A setting and one of its values, for people."""
    shown = f"{value:g}" if isinstance(value, float) else value
    return f"{label_of(axis.name)} {shown}"


def _answer(blocks: Sequence[sheet.Block]) -> Response:
    out = io.BytesIO()
    sheet.draw(blocks).save(out, "png")
    return Response(out.getvalue(), media_type="image/png", headers=CACHING)


def _compared(studio: Studio, comparison: Comparison) -> list[sheet.Block]:
    """A block for each row."""
    across, down, wide = comparison.across, comparison.down, len(comparison.across.values)
    return [
        _row(studio, label(down, y), across, comparison.numbers[place * wide :][:wide])
        for place, y in enumerate(down.values)
    ]


def _row(studio: Studio, title: str, across: Axis, numbers: Sequence[int]) -> sheet.Block:
    pictures: list[Image.Image] = []
    captions: list[sheet.Caption] = []
    prompt = ""
    for x, number in zip(across.values, numbers, strict=False):
        past = studio.history.find(number)
        if past is None:
            continue
        prompt = past.request.prompt
        for result in _readable(studio, past, past.best[:1]):
            score = "" if result.score is None else f"{result.score:.3f}"
            captions.append([(label(across, x), score)])
            assert result.image is not None
            pictures.append(sheet.fitted(result.image))
    return sheet.Block(title, prompt, pictures, captions)


def _readable(studio: Studio, past: PromptHistory, pictures: Sequence[SavedImage]) -> list[Result]:
    """Pictures of the history as the sheet takes them, without those that cannot be read."""
    results = [
        Result(
            past.request.replace(seed=picture.seed),
            image=opened(studio.history.path(picture)),
            score=picture.score,
            rank=picture.rank,
            unfinished=picture.unfinished,
        )
        for picture in pictures
    ]
    return [result for result in results if result.image is not None]
