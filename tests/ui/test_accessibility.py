"""What axe-core, the checker of Deque, finds on every tab: nothing."""

import pytest
from person import EVERY_SCREEN, violations

pytestmark = pytest.mark.slow


@EVERY_SCREEN
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
