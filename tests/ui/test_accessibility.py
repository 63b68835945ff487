"""What axe-core, the checker of Deque, finds on every tab: nothing."""

from importlib.resources import files
from typing import Any

import pytest
from person import drawn, tab

pytestmark = pytest.mark.slow

RUN = """axe.run(document, {resultTypes: ['violations']}).then((result) =>
  result.violations.flatMap((each) =>
    each.nodes.map((node) => `${each.id}: ${node.html.slice(0, 200)}`)))"""


@pytest.fixture(scope="session")
def axe() -> str:
    return (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


def violations(page: Any, axe: str) -> list[str]:
    page.wait_for_timeout(500)
    page.evaluate(axe)
    found: list[str] = page.evaluate(RUN)
    return found


@pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]
)
def test_axe_finds_nothing(width: int, scheme: str, axe: str, browser, quick) -> None:
    page = browser.open(quick.url, width=width, color_scheme=scheme)
    page.wait_for_selector("#start .draws")
    found = {"start": violations(page, axe)}
    page.fill("#prompt textarea", "a tern")
    page.press("#prompt textarea", "Enter")
    page.wait_for_selector("#draw-picture img")
    page.wait_for_selector("#draw-generate:visible")
    page.click("[data-toggle=settings]")
    found["draw"] = violations(page, axe)
    page.click("#draw-picture .hero")
    found["lightbox"] = violations(page, axe)
    page.keyboard.press("Escape")
    for name in ("Gallery", "Compare", "Rank", "Edit"):
        page.click(f'role=tab[name="{name}"]')
        if name == "Gallery":
            page.wait_for_selector("#gallery-prompts .tile img")
            page.click("[data-select]")
        found[name] = violations(page, axe)
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]
)
def test_axe_finds_nothing_where_images_are_edited(
    width: int, scheme: str, axe: str, browser, site
) -> None:
    page = browser.open(site.url, width=width, color_scheme=scheme)
    tab(page, "Edit")
    page.wait_for_selector("#edit-file input", state="attached")
    found = {"empty": violations(page, axe)}
    tab(page, "Draw")
    drawn(page, "a tern", candidates=2, top_k=2, steps=2)
    page.click("#draw-edit")
    page.wait_for_selector("#edit-board canvas:visible")
    page.click("#edit-extend button")
    page.click("#edit-size button")
    found["image"] = violations(page, axe)
    page.fill("#edit-prompt textarea, #edit-prompt input", "a wren")
    page.fill("#edit-candidates input", "2")
    page.fill("#edit-top_k input", "2")
    page.click("#edit-generate")
    page.wait_for_selector("#edit-picture img:visible")
    page.wait_for_selector("#edit-generate:visible")
    found["result"] = violations(page, axe)
    page.click("[data-before]")
    found["before and after"] = violations(page, axe)
    assert {name: lines for name, lines in found.items() if lines} == {}
