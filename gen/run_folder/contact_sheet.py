"""The contact sheet of what a command made, best first; rerank draws the page."""

from collections.abc import Sequence

from gen.result import Result
from rerank.contact_sheet import Block, Caption, draw, fitted

__all__ = ["BLOCKS", "Block", "Caption", "block", "draw", "fitted"]

BLOCKS = 60  # prompts on one page; a longer page is no help


def block(title: str, subtitle: str, results: Sequence[Result]) -> Block:
    """Make a prompt's block from its results; those without an image are left out."""
    images, captions = [], []
    for result in results:
        image = result.open()
        if image is None:
            continue
        score = "" if result.score is None else f"{result.score:.3f}"
        rank = "" if result.rank is None else f"{result.rank}."
        state = "" if result.unfinished is None else "  unfinished"
        images.append(fitted(image))  # so that many prompts fit into memory
        captions.append([(f"{rank}  {score}{state}".strip(), f"seed {result.seed}")])
    return Block(title, subtitle, images, captions)
