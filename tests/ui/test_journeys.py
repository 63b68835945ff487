"""Longer journeys over the page in a real browser, several checks in each."""

import json
from pathlib import Path
from typing import Any

import pytest
from person import draw, drawn, open_settings

from gen.models import find

SIDES = ("left", "right")
pytestmark = pytest.mark.slow


def noted(folder: Path, event: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "manifest.jsonl").read_text("utf-8").splitlines())
    return [line for line in lines if line["event"] == event]


def test_rerankers_are_combined_and_a_search_is_asked_for(browser, site) -> None:
    page = browser.open(site.url)
    open_settings(page)
    page.check("#rerankers label:has-text('stickers-clip') input")
    drawn(page, "a panda", candidates=3, top_k=2, steps=2)
    assert page.locator("#draw-known .parts li").count() == 2
    assert "stickers-clip" in page.inner_text("#draw-known .parts")
    last = noted(site.folder, "judged")[-1]
    assert len(next(iter(last["parts"].values()))) == 2

    browser.reload(page)  # what was chosen is still chosen
    page.wait_for_function("document.querySelectorAll('#rerankers input:checked').length == 2")
    page.uncheck("#rerankers label:has-text('stickers-clip') input")
    page.check("#search input")
    drawn(page, "a fox", candidates=6, top_k=2, steps=8)
    assert page.locator("#draw-known .parts").count() == 0
    assert noted(site.folder, "searched")


def test_hearts_and_which_is_better_are_choices(browser, quick) -> None:
    page = browser.open(quick.url)
    drawn(page, "a shrew", seed=70, candidates=3, top_k=3)
    page.click("#draw-heart")
    page.wait_for_selector("#draw-heart >> text=given")
    page.click("[data-better]")
    page.wait_for_selector(".better .two img")
    shown = [page.get_attribute(f".better [data-side={side}] img", "src") for side in SIDES]
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".better-told >> text=1 to go")
    assert page.get_attribute(".better [data-side=left] img", "src") == shown[1]  # it won
    page.click(".better [data-side=left]")
    page.wait_for_selector(".better", state="detached")

    tiles = page.locator("#draw-best .tile").all()
    keys = [tile.get_attribute("data-name").split("/") for tile in tiles]
    number, best = int(keys[0][0]), [int(seed) for _, seed in keys]
    assert noted(quick.folder, "chosen") == [
        {"event": "chosen", "number": number, "seed": best[0], "heart": True},
        {"event": "chosen", "number": number, "seed": best[1], "over": best[0]},
        {"event": "chosen", "number": number, "seed": best[1], "over": best[2]},
    ]
    browser.reload(page)  # what the last prompt came to is shown again, its heart too
    page.wait_for_selector("#draw-heart >> text=given")


def test_models_are_loaded_when_chosen_and_let_go(browser, quick) -> None:
    page = browser.open(quick.url)
    open_settings(page)
    page.check("#model label:has-text('other') input")
    page.click("#in-memory li:has-text('other') [data-do=release]")
    page.wait_for_selector("#in-memory li:has-text('other')", state="detached")
    assert quick.service.engine.loaded(find("other")) is None
    draw(page, "a vole", candidates=2, top_k=1)
    page.wait_for_selector("#draw-best .tile img")  # it was loaded again
    assert quick.service.engine.loaded(find("other")) is not None
