"""The page as a person uses it, in a real browser."""

from pathlib import Path
from typing import Any

from gen import metadata

SEED = 9007199254740993  # 2^53 + 1, which a browser's numbers cannot hold


def draw(page: Any, prompt: str, **fields: object) -> None:
    """Fill in the form as a person does, and press Enter in the prompt."""
    if not page.is_visible("#steps input"):
        page.click("text=How to draw")
    for name, value in {"candidates": 5, "top_k": 2, "steps": 2, **fields}.items():
        page.fill(f"#{name} input, #{name} textarea", str(value))
    page.fill("#prompt textarea", prompt)
    page.press("#prompt textarea", "Enter")


def test_the_best_are_shown_first_and_the_rest_behind_a_click(browser, site) -> None:
    page = browser.open(site.url)
    prompt = "a panda <b>left</b> of <img src=x onerror=alert(1)>"

    draw(page, prompt, seed=SEED)
    page.wait_for_selector("#best img")

    captions = page.locator("#best .caption-label").all_inner_texts()
    assert [caption[:2] for caption in captions] == ["1.", "2."]
    assert "best 2 of 5" in page.inner_text("#status")
    assert not page.is_visible("#rest img")
    page.click("text=The other candidates")
    page.wait_for_selector("#rest img")
    assert page.locator("#rest .caption-label").count() == 3
    seeds = {path.stem.split("-")[1] for path in site.folder.rglob("*-9007*.png")}
    assert seeds == {str(SEED + i) for i in range(5)}

    best = page.get_attribute("#best img", "src")
    [saved] = site.folder.glob("0001-*-r1.png")
    served = page.request.get(best)
    assert served.body() == saved.read_bytes()  # with all that is written inside
    assert metadata.read(saved).request.prompt == prompt
    box = page.locator("#best img").first.bounding_box()
    assert box["width"] >= 2 * 64  # small pictures are enlarged
    assert [url for url in browser.requests if not url.startswith((site.url, "data:"))] == []


def test_a_mistake_is_one_line_and_loses_nothing(browser, site) -> None:
    page = browser.open(site.url)
    draw(page, "a red apple", seed="<i>7</i>")

    page.wait_for_selector("[data-testid=toast-body]")

    line = page.inner_text("[data-testid=toast-body]")
    assert "seed <i>7</i>: must be a whole number" in line
    assert page.input_value("#prompt textarea") == "a red apple"
    page.fill("#seed textarea", "7")
    page.click("#generate")
    page.wait_for_selector("#best img")


def test_what_the_engine_has_to_say_is_shown(browser, site, tmp_path: Path) -> None:
    page = browser.open(site.url)
    draw(page, "panda " * 40, candidates=1, top_k=1)
    page.wait_for_selector("#best img")
    assert "this end is dropped" in page.inner_text("#status")


def test_phone_width(browser, site) -> None:
    page = browser.open(site.url, width=390, height=844)
    page.click("text=a large sunflower")  # an example
    page.wait_for_function(
        "document.querySelector('#prompt textarea').value == 'a large sunflower'"
    )
    draw(page, "a blue balloon", seed=3)
    page.wait_for_selector("#best img")

    first, second = (page.locator("#best img").nth(i).bounding_box() for i in (0, 1))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert first["y"] == second["y"]
    assert first["width"] > 390 / 3
