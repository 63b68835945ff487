"""What people do with the page by its keys alone; drawing and the lightbox: see test_in_browser."""

import io
from pathlib import Path
from typing import Any

import fake_models
import pytest

from gen import metadata

pytestmark = pytest.mark.slow

MOST_STOPS = 250  # of the Tab key, on a whole round


def go_to(page: Any, selector: str) -> None:
    """Press Tab until the focus is there, and can be seen."""
    for _ in range(MOST_STOPS):
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            break
        page.keyboard.press("Tab")
    else:
        raise AssertionError(f"the Tab key never comes to {selector}")
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) != "none"


def press(page: Any, selector: str) -> None:
    """Go to a button, and press it."""
    go_to(page, selector)
    page.keyboard.press("Enter")


def type_into(page: Any, selector: str, text: str) -> None:
    """Go to a field, and type in place of what is there."""
    go_to(page, selector)
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type(text)


def tab(page: Any, name: str) -> None:
    press(page, f"#tabs [role=tab][data-tab-id={name}]")


def upload(page: Any, within: str, prompt: str) -> None:
    """Choose a file as a person does whose system asks for it."""
    out = io.BytesIO()
    fake_models.picture(prompt, 1).save(out, "png")
    with page.expect_file_chooser() as chooser:
        press(page, f"{within} button")
    chooser.value.set_files({"name": "a.png", "mimeType": "image/png", "buffer": out.getvalue()})


def test_editing(browser, site) -> None:
    """A box by its numbers stands for the brush, and an edge answers to arrow keys."""
    page = browser.open(site.url)
    tab(page, "edit")
    upload(page, "#edit-file", "a photo")
    page.wait_for_selector(".board-told >> text=64 × 64 pixels")
    go_to(page, "[data-edge=right]")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".board-told >> text=extended to 72 × 64")
    page.keyboard.press("ArrowLeft")
    type_into(page, "#edit-prompt :is(input, textarea)", "a red star")
    type_into(page, "#edit-candidates input", "4")
    type_into(page, "#edit-mask_box :is(input, textarea)", "32,0,64,64")
    press(page, "#edit-generate")
    page.wait_for_selector("#edit-picture img:visible")
    page.wait_for_selector("#edit-generate:visible")
    best: Path = max(site.folder.glob("*-r1-*.png"), key=lambda path: path.name[:4])
    assert metadata.read(best).request.mask_box == "32,0,64,64"


# The fakes below take the place of all models until the end of this file.


def test_the_gallery(browser, quick) -> None:
    page = browser.open(quick.url)
    page.wait_for_function("document.activeElement.closest('#prompt')")
    page.keyboard.type("a goosander")
    type_into(page, "#candidates input", "4")
    press(page, "#draw-generate")
    page.wait_for_selector("#draw-best .tile img")
    page.wait_for_selector("#draw-generate:visible")
    tab(page, "gallery")
    page.wait_for_selector("#gallery-prompts .tile img")
    type_into(page, "#gallery-search :is(input, textarea)", "goosander")
    page.wait_for_selector("#gallery-told >> text=1 prompt")
    press(page, "[data-select]")
    press(page, "#gallery-prompts .tile")
    page.wait_for_selector("#gallery-prompts .tile[aria-pressed=true]")
    press(page, "[data-do=delete]")
    page.wait_for_selector("#gallery-told >> text=Nothing of that kind")
    press(page, "#deleted-back")
    page.wait_for_selector("#gallery-told >> text=1 prompt")
    press(page, "[data-select]")
    press(page, "#gallery-prompts .tile")
    page.wait_for_selector("#gallery-picture .hero")
    press(page, "#gallery-reuse")
    page.wait_for_selector("#draw-generate:visible")
    assert page.input_value("#prompt textarea") == "a goosander"


def test_comparing_and_ranking(browser, quick) -> None:
    page = browser.open(quick.url)
    tab(page, "compare")
    type_into(page, "#compare-prompt :is(input, textarea)", "a scoter")
    type_into(page, "#compare-down-values :is(input, textarea)", "2, 4")
    press(page, "#compare-generate")
    page.wait_for_function("document.querySelectorAll('#compare-best img').length == 6")
    page.wait_for_selector("#compare-generate:visible")
    tab(page, "rank")
    upload(page, "#rank-files", "a scoter")
    page.wait_for_selector("#rank-files >> text=a")
    type_into(page, "#rank-prompt :is(input, textarea)", "a scoter")
    page.keyboard.press("Enter")
    page.wait_for_selector("#rank-results .tile img")
