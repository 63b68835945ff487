"""The Edit tab as a person uses it: what is masked in a browser is what is drawn anew."""

import io
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_models
import numpy as np
import pytest
from conftest import Site, serve
from person import EVERY_SCREEN, drawn, tab, violations
from PIL import Image

from gen import metadata
from gen.run_folder import originals
from ui.service.catalog import Catalog, read_catalog

sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines" / "segmentation"))
import mask_models

pytestmark = pytest.mark.slow

PHOTO = fake_models.picture("a photo", 1)


@pytest.fixture(scope="module")
def finding_site(
    tiny_models: None,
    tiny_clip_folder: Path,
    make_tokenizer: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """The page with networks that find masks."""
    folders = (
        mask_models.write_clipseg(tmp_path_factory.mktemp("clipseg"), make_tokenizer),
        mask_models.write_sam(tmp_path_factory.mktemp("sam")),
    )
    path = tmp_path_factory.mktemp("finding")
    with serve(path, tiny_clip_folder, catalog=Catalog(mask_models=folders)) as site:
        yield site


@pytest.fixture(scope="module")
def token_site(
    tiny_dalle_folder: Path, tiny_clip_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """The page with a model that draws image tokens."""
    catalog = read_catalog([str(tiny_dalle_folder)])
    with serve(tmp_path_factory.mktemp("tokens"), tiny_clip_folder, catalog=catalog) as site:
        yield site


def choose(page: Any, image: Image.Image = PHOTO) -> None:
    """Upload an image in the Edit tab."""
    tab(page, "Edit")
    out = io.BytesIO()
    image.save(out, "png")
    file = {"name": "photo.png", "mimeType": "image/png", "buffer": out.getvalue()}
    page.set_input_files("#edit-file input[type=file]", file)
    size = f"{image.width} × {image.height} pixels"
    page.wait_for_selector(f".board-told >> text={size}")


def point(page: Any, x: float, y: float) -> tuple[float, float]:
    """Where a place of the image (0 to 1) is on the screen."""
    box = page.locator("#edit-board canvas").bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def pull(page: Any, *places: tuple[float, float]) -> None:
    """Press at the first place of the image, and move over the others."""
    page.mouse.move(*point(page, *places[0]))
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*point(page, *place), steps=4)
    page.mouse.up()


def generate(page: Any, prompt: str, **fields: object) -> None:
    for name, value in {"candidates": 2, "top_k": 2, "seed": 3, **fields}.items():
        page.fill(f"#edit-{name} input, #edit-{name} textarea", str(value))
    page.fill("#edit-prompt textarea, #edit-prompt input", prompt)
    page.click("#edit-generate")
    page.wait_for_selector(f"#edit-heading >> text={prompt}")
    page.wait_for_selector("#edit-picture img:visible")
    page.wait_for_selector("#edit-generate:visible")


def best(folder: Path) -> Path:
    """The best image of the prompt that was drawn last."""
    return max(folder.glob("*-r1-*.png"), key=lambda path: path.name[:4])


def kept(folder: Path, saved: Path) -> tuple[np.ndarray, np.ndarray]:
    """The mask (bool, what is drawn anew) of a saved image, and the image that it began from."""
    request = metadata.read(saved).request
    mask = originals.find(folder, str(request.mask_hash))
    image = originals.find(folder, str(request.init_image_hash))
    assert mask is not None
    assert image is not None
    grey = np.asarray(Image.open(mask).convert("L"))
    assert set(np.unique(grey)) == {0, 255}  # hard
    return (grey > 0) ^ bool(request.invert_mask), np.asarray(Image.open(image).convert("RGB"))


def check_kept(folder: Path, saved: Path) -> np.ndarray:
    """All outside the mask is equal to the bit, and something inside is not. Returns the mask."""
    mask, before = kept(folder, saved)
    after = np.asarray(Image.open(saved).convert("RGB"))
    assert np.array_equal(after[~mask], before[~mask])
    assert not np.array_equal(after[mask], before[mask])
    return mask


def test_brush_inpaint_and_go_on_from_the_result(browser, site) -> None:
    page = browser.open(site.url)
    choose(page)
    page.wait_for_selector(".board-told >> text=no mask")
    assert page.input_value("#edit-strength input[type=number]") == "0.75"
    pull(page, (0.75, 0.1), (0.75, 0.9))
    page.wait_for_selector(".board-told >> text=% drawn anew")
    assert page.input_value("#edit-strength input[type=number]") == "1"  # as masks have it
    generate(page, "a red star")
    saved = best(site.folder)
    mask = check_kept(site.folder, saved)
    assert mask[32, 48]
    assert not mask[:, :32].any()
    assert page.locator("#edit-best .tile img").count() == 2
    assert "/originals" not in page.inner_text("#edit-known")  # no path of the server
    sizes = page.locator("#edit-picture img").bounding_box()
    assert sizes["width"] >= 400

    page.click("[data-before]")
    page.wait_for_selector(".slide .over")
    page.keyboard.press("Escape")
    page.click("#edit-modes [data-mode=picture]")
    assert page.is_visible("#edit-board canvas")
    assert not page.is_visible("#edit-picture img")
    page.click("#edit-modes [data-mode=result]")
    page.click("#edit-edit")
    page.wait_for_selector("#edit-back:visible")
    page.wait_for_selector("#edit-board canvas:visible")
    result = page.request.get(site.url + page.get_attribute(".photo img", "src")).body()
    assert result == saved.read_bytes()
    pull(page, (0.1, 0.2), (0.1, 0.8))
    page.check("#edit-invert_mask input")
    generate(page, "a blue star")
    mask = check_kept(site.folder, best(site.folder))
    assert not mask[32, 6]
    assert mask[32, 48]

    page.click("#edit-back")  # the first image, and its mask is still there
    page.wait_for_selector("#edit-back", state="hidden")
    page.wait_for_selector("#edit-board canvas:visible")
    first = page.request.get(site.url + page.get_attribute(".photo img", "src")).body()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(first))), np.asarray(PHOTO))
    assert "drawn anew" in page.inner_text(".board-told")


def test_strokes_are_undone_erased_and_cleared(browser, site) -> None:
    page = browser.open(site.url)
    choose(page)
    opaque = """() => { const c = document.querySelector('#edit-board canvas');
      const data = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
      return data.filter((v, i) => i % 4 === 3 && v > 127).length; }"""
    pull(page, (0.3, 0.3), (0.3, 0.7))
    first = page.evaluate(opaque)
    pull(page, (0.7, 0.3), (0.7, 0.7))
    both = page.evaluate(opaque)
    assert 0 < first < both
    page.click("[data-board=undo]")
    assert page.evaluate(opaque) == first
    page.click("[data-tool=eraser]")
    pull(page, (0.3, 0.3), (0.3, 0.5))
    assert 0 < page.evaluate(opaque) < first
    page.click("[data-tool=box]")
    pull(page, (0.5, 0.5), (1, 1))
    assert page.evaluate(opaque) >= 32 * 32  # without a network what is framed is masked
    page.click("[data-board=clear]")
    assert page.evaluate(opaque) == 0
    page.wait_for_selector(".board-told >> text=no mask")
    assert "Mask point needs a SAM model" in page.inner_text("#edit-lacking")
    assert "generate-ui" not in page.inner_text("#edit-lacking")  # visitors start no server


def test_extending_by_numbers_and_by_dragging(browser, site) -> None:
    page = browser.open(site.url)
    choose(page)
    page.fill("#edit-left input", "16")
    page.wait_for_selector(".board-told >> text=extended to 80 × 64")
    edge = page.locator("#edit-board [data-edge=right]").bounding_box()
    x, y = edge["x"] + edge["width"] / 2, edge["y"] + edge["height"] / 2
    photo = page.locator(".photo").bounding_box()
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + photo["width"] / 4, y, steps=5)
    page.mouse.up()
    assert page.input_value("#edit-right input") == "16"
    page.focus("#edit-board [data-edge=top]")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowDown")
    page.wait_for_selector(".board-told >> text=extended to 96 × 64")
    generate(page, "a wide star")
    saved = best(site.folder)
    with Image.open(saved) as image:
        assert image.size == (96, 64)
        old = image.convert("RGB").crop((16, 0, 80, 64))
    assert np.array_equal(np.asarray(old), np.asarray(PHOTO))
    assert metadata.read(saved).request.extend == "left=16,right=16"


def test_words_and_clicks_find_a_mask(browser, finding_site) -> None:
    page = browser.open(finding_site.url)
    choose(page)
    assert page.inner_text("#edit-lacking").strip() == ""
    page.fill("#edit-mask_text input, #edit-mask_text textarea", "the panda")
    page.click("#edit-find")
    page.wait_for_selector(".board-told >> text=% drawn anew")
    generate(page, "a found star")
    check_kept(finding_site.folder, best(finding_site.folder))

    page.click("#edit-modes [data-mode=picture]")
    page.click("[data-board=clear]")
    page.click("[data-tool=on]")
    page.mouse.click(*point(page, 0.5, 0.25))
    page.wait_for_selector(".board-told >> text=% drawn anew")
    assert page.input_value("#edit-mask_point input, #edit-mask_point textarea") == "32,16"
    page.click("[data-tool=brush]")
    pull(page, (0.1, 0.9), (0.2, 0.9))
    generate(page, "a clicked star")
    mask = check_kept(finding_site.folder, best(finding_site.folder))
    assert mask[57, 9]  # the brush counts as well

    page.click("#edit-modes [data-mode=picture]")  # what is not shown first is found when drawn
    page.click("[data-board=clear]")
    page.fill("#edit-mask_box input, #edit-mask_box textarea", "8,8,40,40")
    generate(page, "a framed star")
    request = metadata.read(best(finding_site.folder)).request
    assert request.mask_box == "8,8,40,40"
    check_kept(finding_site.folder, best(finding_site.folder))


def test_an_image_of_any_tab_is_edited_and_outlives_a_reload(browser, site) -> None:
    page = browser.open(site.url)
    drawn(page, "a panda", seed=5, candidates=2, top_k=1, steps=2)
    source = page.get_attribute("#draw-picture img", "src")
    page.click("#draw-picture .hero")
    page.click("#lightbox [data-box=edit]")
    page.wait_for_selector("#edit-board canvas:visible")
    shown = page.request.get(site.url + page.get_attribute(".photo img", "src")).body()
    assert shown == page.request.get(site.url + source).body()
    tab(page, "Gallery")
    page.click("#gallery-prompts .tile:has-text('a panda')")
    page.wait_for_selector("#gallery-picture img")
    page.click("#gallery-edit")
    page.wait_for_selector("#edit-back:visible")
    generate(page, "a red star", strength=0.5)
    request = metadata.read(best(site.folder)).request
    assert (request.strength, request.mask) == (0.5, None)
    browser.reload(page)
    tab(page, "Edit")
    page.wait_for_selector("#edit-board canvas:visible")
    page.wait_for_selector("#edit-back:visible")


def test_a_mask_and_what_was_typed_outlive_a_reload(browser, finding_site) -> None:
    page = browser.open(finding_site.url)
    choose(page)
    page.fill("#edit-mask_text input, #edit-mask_text textarea", "the panda")
    page.click("#edit-find")  # a mask that is found is kept like strokes
    page.wait_for_selector(".board-told >> text=% drawn anew")
    pull(page, (0.6, 0.2), (0.6, 0.8))
    page.fill("#edit-prompt textarea, #edit-prompt input", "a star that was typed")
    page.fill("#edit-mask_blur input", "3")
    page.fill("#edit-left input", "16")
    page.wait_for_selector(".board-told >> text=extended to 80 × 64")
    before = page.evaluate("window.salonEdit.mask()")

    browser.reload(page)
    tab(page, "Edit")
    page.wait_for_selector(".board-told >> text=extended to 80 × 64")
    page.wait_for_selector(".board-told >> text=% drawn anew")
    assert page.evaluate("window.salonEdit.mask()") == before
    typed = {"prompt": "a star that was typed", "mask_text": "the panda", "mask_blur": "3"}
    for name, value in typed.items():
        assert page.input_value(f"#edit-{name} textarea, #edit-{name} input") == value
    assert page.input_value("#edit-strength input[type=number]") == "1"
    page.click("[data-board=undo]")
    page.click("[data-board=undo]")
    assert page.evaluate("window.salonEdit.mask()") == ""

    choose(page, PHOTO.crop((0, 0, 48, 64)))  # what is about the other is gone
    assert page.input_value("#edit-left input") == ""


def test_variations_of_an_image(browser, site) -> None:
    page = browser.open(site.url)
    drawn(page, "a fox", seed=11, candidates=1, top_k=1, steps=2)
    page.click("#draw-vary")
    page.wait_for_selector("#draw-best .tile >> nth=3")
    page.wait_for_selector("#draw-generate:visible")
    request = metadata.read(best(site.folder)).request
    assert (request.base_seed, request.steps, request.prompt) == (11, 2, "a fox")


def test_rows_of_tokens_are_kept(browser, token_site) -> None:
    page = browser.open(token_site.url)
    choose(page)
    page.fill("#edit-keep_rows input, #edit-keep_rows textarea", "2")
    generate(page, "a star that begins like this")
    request = metadata.read(best(token_site.folder)).request
    assert (request.keep_rows, request.strength) == (2, None)


def test_a_mistake_is_told_at_its_field_and_loses_nothing(browser, site) -> None:
    page = browser.open(site.url)
    tab(page, "Edit")
    page.fill("#edit-prompt textarea, #edit-prompt input", "a star")
    page.click("#edit-generate")
    page.wait_for_selector("[data-testid=toast-body] >> text=choose an image first")
    page.click("[data-testid=toast-close]")
    choose(page)
    pull(page, (0.3, 0.3), (0.3, 0.7))
    page.fill("#edit-mask_blur input", "many")
    page.click("#edit-generate")
    page.wait_for_selector("#edit-mask_blur[data-invalid]")
    assert "drawn anew" in page.inner_text(".board-told")


def test_no_other_file_is_an_original(site) -> None:
    for name in ("../manifest.jsonl", "%2e%2e%2fmanifest.jsonl", "0" * 64 + ".png", "x.png"):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(f"{site.url}/originals/{name}", timeout=60)
        assert error.value.code == 404


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(scheme: str, browser, site) -> None:
    page = browser.open(site.url, width=390, height=844, color_scheme=scheme)
    names = [each.inner_text() for each in page.locator("#tabs [role=tab]:visible").all()]
    assert names == ["Draw", "Edit", "Gallery", "Compare", "Rank"]
    for name in reversed(names):
        tab(page, name)
        box = page.locator(f"#tabs [role=tab]:has-text('{name}')").bounding_box()
        assert 0 <= box["x"] <= box["x"] + box["width"] <= 390
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    choose(page)
    assert page.locator("#edit-board canvas").bounding_box()["width"] > 0.85 * 390
    pull(page, (0.75, 0.2), (0.75, 0.6))
    generate(page, f"a {scheme} star")
    check_kept(site.folder, best(site.folder))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@EVERY_SCREEN
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
