"""Longer journeys over the page in a real browser, several checks in each, and the list of all."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import serve_folder
from person import draw, drawn, open_settings, tab
from safetensors.torch import save_file

from benchmarks import gallery
from gen import metadata
from gen.models import find
from gen.run_folder.folder import RunFolder
from ui.service.catalog import read_catalog
from ui.service.styles import read_styles

SIDES = ("left", "right")
# What people do with the page, each in a browser: by the file and the test that does it.
JOURNEYS = {
    "test_in_browser": {
        "the first images by a click on an example, on a phone": "test_phone_width",
        "a prompt, its best images and the rest": (
            "test_the_best_are_shown_first_and_the_rest_behind_a_click"
        ),
        "looking on while it is drawn": "test_what_is_finished_is_shown_while_the_rest_is_drawn",
        "finishing early": "test_finish_now_keeps_the_candidates_as_they_are",
        "stopping": "test_stop_keeps_what_is_finished",
        "waiting for a model": "test_a_model_that_is_being_loaded",
        "two tabs, and a reload in mid-job": (
            "test_a_job_outlives_a_reload_and_a_closed_tab_and_is_ended_from_another"
        ),
        "a queue of one's own": "test_the_queue_of_a_visitor",
        "a server that is started again": "test_history_and_undo_outlive_the_server",
        "settings of an earlier image": (
            "test_the_gallery_survives_a_reload_and_gives_settings_back"
        ),
        "deleting, and undoing it": (
            "test_deleting_can_be_undone_after_a_reload_and_in_a_second_tab"
        ),
        "deleting for good": "test_deleted_images_are_removed_for_good_when_the_user_says_so",
        "settings near those of an image": "test_more_like_this_one",
        "settings of an image of another tool": "test_settings_of_an_image_of_another_tool",
        "prompts from a file": "test_prompts_from_a_file",
        "ranking images from elsewhere": "test_ranking_images_from_elsewhere",
        "comparing settings in a grid": "test_comparing_two_settings",
        "several models at once": "test_which_model_drew_which_image",
        "a mistake, told at its field": "test_a_mistake_is_told_at_its_field",
        "by keyboard alone, with the lightbox": "test_by_keyboard_alone",
        "many images of the gallery at once": "test_many_images_of_the_gallery_at_once",
        "words that a model does not know": "test_words_are_counted_and_marked_while_typing",
        "light and dark": "test_light_and_dark_are_chosen_and_kept",
    },
    "test_journeys": {
        "several rerankers, and a search": "test_rerankers_are_combined_and_a_search_is_asked_for",
        "one's own checkpoint, LoRA slider and style": (
            "test_a_checkpoint_a_lora_and_a_style_of_ones_own"
        ),
        "hearts, and which is better": "test_hearts_and_which_is_better_are_choices",
        "models loaded and let go": "test_models_are_loaded_when_chosen_and_let_go",
        "a gallery of ten thousand": "test_a_gallery_of_ten_thousand_images",
        "swiping through images on a phone": "test_images_are_swiped_by_a_finger",
        "a reload amid a comparison": "test_what_is_typed_to_compare_and_rank_outlives_a_reload",
        "variations and settings out of the lightbox": "test_what_can_be_done_in_the_lightbox",
        "deleting what was chosen just now": "test_what_is_large_is_what_is_deleted",
        "images that were there already": "test_what_was_there_already_is_shown_large",
        "many images on a phone": "test_many_are_selected_on_a_phone",
        "the gallery by model and by fit": "test_the_gallery_by_model_and_by_fit",
        "prompts by models, in several grids": "test_prompts_are_compared_by_models_in_two_grids",
        "mistakes in a comparison and a ranking": "test_mistakes_are_told_at_fields_of_other_tabs",
        "settings open while it is drawn": "test_buttons_and_status_stay_in_view",
    },
    "test_by_keyboard": {
        "the gallery by keyboard": "test_the_gallery",
        "comparing and ranking by keyboard": "test_comparing_and_ranking",
        "editing by keyboard": "test_editing",
    },
    "test_edit_page": {
        "painting a mask, and going on": "test_brush_inpaint_and_go_on_from_the_result",
        "undoing strokes": "test_strokes_are_undone_erased_and_cleared",
        "extending an image": "test_extending_by_numbers_and_by_dragging",
        "masks by words and clicks": "test_words_and_clicks_find_a_mask",
        "editing an image of any tab": "test_an_image_of_any_tab_is_edited_and_outlives_a_reload",
        "a reload amid an edit": "test_a_mask_and_what_was_typed_outlive_a_reload",
        "variations of an image": "test_variations_of_an_image",
        "the beginning of an image as tokens": "test_rows_of_tokens_are_kept",
        "editing on a phone": "test_on_a_phone",
    },
}
pytestmark = pytest.mark.slow


def noted(folder: Path, event: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "manifest.jsonl").read_text("utf-8").splitlines())
    return [line for line in lines if line["event"] == event]


def test_there_are_at_least_25_journeys() -> None:
    for file, journeys in JOURNEYS.items():
        tree = ast.parse(Path(__file__).with_name(f"{file}.py").read_text("utf-8"))
        there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert set(journeys.values()) <= there
    assert len({test for journeys in JOURNEYS.values() for test in journeys.values()}) >= 25


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
    for search in ("beam", "prune"):
        page.click("#search input")
        page.click(f"role=option[name='{search}']")
        if search == "beam":  # which the sampler is not for; told at the field
            draw(page, "a fox", candidates=6, top_k=2)
            page.wait_for_selector("#search[data-invalid*='euler_a']")
            page.click("[data-testid=toast-close]")
    page.fill("#budget input, #budget textarea", "60")
    drawn(page, "a fox", candidates=6, top_k=2, steps=8)
    assert page.locator("#draw-known .parts").count() == 0
    assert noted(site.folder, "searched")
    asked = [line["request"] for line in noted(site.folder, "prompt")][-1]
    assert (asked["search"], asked["budget"]) == ("prune", 60)


def test_what_can_be_done_in_the_lightbox(browser, site) -> None:
    page = browser.open(site.url)
    drawn(page, "a fox", seed=80, candidates=3, top_k=3, steps=2)
    second = page.get_attribute("#draw-best .tile >> nth=1", "data-name")

    def enlarge_the_second() -> None:
        page.click("#draw-picture .hero")
        page.wait_for_selector("#lightbox img")
        page.keyboard.press("ArrowRight")
        page.wait_for_selector("#lightbox >> text=2 of 3")

    enlarge_the_second()
    page.click("#lightbox [data-box=reuse]")
    page.wait_for_selector("[data-testid=toast-body] >> text=settings of this image")
    seed = second.split("/")[1]
    page.wait_for_function(f"document.querySelector('#seed textarea').value == '{seed}'")
    page.click("#draw-best .tile >> nth=0")
    enlarge_the_second()
    page.click("#lightbox [data-box=vary]")
    page.wait_for_selector("#draw-best .tile >> nth=3")
    page.wait_for_selector("#draw-generate:visible")
    assert noted(site.folder, "prompt")[-1]["request"]["base_seed"] == int(seed)


def test_a_checkpoint_a_lora_and_a_style_of_ones_own(
    browser, tiny_diffusion_folder: Path, tiny_clip_folder: Path, tmp_path: Path
) -> None:
    stem = "unet.mid_block.resnets.0.conv1"
    up, down = torch.randn(32, 2, 1, 1), torch.randn(2, 32, 3, 3)
    file = tmp_path / "ink.safetensors"
    save_file({f"{stem}.lora_B.weight": up, f"{stem}.lora_A.weight": down}, file)
    styles = tmp_path / "styles.csv"
    styles.write_text("name,prompt,negative_prompt\nFaded,faded {prompt},bright\n")
    with RunFolder(tmp_path / "out") as folder:
        catalog = read_catalog([str(tiny_diffusion_folder)], lora_folders=[tmp_path])
        facts = {"catalog": catalog, "styles": read_styles(styles)}
        with serve_folder(folder, reranker=str(tiny_clip_folder), **facts) as url:
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


def test_a_gallery_of_ten_thousand_images(browser, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(gallery, "SIDE", 64)
    gallery.fill(tmp_path / "out", 10_000)
    with RunFolder(tmp_path / "out") as folder, serve_folder(folder) as url:
        page = browser.open(url)
        tab(page, "Gallery")
        page.wait_for_selector("#gallery-told >> text=2500 prompts")
        there = "[...document.querySelectorAll('#gallery-prompts img')].some(e => e.naturalWidth)"
        page.wait_for_function(there)
        first = page.inner_text("#gallery-prompts .tile >> nth=0")
        page.click("#gallery-older")
        page.wait_for_selector(f"#gallery-prompts .tile:has-text('{first}')", state="detached")
        page.fill("#gallery-search input, #gallery-search textarea", "panda 1234")
        page.wait_for_selector("#gallery-told >> text=1 prompt")
        page.click("#gallery-prompts .tile")
        page.wait_for_selector("#gallery-picture img")
        assert page.locator("#gallery-open .tile").count() == 4


def test_four_of_many_drawn_are_told_with_their_claims(browser, quick) -> None:
    quick.service.engine.batch_size = 4
    quick.fakes.pipeline.seconds_per_step = 0.1
    page = browser.open(quick.url)
    draw(page, "a plover", candidates=64, top_k=2, steps=30)
    page.wait_for_selector("#live .tile img")
    page.click("#draw-finish")
    page.wait_for_selector("#status >> text=4 of 64 drawn")
    tiles = page.locator("#draw-best .tile")
    assert [tile.locator(".claim").count() for tile in tiles.all()] == [2, 2]
    assert page.locator("#draw-rest .claim").count() == 0
    assert "✗ plover" in tiles.first.inner_text()
    assert tiles.first.inner_text().count("0.") == 0  # one number: the match


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


def test_what_is_typed_to_compare_and_rank_outlives_a_reload(browser, quick) -> None:
    page = browser.open(quick.url)
    typed = {
        "Compare": {"#compare-prompt": "a heron", "#compare-down-values": "2, 4, 6"},
        "Rank": {"#rank-prompt": "snow falls"},
    }
    for name, fields in typed.items():
        tab(page, name)
        for field, value in fields.items():
            page.fill(f"{field} textarea, {field} input", value)
    page.wait_for_function("localStorage.getItem('salon-rank') != null")
    browser.reload(page)
    for name, fields in typed.items():
        tab(page, name)
        for field, value in fields.items():
            page.wait_for_function(
                "([field, value]) => document.querySelector(field).value == value",
                arg=[f"{field} textarea, {field} input", value],
            )
    assert page.input_value("#compare-across-values textarea, #compare-across-values input") == (
        "1, 3, 6"
    )


def test_images_are_swiped_by_a_finger(browser, quick) -> None:
    page = browser.open(quick.url, 390, 844)
    drawn(page, "a heron", candidates=3, top_k=3)
    page.click("#draw-picture .hero")
    page.wait_for_selector("#lightbox img")
    finger = page.context.new_cdp_session(page)
    finger.send("Emulation.setTouchEmulationEnabled", {"enabled": True})

    def swipe(start: int, end: int) -> str:
        points = [start + (end - start) * step // 8 for step in range(9)]
        for index, x in enumerate(points):
            kind = "touchStart" if index == 0 else "touchMove"
            touch = {"type": kind, "touchPoints": [{"x": x, "y": 400}]}
            finger.send("Input.dispatchTouchEvent", touch)
        finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        place: str = page.inner_text(".lightbox-place")
        return place

    first = page.inner_text(".lightbox-place")
    second = swipe(300, 100)
    assert second != first
    assert swipe(100, 300) == first


def test_what_is_large_is_what_is_deleted(browser, quick) -> None:
    """Also before the server has told what is known of the image that was chosen."""
    page = browser.open(quick.url)
    drawn(page, "a dipper", seed=90, candidates=3, top_k=3)
    tiles = page.locator("#draw-best .tile").all()
    first, second, third = (tile.get_attribute("data-name") for tile in tiles)
    page.evaluate(
        """() => {
          document.querySelector('#draw-best li:nth-child(2) .tile').click();
          document.querySelector('#draw-delete').click();
        }"""
    )
    page.wait_for_selector(f"#draw-best .tile[data-name='{second}']", state="detached")
    left = [tile.get_attribute("data-name") for tile in page.locator("#draw-best .tile").all()]
    assert left == [first, third]


def test_what_was_there_already_is_shown_large(browser, quick) -> None:
    """Though all that is told of it comes within a moment."""
    for _ in range(4):
        page = browser.open(quick.url)
        drawn(page, "a garganey", seed=110, candidates=3, top_k=3)
        page.wait_for_selector("#draw-picture img")
        page.wait_for_selector("#draw-edit:visible")
    assert "there already" in page.inner_text("#status")


def test_many_are_selected_on_a_phone(browser, quick) -> None:
    page = browser.open(quick.url, 390, 844)
    drawn(page, "a pintail", seed=120, candidates=1, top_k=1)
    tab(page, "Gallery")
    page.wait_for_selector("#gallery-prompts .tile img")
    page.click("[data-select]")
    page.click("#gallery-prompts .tile:has-text('a pintail')")
    for button in page.locator("#gallery-tools button").all():
        box = button.bounding_box()
        assert box["x"] + box["width"] <= 390
    page.click("[data-do=delete]")
    page.wait_for_selector("#gallery-prompts .tile:has-text('a pintail')", state="detached")
    page.click("#deleted-back")
    page.wait_for_selector("#gallery-prompts .tile:has-text('a pintail')")


def choose(page: Any, field: str, option: str) -> None:
    """Choose from a dropdown."""
    page.click(f"{field} input")
    page.click(f"role=option[name='{option}']")


def test_the_gallery_by_model_and_by_fit(browser, quick) -> None:
    page = browser.open(quick.url)
    drawn(page, "a wigeon asleep", seed=100, candidates=1, top_k=1)
    drawn(page, "a wigeon awake", seed=200, candidates=1, top_k=1)
    open_settings(page)
    page.check("#model label:has-text('other') input")
    page.uncheck("#model label:has-text('fake') input")
    drawn(page, "a wigeon afloat", seed=300, candidates=1, top_k=1)
    tab(page, "Gallery")
    page.fill("#gallery-search input, #gallery-search textarea", "wigeon")
    page.wait_for_selector("#gallery-told >> text=3 prompts")
    choose(page, "#gallery-order", "the best fit first")
    page.wait_for_selector("#gallery-told >> text=the best fit first")
    found = {
        p.request.prompt: p for p in quick.service.history.prompts() if "wigeon" in p.request.prompt
    }
    by_fit = sorted(found, key=lambda prompt: -(found[prompt].images[0].match or 0))
    tiles = page.locator("#gallery-prompts .tile")
    assert [text.split("\n")[0] for text in tiles.all_inner_texts()] == by_fit
    choose(page, "#gallery-model", "other")
    page.wait_for_selector("#gallery-told >> text=1 prompt")
    assert "a wigeon afloat" in tiles.first.inner_text()


def test_prompts_are_compared_by_models_in_two_grids(browser, quick) -> None:
    page = browser.open(quick.url)
    tab(page, "Compare")
    page.fill("#compare-prompt textarea, #compare-prompt input", "a merganser")
    axes = {
        "across": ("Prompt", "a {red|blue} merganser | a smew"),
        "down": ("Model", "fake, other"),
        "grids": ("Seed", "1, 2"),
    }
    for which, (setting, values) in axes.items():
        choose(page, f"#compare-{which}", setting)
        page.fill(f"#compare-{which}-values textarea, #compare-{which}-values input", values)
    page.click("#compare-generate")
    page.wait_for_function("document.querySelectorAll('#compare-best img').length == 6")
    page.wait_for_selector("#compare-generate:visible")
    heads = page.locator("#compare-best th").all_inner_texts()
    assert [head.removeprefix("Prompt ") for head in heads] == [
        *("a red merganser", "a blue merganser", "a smew"),
        *("Model fake", "Model other"),
    ]
    made = [line["request"] for line in noted(quick.folder, "prompt")][-12:]
    assert {(each["prompt"], each["model"], each["seed"]) for each in made} == {
        (prompt, model, seed)
        for prompt in ("a red merganser", "a blue merganser", "a smew")
        for model in ("fake", "other")
        for seed in (1, 2)
    }
    tab(page, "Gallery")
    page.wait_for_selector("#gallery-prompts .tile:has-text('Prompt × Model: 6 images') >> nth=1")


def test_mistakes_are_told_at_fields_of_other_tabs(browser, quick) -> None:
    page = browser.open(quick.url)

    def told_at(field: str) -> str:
        page.wait_for_selector(f"{field}[data-invalid]")
        assert page.evaluate(f"document.activeElement.closest('{field}') !== null")
        page.click("[data-testid=toast-close]")
        return str(page.get_attribute(field, "data-invalid"))

    tab(page, "Compare")
    page.click("#compare-generate")
    assert "prompt" in told_at("#compare-prompt")
    page.fill("#compare-prompt textarea, #compare-prompt input", "a gadwall")
    page.fill("#compare-down-values textarea, #compare-down-values input", "5, many")
    page.click("#compare-generate")
    assert "steps many: must be" in told_at("#compare-down-values")
    tab(page, "Rank")
    page.click("#rank-run")
    assert "empty" in told_at("#rank-prompt")
    page.fill("#rank-prompt textarea, #rank-prompt input", "a gadwall")
    page.click("#rank-run")
    assert "1 to 64" in told_at("#rank-files")


@pytest.mark.parametrize("size", [(1280, 900), (1920, 1080), (390, 844)], ids=str)
def test_buttons_and_status_stay_in_view(size: tuple[int, int], browser, quick) -> None:
    """At every width, with the settings open and the page scrolled to its foot."""
    width, height = size
    page = browser.open(quick.url, width=width, height=height)
    open_settings(page)
    in_view = "e => e.checkVisibility() && e.getBoundingClientRect().top >= 0 && " + (
        f"e.getBoundingClientRect().bottom <= {height}"
    )
    foot = "scrollTo(0, document.documentElement.scrollHeight)"
    page.evaluate(foot)
    page.wait_for_function(f"({in_view})(document.querySelector('#draw-generate'))")
    quick.fakes.pipeline.seconds_per_step = 0.1
    draw(page, f"a pochard at {width}", candidates=4, top_k=2, steps=200)
    page.wait_for_selector("#live img")
    page.evaluate(foot)
    for part in ("#draw-finish", "#draw-stop", "#draw-queue", "#status progress", "#status p"):
        page.wait_for_function(f"({in_view})(document.querySelector('{part}'))")
    page.click("#draw-stop")
    page.wait_for_selector("#draw-generate:visible")
