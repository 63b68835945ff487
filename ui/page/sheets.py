"""Contact sheets of what was drawn before, and X/Y sheets of comparisons, as images."""

import io
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Response
from PIL import Image
from starlette.exceptions import HTTPException

from gen.result import Result
from gen.run_folder import contact_sheet
from gen.run_folder.events import Axis, Comparison, SavedImage
from gen.run_folder.fold import PromptHistory
from ui.page.files import CACHING, opened
from ui.page.form import label_of
from ui.service.service import Service

SHEETS = "/sheets/"
COMPARED = f"{SHEETS}compared-"
MOST_ON_SHEET = 128


def routes(service: Service) -> APIRouter:
    """Return the paths that contact sheets have."""
    router = APIRouter(include_in_schema=False)

    @router.get(COMPARED + "{number}.png", response_class=Response)
    def xy_sheet(number: int) -> Response:
        service.history.refresh()
        comparison = service.history.find_comparison(number)
        if comparison is None:
            raise HTTPException(404, "no such comparison")
        return _answer(_compared(service, comparison))

    @router.get(SHEETS + "{number}.png", response_class=Response)
    def prompt_sheet(number: int) -> Response:
        service.history.refresh()
        history = service.history.find(number)
        if history is None:
            raise HTTPException(404, "no such prompt")
        results = _readable(service, history, history.images[:MOST_ON_SHEET])
        return _answer(
            [contact_sheet.block(history.request.prompt, f"prompt {number:04d}", results)]
        )

    return router


def label(axis: Axis, value: Any) -> str:
    """Describe a setting and one of its values."""
    shown = f"{value:g}" if isinstance(value, float) else value
    return f"{label_of(axis.name)} {shown}"


def _answer(blocks: Sequence[contact_sheet.Block]) -> Response:
    out = io.BytesIO()
    contact_sheet.draw(blocks).save(out, "png")
    return Response(out.getvalue(), media_type="image/png", headers=CACHING)


def _compared(service: Service, comparison: Comparison) -> list[contact_sheet.Block]:
    """Return a block for each row."""
    across, down, wide = comparison.across, comparison.down, len(comparison.across.values)
    return [
        _row(service, label(down, y), across, comparison.numbers[place * wide :][:wide])
        for place, y in enumerate(down.values)
    ]


def _row(service: Service, title: str, across: Axis, numbers: Sequence[int]) -> contact_sheet.Block:
    images: list[Image.Image] = []
    captions: list[contact_sheet.Caption] = []
    prompt = ""
    for x, number in zip(across.values, numbers, strict=False):
        history = service.history.find(number)
        if history is None:
            continue
        prompt = history.request.prompt
        for result in _readable(service, history, history.best[:1]):
            score = "" if result.score is None else f"{result.score:.3f}"
            captions.append([(label(across, x), score)])
            assert result.image is not None
            images.append(contact_sheet.fitted(result.image))
    return contact_sheet.Block(title, prompt, images, captions)


def _readable(
    service: Service, history: PromptHistory, images: Sequence[SavedImage]
) -> list[Result]:
    """Return images as a contact sheet takes them, without those that cannot be read."""
    results = [
        Result(
            history.request.replace(seed=saved.seed),
            image=opened(service.history.path(saved)),
            score=saved.score,
            rank=saved.rank,
            unfinished=saved.unfinished,
        )
        for saved in images
    ]
    return [result for result in results if result.image is not None]
