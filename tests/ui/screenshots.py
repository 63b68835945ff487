"""Pictures of the page for the manual: `make screenshots` writes them to docs/screenshots/.

Each screen of the journeys is shown at three widths, light and dark, on the shipped models. The
images beside the examples of the first screen are drawn anew, too.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
from ui.service.catalog import Catalog
from ui.service.service import Service

OUT = Path(__file__).parents[2] / "docs" / "screenshots"
SIZES = {"desktop": (1280, 900), "wide": (1920, 1080), "phone": (390, 844)}
SCHEMES = ("light", "dark")
MOST_BYTES = 2_000_000
QUALITY = {"desktop": 25, "wide": 18, "phone": 25}
STORED = (1440, 1440)  # pixels at most: those of the widest screen are made smaller
PROMPTS = (
    "two penguins",
    "an octopus on a pink background",
    "a lion to the right of a banana",
    "a turtle below a butterfly",
    "a small ladybug in the top left corner",
    "a dolphin and a fish",
    "three apples on a white background",
    "a large fox",
    "a chick to the left of a pig",
    "a cat above a blue circle",
    *EXAMPLES[1:],
    EXAMPLES[0],
)
BEST = EXAMPLES[0]
PATIENCE = 300_000
SEED = 7
AT_ONCE = 4  # candidates, so that some are finished while others are in the making


def fill(service: Service) -> None:
    """Draw what the gallery shows, each prompt once."""
    for prompt in PROMPTS:
        request = Request(prompt, seed=SEED, candidates=8 if prompt == BEST else 4, top_k=4)
        service.submit(request, matches=True).future.result()


def draw_examples(service: Service) -> None:
    """Draw the example prompts, and keep the best image of each for the first screen."""
    start.FOLDER.mkdir(exist_ok=True)
    for prompt in EXAMPLES:
        request = Request(prompt, seed=SEED, candidates=start.OF, top_k=1)
        outcome = service.submit(request).future.result()
        image = outcome.best[0].open()
        image.convert("RGB").save(start.example_file(prompt), "webp", quality=85, method=6)


def ask(page: Any, prompt: str, candidates: int = 8, seed: object = SEED) -> None:
    """Have a prompt drawn."""
    page.fill("#candidates input", str(candidates))
    page.fill("#seed textarea, #seed input", str(seed))
    page.fill("#prompt textarea", prompt)
    page.press("#prompt textarea", "Enter")


def tab(page: Any, name: str) -> None:
    """Open a tab."""
    page.click(f'role=tab[name="{name}"]')
    page.wait_for_timeout(800)


def first(page: Any) -> None:
    """See what a newcomer sees."""
    page.wait_for_selector("#start .example")


def lately(page: Any) -> None:
    """Show what was drawn before."""
    page.wait_for_selector("#start .tile img")
    page.wait_for_timeout(1500)


def words(page: Any) -> None:
    """Type words that the model does not know."""
    page.fill("#prompt textarea", "a panda in a cathedral, oil on canvas")
    page.wait_for_selector("#prompt-check mark")


def live(page: Any) -> None:
    """Look on while candidates are drawn, with a prompt that waits behind."""
    ask(page, "a rocket above a house", 16, "")
    page.wait_for_selector("#live .tile:has-text('finished') >> nth=3")
    page.fill("#prompt textarea", "a large sunflower")
    page.click("#draw-queue")
    page.wait_for_selector("#waiting li")
    page.wait_for_selector("#live .tile:has-text('in the making') img")


def early(page: Any) -> None:
    """Finish now."""
    page.click("#waiting [data-do=drop]")
    page.click("#draw-finish")
    page.wait_for_selector("#status >> text=of 16 drawn")
    page.wait_for_selector("#draw-picture img")


def draw(page: Any) -> None:
    """Draw a prompt and wait for what comes of it."""
    ask(page, BEST)
    page.wait_for_selector(f"#draw-heading >> text={BEST}")
    page.wait_for_selector("#draw-picture img")
    page.wait_for_selector("#draw-generate:visible")


def better(page: Any) -> None:
    """Choose between two."""
    page.click("[data-better]:visible")
    page.wait_for_selector(".better img")


def lightbox(page: Any) -> None:
    """Enlarge the best image."""
    page.keyboard.press("Escape")
    page.click("#draw-picture .hero")
    page.wait_for_selector("#lightbox img")


def settings(page: Any) -> None:
    """Open the drawer of settings."""
    page.keyboard.press("Escape")
    page.click("[data-toggle=settings]")
    page.fill("#loras input[type=number]", "0.7")
    page.locator("#model").scroll_into_view_if_needed()
    page.locator("#composer").scroll_into_view_if_needed()


def mistake(page: Any) -> None:
    """Give a number that is none."""
    page.fill("#steps input, #steps textarea", "many")
    page.click("#draw-generate")
    page.wait_for_selector("#steps[data-invalid]")


def edit(page: Any) -> None:
    """Mask a part of the best image with the brush."""
    page.click("[data-testid=toast-close]")
    page.fill("#steps input, #steps textarea", "20")
    page.fill("#loras input[type=number]", "0")
    page.click("[data-toggle=settings]")
    page.click("#draw-edit")
    page.wait_for_selector("#edit-board canvas")
    page.fill("#edit-prompt textarea", "a panda to the left of a strawberry")
    page.locator("#edit-board canvas").scroll_into_view_if_needed()
    page.fill("[data-size]", "40")
    box = page.locator("#edit-board canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.78, box["y"] + box["height"] * 0.4)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.82, box["y"] + box["height"] * 0.65, steps=8)
    page.mouse.up()


def edited(page: Any) -> None:
    """See what comes of it."""
    for name, value in {"candidates": 8, "seed": SEED}.items():
        page.fill(f"#edit-{name} input, #edit-{name} textarea", str(value))
    page.click("#edit-generate")
    page.wait_for_selector("#edit-picture img:visible")
    page.wait_for_selector("#edit-generate:visible")


def gallery(page: Any) -> None:
    """Show what was drawn before."""
    tab(page, "Gallery")
    page.wait_for_selector("#gallery-prompts .tile img")


def selected(page: Any) -> None:
    """Select two of them."""
    page.click("[data-select]")
    for prompt in ("a large fox", "two penguins"):
        page.click(f"#gallery-prompts .tile:has-text('{prompt}')")


def slide(page: Any) -> None:
    """Lay one over the other."""
    page.click("[data-slide]")
    page.wait_for_selector(".slide .over")


def deleted(page: Any) -> None:
    """Delete one, and see where it can be brought back."""
    page.keyboard.press("Escape")
    page.click("#gallery-prompts .tile:has-text('two penguins')")  # not selected any more
    page.click("[data-do=delete]")
    page.wait_for_selector("#deleted-back")
    page.locator("#deleted-back").scroll_into_view_if_needed()


def compare(page: Any) -> None:
    """Draw one prompt over a grid of two settings."""
    page.click("#deleted-back")
    page.wait_for_selector("#deleted", state="hidden")
    tab(page, "Compare")
    page.fill("#compare-prompt textarea, #compare-prompt input", "a large sunflower")
    page.fill("#compare-across-values textarea, #compare-across-values input", "1, 2, 4")
    page.fill("#compare-down-values textarea, #compare-down-values input", "5, 20")
    page.click("#compare-generate")
    page.wait_for_selector("#compare-generate:visible")
    page.wait_for_function("document.querySelectorAll('#compare-best img').length == 6")


def rank(page: Any) -> None:
    """Rank some images as if they came from elsewhere."""
    tab(page, "Rank")
    files = [start.example_file(prompt) for prompt in EXAMPLES]
    page.set_input_files("#rank-files input", [str(path) for path in files])
    page.fill("#rank-prompt textarea, #rank-prompt input", "a rocket above a house")
    page.click("#rank-run")
    page.wait_for_selector("#rank-results .tile img")


SCREENS: tuple[Callable[[Any], None], ...] = (
    *(lately, words, live, early, draw, better, lightbox, settings, mistake),
    *(edit, edited, gallery, selected, slide, deleted, compare, rank),
)


@contextmanager
def serving(browser: Any, service: Service) -> Iterator[Callable[[str, str], Any]]:
    """Yield what opens the page at a width, in light or dark."""
    with served(service, "127.0.0.1", 0) as url:

        def open_page(size: str, scheme: str) -> Any:
            width, height = SIZES[size]
            page = browser.new_page(
                viewport={"width": width, "height": height}, color_scheme=scheme
            )
            page.set_default_timeout(PATIENCE)
            page.goto(url)
            page.wait_for_selector("#prompt textarea")
            return page

        yield open_page
        service.stop()


def main() -> int:
    """Draw some images, and take the pictures; 1 if they are too large for the repository."""
    OUT.mkdir(exist_ok=True)
    for old in OUT.glob("*.webp"):
        old.unlink()
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as name:
        flags = ["--headless", "--no-sandbox", "--disable-gpu"]
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=flags)
        path = Path(name)
        with RunFolder(path / "examples") as out:
            service = Service(Engine(), out)
            draw_examples(service)
            service.stop()
        with RunFolder(path / "new") as out, serving(browser, Service(Engine(), out)) as open_page:
            _take_all(open_page, (first,))
        lora = path / "ink.safetensors"
        lora.touch()
        with RunFolder(path / "out") as out:
            service = Service(Engine(batch_size=AT_ONCE), out, catalog=Catalog(loras={"ink": lora}))
            service.load()
            fill(service)
            with serving(browser, service) as open_page:
                _take_all(open_page, SCREENS)
        browser.close()
    taken = list(OUT.glob("*.webp"))
    total = sum(path.stat().st_size for path in taken)
    print(f"{len(taken)} pictures, {total:,} bytes, in {OUT}")
    return 0 if total <= MOST_BYTES else 1


def _take_all(
    open_page: Callable[[str, str], Any], screens: Sequence[Callable[[Any], None]]
) -> None:
    """Go through the screens at each size, in light and dark."""
    for size in SIZES:
        for scheme in SCHEMES:
            page = open_page(size, scheme)
            for screen in screens:
                screen(page)
                _take(page, f"{screen.__name__}-{size}-{scheme}", QUALITY[size])
            page.close()


def _take(page: Any, name: str, quality: int) -> None:
    page.wait_for_timeout(700)
    path = OUT / f"{name}.png"
    page.screenshot(path=path)
    with Image.open(path) as image:
        small = image.convert("RGB")
        small.thumbnail(STORED)
        small.save(OUT / f"{name}.webp", "webp", quality=quality, method=6)
    path.unlink()


if __name__ == "__main__":
    sys.exit(main())
