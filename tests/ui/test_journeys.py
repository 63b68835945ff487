"""Longer journeys over the page in a real browser, several checks in each."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from person import draw, drawn, open_settings
from safetensors.torch import save_file

from gen import metadata
from gen.engine import Engine
from gen.models import find
from gen.run_folder.folder import RunFolder
from ui.service.catalog import read_catalog
from ui.service.service import Service
from ui.service.styles import read_styles

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


def test_a_checkpoint_a_lora_and_a_style_of_ones_own(
    browser, tiny_diffusion_folder: Path, tiny_clip_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed")
    from ui.server import served

    stem = "unet.mid_block.resnets.0.conv1"
    up, down = torch.randn(32, 2, 1, 1), torch.randn(2, 32, 3, 3)
    file = tmp_path / "ink.safetensors"
    save_file({f"{stem}.lora_B.weight": up, f"{stem}.lora_A.weight": down}, file)
    styles = tmp_path / "styles.csv"
    styles.write_text("name,prompt,negative_prompt\nFaded,faded {prompt},bright\n")
    with RunFolder(tmp_path / "out") as folder:
        catalog = read_catalog([str(tiny_diffusion_folder)], lora_folders=[tmp_path])
        engine = Engine(device="cpu", reranker=str(tiny_clip_folder))
        service = Service(engine, folder, catalog=catalog, styles=read_styles(styles))
        with served(service, "127.0.0.1", 0) as url:
            page = browser.open(url)
            open_settings(page)
            assert page.is_checked(f"#model label:has-text('{catalog.default}') input")
            page.fill("#loras input[type=number]", "0.7")
            page.click("text=Styles")
            page.check("#styles label:has-text('Faded') input")
            drawn(page, "a panda", candidates=2, top_k=1, steps=2)
            [saved] = folder.path.glob("0001-r1-*.png")
            request = metadata.read(saved).request
            assert request.lora == f"{file}:0.7"
            assert (request.prompt, request.negative_prompt) == ("faded a panda", "bright")
            service.stop()


# The fakes below take the place of all models until the end of this file.


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
