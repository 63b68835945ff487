"""How long the page takes to open, and its gallery, with many images in the folder.

python -m benchmarks.gallery --images 10000

Needs Chromium. It prints seconds from a click on the tab to all thumbnails of its first page being
there, without thumbnails on disk and with them; and from going to the address to the first letter
standing in the prompt, and to all images of the first screen, in a browser that was never here and
in one that was.
"""

import argparse
import io
import json
import shutil
import statistics
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from gen.engine import Engine
from gen.run_folder.folder import RunFolder
from ui.server import served
from ui.service.service import Service

PATIENCE = 300_000  # milliseconds
SIDE = 512  # pixels of each image
AT_REST = "[...document.querySelectorAll('#start img')].every((each) => each.complete)"
PROMPT = "#early textarea, #prompt textarea"  # the first stands there before the second does
TYPED = f"[...document.querySelectorAll('{PROMPT}')].some((each) => each.value.includes('q'))"
RESTING = """() => {
  const images = [...document.querySelectorAll('#gallery-prompts img')];
  const inView = images.filter((each) => each.getBoundingClientRect().top < innerHeight);
  return inView.length && inView.every((each) => each.complete && each.naturalWidth);
}"""


def fill(folder: Path, images: int) -> None:
    """Fill a run folder with prompts that have four images each, as if they had been drawn."""
    (folder / "candidates").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for number in range(1, images // 4 + 1):
        out = io.BytesIO()
        Image.new("RGB", (SIDE, SIDE), (number % 256, number // 256, 120)).save(out, "png")
        request = {"prompt": f"panda {number}", "seed": number, "candidates": 4, "top_k": 1}
        rows.append({"event": "prompt", "number": number, "key": str(number), "request": request})
        for seed in range(number, number + 4):
            best = seed == number
            file = f"{number:04d}-r1-{seed}.png" if best else f"candidates/{number:04d}-{seed}.png"
            (folder / file).write_bytes(out.getvalue())
            rows.append({"event": "picture", "number": number, "seed": seed, "file": file})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "manifest.jsonl").write_text(text, encoding="utf-8")


def measure(url: str, folder: Path, turns: int) -> dict[str, list[float]]:
    """Return seconds by what was done, `turns` times."""
    found: dict[str, list[float]] = {}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--headless", "--no-sandbox"]
        )
        for _ in range(turns):
            shutil.rmtree(folder / "thumbnails", ignore_errors=True)
            visitor = browser.new_context()
            for what, opened in (
                ("the gallery, without thumbnails", "for the first time"),
                ("the gallery", "again"),
            ):
                page = visitor.new_page()
                page.set_default_timeout(PATIENCE)
                began = perf_counter()
                page.goto(url, wait_until="commit")
                page.locator(PROMPT).first.press("q")
                page.wait_for_function(TYPED)
                found.setdefault(f"a letter, {opened}", []).append(perf_counter() - began)
                page.wait_for_selector("#start .tile img")
                page.wait_for_function(AT_REST)
                found.setdefault(f"the page, {opened}", []).append(perf_counter() - began)
                began = perf_counter()
                page.click('role=tab[name="Gallery"]')
                page.wait_for_function(RESTING)
                found.setdefault(what, []).append(perf_counter() - began)
                page.close()
            visitor.close()
        browser.close()
    return found


def main() -> int:
    """Print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--turns", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "out"
        fill(path, options.images)
        with RunFolder(path) as folder:
            began = perf_counter()
            service = Service(Engine(), folder)
            service.history.refresh()
            print(
                f"reading the manifest of {options.images:,} images: {perf_counter() - began:.2f} s"
            )
            with served(service, "127.0.0.1", 0) as url:
                for what, times in measure(url, path, options.turns).items():
                    print(f"{what}: {statistics.median(times):.2f} s (median of {len(times)})")
                service.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
