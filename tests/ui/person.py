"""What a person does with the page."""

from typing import Any

import pytest

EVERY_SCREEN = pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]
)


def fill(page: Any, **fields: object) -> None:
    """Fill in the form as a person does."""
    if "steps" in fields:
        open_settings(page)
    for name, value in fields.items():
        page.fill(f"#{name} input, #{name} textarea", str(value))


def open_settings(page: Any) -> None:
    if not page.is_visible("#settings"):
        page.click("[data-toggle=settings]")


def draw(page: Any, prompt: str, **fields: object) -> None:
    """The same, and press Enter in the prompt."""
    fill(page, **{"candidates": 5, "top_k": 2, **fields})
    page.fill("#prompt textarea", prompt)
    page.press("#prompt textarea", "Enter")


def drawn(page: Any, prompt: str, **fields: object) -> None:
    """The same, and wait for the images."""
    draw(page, prompt, **fields)
    page.wait_for_selector(f"#draw-heading >> text={prompt}")
    page.wait_for_selector("#draw-best .tile img")
    page.wait_for_selector("#draw-generate:visible")


def tab(page: Any, name: str) -> None:
    page.click(f'role=tab[name="{name}"]')


AXE = """axe.run(document, {resultTypes: ['violations']}).then((result) =>
  result.violations.flatMap((each) =>
    each.nodes.map((node) => `${each.id}: ${node.html.slice(0, 200)}`)))"""


def violations(page: Any, axe: str) -> list[str]:
    """Return what axe-core finds on the page; `axe` is its source."""
    page.wait_for_timeout(500)
    page.evaluate(axe)
    found: list[str] = page.evaluate(AXE)
    return found
