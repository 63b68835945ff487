"""Pictures of the page for the manual: `make screenshots` writes them to docs/screenshots/.

Each journey is shown as it looks at three widths, light and dark, on the shipped models. The images
beside the examples of the first screen are drawn anew, too.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from gen.engine import Engine
from gen.run_folder.folder import RunFolder
from gen.settings.request import Request
from ui.page import start
from ui.page.form import EXAMPLES
from ui.server import served
from ui.service.service import Service

OUT = Path(__file__).parents[2] / "docs" / "screenshots"
SIZES = {"desktop": (1280, 900), "wide": (1920, 1080), "phone": (390, 844)}
MOST_BYTES = 2_000_000
PROMPTS = (
    "three strawberries on a light blue background",
    "a rocket above a house",
    "a large sunflower",
    "a panda to the left of a red balloon",
)
PATIENCE = 300_000
SEED = "7"


def draw_examples(service: Service) -> None:
    """Draw the example prompts, and keep the best image of each for the first screen."""
    start.FOLDER.mkdir(exist_ok=True)
    for prompt in EXAMPLES:
        request = Request(prompt, seed=int(SEED), candidates=start.OF, top_k=1)
        outcome = service.submit(request).future.result()
        image = outcome.best[0].open()
        image.convert("RGB").save(start.example_file(prompt), "webp", lossless=True, method=6)


def draw(page: Any, prompt: str, candidates: int = 8) -> None:
    """Draw a prompt and wait for what comes of it."""
    page.fill("#candidates input", str(candidates))
    page.fill("#seed textarea, #seed input", SEED)  # the same images, drawn once
    page.fill("#prompt textarea", prompt)
    page.press("#prompt textarea", "Enter")
    page.wait_for_selector("#live .tile, #draw-picture img")
    page.wait_for_selector(f"#draw-heading >> text={prompt}")
    page.wait_for_selector("#draw-picture img")
    page.wait_for_selector("#draw-generate:visible")


def tab(page: Any, name: str) -> None:
    """Open a tab."""
    page.click(f'role=tab[name="{name}"]')
    page.wait_for_timeout(800)


def settings(page: Any) -> None:
    """Open the drawer of settings."""
    page.click("[data-toggle=settings]")


def lightbox(page: Any) -> None:
    """Enlarge the best image."""
    page.click("#draw-picture .hero")
    page.wait_for_selector("#lightbox img")


def close_lightbox(page: Any) -> None:
    """Close it again."""
    page.keyboard.press("Escape")


def compare(page: Any) -> None:
    """Draw one prompt over a grid of two settings."""
    tab(page, "Compare")
    page.fill("#compare-prompt textarea, #compare-prompt input", "a large sunflower")
    page.fill("#compare-across-values textarea, #compare-across-values input", "1, 3")
    page.fill("#compare-down-values textarea, #compare-down-values input", "5, 20")
    page.click("#compare-generate")
    page.wait_for_selector("#compare-generate:visible")
    page.wait_for_function("document.querySelectorAll('#compare-best img').length == 4")


def rank(page: Any, folder: Path) -> None:
    """Rank some images as if they came from elsewhere."""
    tab(page, "Rank")
    if not page.locator("#rank-results .tile").count():
        files = sorted(folder.glob("*-r1-*.png"))[:4]
        page.set_input_files("#rank-files input", [str(path) for path in files])
        page.fill("#rank-prompt textarea, #rank-prompt input", PROMPTS[1])
        page.click("#rank-run")
        page.wait_for_selector("#rank-results .tile img")


def edit(page: Any) -> None:
    """Mask a part of the best image with the brush."""
    page.click("#draw-edit")
    page.wait_for_selector("#edit-board canvas")
    page.fill("#edit-prompt textarea", "a panda to the left of a strawberry")
    page.locator("#edit-board canvas").scroll_into_view_if_needed()
    box = page.locator("#edit-board canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + box["height"] * 0.4)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.6, steps=8)
    page.mouse.up()


def gallery(page: Any) -> None:
    """Show what was drawn before."""
    tab(page, "Gallery")
    page.wait_for_selector("#gallery-prompts .tile img")


def main() -> int:
    """Draw some images, and take the pictures; 1 if they are too large for the repository."""
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, RunFolder(Path(folder)) as out:
        service = Service(Engine(), out)
        draw_examples(service)
        service.stop()
    steps: dict[str, Callable[[Any], None]] = {
        "draw": lambda page: draw(page, PROMPTS[-1]),
        "settings": settings,
        "lightbox": lightbox,
        "edit": edit,
        "gallery": gallery,
        "compare": compare,
        "rank": lambda page: rank(page, Path(folder)),
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        RunFolder(Path(folder)) as out,
        sync_playwright() as driver,
    ):
        service = Service(Engine(), out)
        service.load()
        flags = ["--headless", "--no-sandbox", "--disable-gpu"]
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=flags)
        with served(service, "127.0.0.1", 0) as url:
            first = browser.new_page()
            first.set_default_timeout(PATIENCE)
            first.goto(url)
            first.wait_for_selector("#prompt textarea")
            _take(first, "first-desktop-light")
            for prompt in PROMPTS:
                draw(first, prompt)
            for name, (width, height) in SIZES.items():
                for scheme in ("light", "dark"):
                    page = browser.new_page(
                        viewport={"width": width, "height": height}, color_scheme=scheme
                    )
                    page.set_default_timeout(PATIENCE)
                    page.goto(url)
                    page.wait_for_selector("#start .tile img")
                    page.wait_for_timeout(1500)
                    _take(page, f"start-{name}-{scheme}")
                    for step, act in steps.items():
                        act(page)
                        page.wait_for_timeout(700)
                        _take(page, f"{step}-{name}-{scheme}")
                        if step == "lightbox":
                            close_lightbox(page)
                    page.close()
            service.stop()
        browser.close()
    size = sum(path.stat().st_size for path in OUT.glob("*.webp"))
    print(f"{len(list(OUT.glob('*.webp')))} pictures, {size:,} bytes, in {OUT}")
    return 0 if size <= MOST_BYTES else 1


def _take(page: Any, name: str) -> None:
    path = OUT / f"{name}.png"
    page.screenshot(path=path)
    with Image.open(path) as image:
        small = image.convert("RGB")
        small.save(OUT / f"{name}.webp", "webp", quality=60, method=6)
    path.unlink()


if __name__ == "__main__":
    sys.exit(main())
