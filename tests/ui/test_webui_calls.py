"""All that PyPI's webuiapi can call, on the whole site with real, tiny networks."""

import asyncio
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gen import metadata
from pipelines.diffusion.samplers import SAMPLERS, SCHEDULES

webuiapi = pytest.importorskip("webuiapi", reason="webuiapi is not installed")
pytestmark = pytest.mark.slow
SMALL: dict[str, Any] = {"prompt": "a fox", "seed": 7, "width": 64, "height": 64}
ASKED = 90  # calls that have to do what they say
Call = Callable[[Any], Any]


def image(size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.linear_gradient("L").resize(size).convert("RGB")


def draw(**more: Any) -> Call:
    return lambda api: api.txt2img(**{**SMALL, **more})


def edit(**more: Any) -> Call:
    return lambda api: api.img2img([image()], **{**SMALL, **more})


def masked(**more: Any) -> Call:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    return lambda api: api.img2img([image()], mask_image=mask, **{**SMALL, **more})


def enlarge(**more: Any) -> Call:
    return lambda api: api.extra_single_image(image(), **more)


def many(**more: Any) -> Call:
    return lambda api: api.extra_batch_images([image(), image()], **more)


def waited(call: Callable[[Any], Any]) -> Call:
    async def wait(api: Any) -> Any:
        return await call(api)

    return lambda api: asyncio.run(wait(api))


def asked(name: str, *arguments: Any) -> Call:
    return lambda api: getattr(api, name)(*arguments)


HIRES = {"enable_hr": True, "hr_second_pass_steps": 2}
DONE: dict[str, Call] = {
    "txt2img": lambda api: api.txt2img(prompt="a fox"),
    "negative prompt": draw(negative_prompt="a cat"),
    "no seed": draw(seed=-1),
    "batch_size": draw(batch_size=2),
    "n_iter": draw(n_iter=2),
    "steps": draw(steps=3),
    "cfg_scale": draw(cfg_scale=1.5),
    "size": draw(width=96, height=80),
    "eta": draw(eta=0),
    "subseed": draw(subseed=9, subseed_strength=0.3),
    "styles": draw(styles=["On pink"]),
    "without images": draw(send_images=False),
    "saved": draw(save_images=True),
    "sampler_index": draw(sampler_index="DDIM"),
    "clip skip": draw(override_settings={"CLIP_stop_at_last_layers": 2}),
    "a model": draw(override_settings={"sd_model_checkpoint": "stickers"}),
    "kept settings": draw(
        override_settings={"CLIP_stop_at_last_layers": 1},
        override_settings_restore_afterwards=False,
    ),
    "txt2img, waited for": waited(draw(use_async=True)),
    **{f"sampler {row.a1111}": draw(sampler_name=row.a1111) for row in SAMPLERS.values()},
    **{
        f"scheduler {row.a1111}": draw(sampler_name="Euler", scheduler=row.a1111)
        for row in SCHEDULES.values()
    },
    "enable_hr": draw(enable_hr=True),
    "hr_scale": draw(**HIRES, hr_scale=1.5),
    "hr_second_pass_steps": draw(enable_hr=True, hr_second_pass_steps=3),
    "hr denoising_strength": draw(**HIRES, denoising_strength=0.3),
    "hr_resize_x": draw(**HIRES, hr_resize_x=96),
    "hr_resize_y": draw(**HIRES, hr_resize_y=96),
    "hr_resize": draw(**HIRES, hr_resize_x=96, hr_resize_y=96),
    "hr_prompt": draw(**HIRES, hr_prompt="a fox"),
    **{
        f"hr_upscaler {name}": draw(**HIRES, hr_upscaler=name)
        for name in ("None", "Lanczos", "Latent", "Latent (bicubic)", "Latent (nearest-exact)")
    },
    "img2img": lambda api: api.img2img([image()], prompt="a fox"),
    "denoising_strength": edit(denoising_strength=0.6),
    **{f"resize_mode {mode}": edit(resize_mode=mode, width=96) for mode in (0, 1, 2)},
    "img2img, batch_size": edit(batch_size=2),
    "img2img, styles": edit(styles=["On pink"]),
    "img2img, subseed": edit(subseed=9, subseed_strength=0.3),
    "img2img, waited for": waited(edit(use_async=True)),
    "mask": masked(),
    "mask_blur": masked(mask_blur=0),
    "inpainting_mask_invert": masked(inpainting_mask_invert=1),
    "inpaint_full_res": masked(inpaint_full_res=False),
    "inpaint_full_res_padding": masked(inpaint_full_res_padding=16),
    **{f"inpainting_fill {fill}": masked(inpainting_fill=fill) for fill in (0, 1, 2)},
    "extra_single_image": enlarge(),
    **{f"upscaler {name}": enlarge(upscaler_1=name) for name in ("Lanczos", "Nearest")},
    "upscaling_resize": enlarge(upscaler_1="Lanczos", upscaling_resize=1.5),
    "upscaling_resize_w": enlarge(
        upscaler_1="Lanczos", resize_mode=1, upscaling_resize_w=96, upscaling_resize_h=80
    ),
    "upscaling_crop": enlarge(
        upscaler_1="Lanczos",
        resize_mode=1,
        upscaling_resize_w=96,
        upscaling_resize_h=80,
        upscaling_crop=False,
    ),
    "extra_single_image, waited for": waited(enlarge(use_async=True)),
    "extra_batch_images": many(upscaler_1="Lanczos"),
    "extra_batch_images, named": many(name_list=["a", "b"]),
    "extra_batch_images, waited for": waited(many(use_async=True)),
    "png_info": lambda api: api.png_info(api.txt2img(**SMALL).image),
    "png_info of nothing": lambda api: api.png_info(image()),
    **{
        name: asked(name)
        for name in (
            *("interrupt", "skip", "get_options", "get_cmd_flags", "get_progress", "get_samplers"),
            *("get_sd_vae", "get_upscalers", "get_latent_upscale_modes", "get_loras"),
            *("get_sd_models", "get_hypernetworks", "get_face_restorers", "get_realesrgan_models"),
            *("get_prompt_styles", "get_artist_categories", "get_artists", "get_scripts"),
            *("get_embeddings", "get_memory", "get_schedulers", "refresh_checkpoints"),
            *("check_extensions", "util_get_model_names", "util_get_sampler_names"),
            *("util_get_scheduler_names", "util_get_current_model", "util_wait_for_ready"),
        )
    },
    "set_options": asked("set_options", {"sd_model_checkpoint": "stickers"}),
    "set_options, what get_options said": lambda api: api.set_options(api.get_options()),
    "set_auth": asked("set_auth", "name", "secret"),
    "util_set_model": asked("util_set_model", "stickers"),
    "get_endpoint": asked("get_endpoint", "healthz", False),
    "custom_get": asked("custom_get", "loras", True),
    "custom_get of the server": asked("custom_get", "healthz"),
    "custom_post": asked("custom_post", "txt2img", SMALL, True),
    "post_and_get_api_result": lambda api: api.post_and_get_api_result(
        f"{api.baseurl}/txt2img", SMALL, False
    ),
    "async_post": waited(lambda api: api.async_post(f"{api.baseurl}/txt2img", SMALL)),
}
# What is not done, and the name by which an answer says so.
REFUSED: dict[str, tuple[Call, str]] = {
    "restore_faces": (draw(restore_faces=True), "restore_faces"),
    "tiling": (draw(tiling=True), "tiling"),
    "script": (draw(script_name="X/Y/Z plot"), "script_name"),
    "unknown style": (draw(styles=["nonsense"]), "styles"),
    "unknown sampler": (draw(sampler_name="nonsense"), "sampler_name"),
    "seed_resize_from_w": (draw(seed_resize_from_w=32), "seed_resize_from_w"),
    "hr_checkpoint_name": (draw(**HIRES, hr_checkpoint_name="other"), "hr_checkpoint_name"),
    "hr_sampler_name": (draw(**HIRES, hr_sampler_name="DDIM"), "hr_sampler_name"),
    "hr_upscaler": (draw(**HIRES, hr_upscaler="SwinIR 4x"), "hr_upscaler SwinIR 4x"),
    "hr_scale": (draw(**HIRES, hr_scale=20), "hr_scale 20"),
    "hr_resize": (draw(**HIRES, hr_resize_x=96, hr_resize_y=128), "hr_resize_x 96"),
    "ControlNet": (
        draw(controlnet_units=[webuiapi.ControlNetUnit(image=image())], alwayson_scripts={}),
        "ControlNet",
    ),
    "ADetailer": (draw(adetailer=[webuiapi.ADetailer()], alwayson_scripts={}), "ADetailer"),
    "AnimateDiff": (draw(animatediff=webuiapi.AnimateDiff(), alwayson_scripts={}), "animatediff"),
    "ReActor": (draw(reactor=webuiapi.ReActor(image()), alwayson_scripts={}), "reactor"),
    "upscaler": (enlarge(upscaler_1="SwinIR 4x"), "upscaler_1 SwinIR 4x"),
    "upscaler_2": (
        enlarge(upscaler_2="Lanczos", extras_upscaler_2_visibility=0.5),
        "extras_upscaler_2_visibility",
    ),
    "gfpgan_visibility": (enlarge(gfpgan_visibility=1), "gfpgan_visibility"),
    "interrogate": (asked("interrogate", image()), "interrogate"),
    "controlnet_detect": (asked("controlnet_detect", [image()]), "controlnet"),
    "prompt_gen": (asked("prompt_gen"), "promptgen"),
}
# Lists of extensions, which are not there: the client looks for a key in the answer of a 404.
MISSING = {
    "controlnet_version": "controlnet/version",
    "controlnet_model_list": "controlnet/model_list",
    "controlnet_module_list": "controlnet/module_list",
    "list_prompt_gen_models": "promptgen/list_models",
}


@pytest.fixture(scope="module")
def api(site: Any) -> Any:
    return webuiapi.WebUIApi(baseurl=f"{site.url}/sdapi/v1", steps=2)


@pytest.mark.parametrize("name", DONE)
def test_is_done(name: str, api: Any) -> None:
    result = DONE[name](api)
    if isinstance(result, webuiapi.WebUIApiResult) and name != "without images":
        assert result.images or name.startswith("png_info")
    elif isinstance(result, dict):
        assert "error" not in result


def test_so_many_are_done_and_none_is_left_out() -> None:
    public = {
        name
        for name, each in inspect.getmembers(webuiapi.WebUIApi, inspect.isfunction)
        if not name.startswith("_")
    }
    called = set(re.findall(r"\w+", Path(__file__).read_text(encoding="utf-8")))
    assert len(DONE) >= ASKED
    assert public <= called


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_by_name(name: str, api: Any) -> None:
    call, said = REFUSED[name]
    with pytest.raises(RuntimeError, match=said):
        call(api)


@pytest.mark.parametrize("name", MISSING)
def test_an_extension_is_missing_by_name(name: str, api: Any) -> None:
    said = f"there is no /{MISSING[name]}: extensions of AUTOMATIC1111's web UI are not served here"
    assert api.custom_get(MISSING[name])["detail"] == said
    with pytest.raises(KeyError):
        getattr(api, name)()


def test_a_second_pass_is_what_was_asked_for(api: Any) -> None:
    result = DONE["hr denoising_strength"](api)
    said = metadata.read_image(result.image).request
    assert result.image.size == (128, 128)
    assert (said.hires, said.hires_strength, said.hires_steps) == (2, 0.3, 2)
    assert said.hires_upscaler == "latent"
    assert DONE["hr_resize"](api).image.size == (96, 96)
    lanczos, bicubic = (DONE[f"hr_upscaler {name}"](api) for name in ("None", "Latent (bicubic)"))
    assert metadata.read_image(lanczos.image).request.hires_upscaler == "lanczos"
    assert bicubic.info["notes"] == [
        "hr_upscaler Latent (bicubic): latents are enlarged as by Latent"
    ]


def test_styles_go_around_the_prompt(api: Any) -> None:
    info = DONE["styles"](api).info
    assert info["prompt"] == "a fox on a pink background"
    assert info["styles"] == ["On pink"]
    assert "On pink" in [style["name"] for style in api.get_prompt_styles()]
