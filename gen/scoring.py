"""Scores, and the ranks that they give."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from PIL import Image

from gen.models import raise_unless_out_of_memory
from gen.result import Result

NOT_FINITE = "its score is not a finite number"


Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels


def score(
    scorer: Any,
    prompt: str,
    results: Sequence[Result],
    images: Any,
    boxes: Sequence[Box | None] = (),
) -> None:
    """Give results their raw scores: one each, or one of each member of a Panel, in `scores`.

    `images` are those of the results, as uint8 (M, 3, H, W) or a list of PIL images. An edit has a
    box around what is drawn anew, and its score is the mean of those of the whole and of the box:
    a closer look, where the scorer does not see every pixel of the whole anyway. Raises RoomError
    if memory is short.
    """
    parts = _parts(scorer, prompt, images)
    sees = getattr(scorer, "image_size", 0)  # pixels a side
    boxed = [i for i, box in enumerate(boxes) if box is not None and max(_size(images[i])) > sees]
    if boxed:
        cut = _parts(scorer, prompt, [_cut(images[i], boxes[i]) for i in boxed])
        for name, values in parts.items():
            for place, i in enumerate(boxed):
                values[i] = (values[i] + cut[name][place]) / 2
    for i, result in enumerate(results):
        result.score, result.scores = parts[""][i] if "" in parts else None, {}
        if "" not in parts:
            result.scores = {name: values[i] for name, values in parts.items()}


def _parts(scorer: Any, prompt: str, images: Any) -> dict[str, list[float]]:
    """Return the raw scores by name of the member, "" for a scorer that has none."""
    try:
        if hasattr(scorer, "combine"):
            parts = scorer.score_each(prompt, images).parts
            return {name: list(values) for name, values in parts.items()}
        rate = scorer.score if hasattr(scorer, "score") else scorer
        return {"": list(rate(prompt, images))}
    except Exception as error:
        raise_unless_out_of_memory(error, candidates=1)
        raise


def _size(image: Any) -> tuple[int, int]:
    """Return the two sides of a PIL image, or of a tensor (3, H, W)."""
    return image.size if isinstance(image, Image.Image) else image.shape[1:]


def _cut(image: Any, box: Box | None) -> Any:
    """Return a part of a PIL image, or of a tensor (3, H, W)."""
    assert box is not None
    if isinstance(image, Image.Image):
        return image.crop(box)
    left, top, right, bottom = box
    return image[:, top:bottom, left:right]


def combine(scorer: Any, results: Iterable[Result]) -> None:
    """Set the scores of one prompt's results from their parts: only together they compare."""
    names = [member.scorer.name for member in scorer.members]
    scored = [r for r in results if r.failed is None and r.scores.keys() == set(names)]
    parts = {name: [result.scores[name] for result in scored] for name in names}
    for result, combined in zip(scored, scorer.combine(parts), strict=True):
        result.score = combined


def has_score(result: Result) -> bool:
    """Return whether a result has a finite score."""
    return result.score is not None and math.isfinite(result.score)


def ranked(results: Iterable[Result]) -> list[Result]:
    """Return the images, best score first, equals in the order of making; unscored ones last.

    Failed candidates are left out.
    """
    from rerank import rank

    good = sorted((r for r in results if r.failed is None), key=lambda r: r.index)
    scored = [result for result in good if result.score is not None]
    scores = [result.score for result in scored if result.score is not None]
    unscored = [result for result in good if result.score is None]
    return [scored[place.index] for place in rank(scores)] + unscored
