"""How many of the calls of PyPI `webuiapi` this server answers; `pytest -s` prints the number.

A call passes that draws, or answers, what it asks for. One refused by its name is counted apart.
"""

import json
from collections.abc import Callable
from typing import Any

import fake_models
import pytest
from fake_site import FakeSite
from PIL import Image

from pipelines.diffusion.samplers import SAMPLERS, SCHEDULES

pytestmark = pytest.mark.slow

LISTS = (
    *("get_options", "get_cmd_flags", "get_progress", "get_samplers", "get_sd_vae"),
    *("get_upscalers", "get_latent_upscale_modes", "get_loras", "get_sd_models", "get_scripts"),
    *("get_hypernetworks", "get_face_restorers", "get_realesrgan_models", "get_prompt_styles"),
    *("get_embeddings", "get_memory", "get_schedulers", "refresh_checkpoints", "interrupt", "skip"),
    *("util_get_model_names", "util_get_sampler_names", "util_get_scheduler_names"),
    *("util_get_current_model", "util_wait_for_ready"),
)
# Arguments of txt2img that make no other image, and those that are done.
DRAWN: tuple[dict[str, Any], ...] = (
    {},
    {"seed": 5},
    {"steps": 3},
    {"cfg_scale": 2.5},
    {"width": 128, "height": 64},
    {"width": 512, "height": 768},
    {"negative_prompt": "a cat"},
    {"batch_size": 2},
    {"n_iter": 2},
    {"batch_size": 2, "n_iter": 2},
    {"send_images": False},
    {"save_images": True},
    {"do_not_save_samples": True, "do_not_save_grid": True},
    {"subseed": 3},
    {"styles": []},
    {"restore_faces": False, "tiling": False},
    {"denoising_strength": 0.3},
    {"eta": 0},
    {"s_tmax": 1, "s_tmin": 0, "s_noise": 1},
    {"script_name": None, "script_args": []},
    {"alwayson_scripts": {}},
    {"override_settings": {"sd_model_checkpoint": "fake"}},
    {"override_settings": {"CLIP_stop_at_last_layers": 1}},
    {"override_settings_restore_afterwards": False},
    {"sampler_index": "Euler"},
    {"sampler_name": "k_euler_a"},
    {"sampler_name": "DPM++ 2M Karras"},
    {"hr_scale": 2, "hr_upscaler": "Latent", "hr_resize_x": 0},
    {"use_async": False},
)
EDITED: tuple[dict[str, Any], ...] = (
    {},
    {"denoising_strength": 0.4},
    {"resize_mode": 1},
    {"resize_mode": 2},
    {"batch_size": 2},
    {"mask": True},
    {"mask": True, "inpaint_full_res": False, "mask_blur": 8},
    {"mask": True, "inpainting_mask_invert": 1},
    {"mask": True, "inpainting_fill": 1},
)
REFUSED: tuple[dict[str, Any], ...] = (
    {"enable_hr": True},
    {"restore_faces": True},
    {"tiling": True},
    {"styles": ["a style"]},
    {"script_name": "x/y/z plot"},
)


def calls(api: Any, editing: Any) -> dict[str, Callable[[], Any]]:
    """Every call by its name; `editing` is a client of a site whose model takes images."""
    small: dict[str, Any] = {"prompt": "a fox", "seed": 1, "width": 64, "height": 64}
    made: dict[str, Callable[[], Any]] = {name: getattr(api, name) for name in LISTS}

    def draw(**more: Any) -> None:
        asked = small | more
        result = api.txt2img(**asked)
        count = asked.get("batch_size", 1) * asked.get("n_iter", 1)
        assert len(result.info["all_seeds"]) == count
        assert len(result.images) == (0 if asked.get("send_images") is False else count)
        assert all(isinstance(image, Image.Image) for image in result.images)

    def edit(mask: bool = False, **more: Any) -> None:
        image = fake_models.picture("a fox", 1)
        masked = {"mask_image": Image.new("L", image.size, 255)} if mask else {}
        asked = small | masked | more
        result = editing.img2img(images=[image], sampler_name="Euler", **asked)
        assert len(result.images) == asked.get("batch_size", 1)

    for more in DRAWN:
        made[f"txt2img {json.dumps(more)}"] = lambda more=more: draw(**more)
    for row in SAMPLERS.values():
        made[f"sampler {row.a1111}"] = lambda name=row.a1111: draw(sampler_name=name)
    for row in SCHEDULES.values():
        made[f"scheduler {row.a1111}"] = lambda name=row.a1111: draw(
            sampler_name="Euler", scheduler=name
        )
    for more in EDITED:
        made[f"img2img {json.dumps(more)}"] = lambda more=more: edit(**more)
    image = fake_models.picture("a fox", 1)
    made |= {
        "extra_single_image": lambda: api.extra_single_image(image, upscaler_1="Lanczos"),
        "extra_single_image, by size": lambda: api.extra_single_image(image, resize_mode=1),
        "extra_batch_images": lambda: api.extra_batch_images([image], upscaler_1="Nearest"),
        "png_info": lambda: api.png_info(image),
        "set_options": lambda: api.set_options({"CLIP_stop_at_last_layers": 1}),
        "util_set_model": lambda: api.util_set_model("fake"),
        "custom_get": lambda: api.custom_get("samplers"),
        "custom_post": lambda: api.custom_post("txt2img", payload=small),
        "get_endpoint": lambda: api.get_endpoint("sdapi/v1/samplers", baseurl=True),
        "interrogate": lambda: api.interrogate(image),
    }
    for more in REFUSED:
        made[f"txt2img {json.dumps(more)}"] = lambda more=more: draw(**more)
    return made


def test_calls_of_webuiapi(quick: FakeSite, site: Any, capsys: pytest.CaptureFixture[str]) -> None:
    webuiapi = pytest.importorskip("webuiapi", reason="webuiapi is not installed")
    api, editing = (
        webuiapi.WebUIApi(baseurl=f"{each.url}/sdapi/v1", steps=3) for each in (quick, site)
    )
    passed, refused, failed = 0, 0, []
    made = calls(api, editing)
    for name, call in made.items():
        try:
            call()
            passed += 1
        except RuntimeError as error:
            named = name.split()[0] == "interrogate" or any(
                key in str(error.args) for more in REFUSED for key in more if f'"{key}"' in name
            )
            refused += named
            failed += [] if named else [f"{name}: {error}"]
        except Exception as error:
            failed.append(f"{name}: {type(error).__name__} {error}")
    with capsys.disabled():
        print(f"\n{passed} of {len(made)} calls of webuiapi pass, {refused} are refused by name")
    assert failed == []
    assert refused == len(REFUSED) + 1
    assert passed >= 0.9 * len(made)
