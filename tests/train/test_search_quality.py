"""Searches are measured on images that the judge was made for."""

import pytest

from gen.engine import Engine
from train.evaluate import STICKERS
from train.prefer_quality import ask
from train.search_quality import _drawn

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("search", [None, "prune"])
def test_images_are_judged_as_the_network_draws_them(search: str | None) -> None:
    [prompt] = ask(STICKERS, 1, "a test")
    settings = {"model": "stickers", "candidates": 4, "top_k": 1, "steps": 4, "search": search}
    engine = Engine(device="cpu", reranker="none" if search is None else None)
    outcome, _ = _drawn(engine, prompt, 32, **settings)
    image = outcome.best[0].open()
    assert image is not None
    assert image.size == (64, 64)
    assert outcome.best[0].seed >= 32
