"""The stock pipelines' pictures with Stable Diffusion 1.5, 2.1 and XL of few channels, in float32.

Before they are rounded to 255 values they may differ by a thousandth of their range.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from reduced_models import build, write_configs, write_folder

from pipelines.diffusion.pipeline import LatentDiffusion
from pipelines.diffusion.samplers import make_scheduler

pytestmark = pytest.mark.slow

SAMPLERS = ("ddim", "euler", "euler_a", "dpmpp_2m", "heun", "unipc")
SEEDS = (3, 4)
SETTINGS: dict[str, Any] = {"width": 80, "height": 64}


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def model(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    make_tokenizer: Callable[..., Any],
) -> tuple[LatentDiffusion, Any]:
    """Ours and the stock pipeline of one folder."""
    import diffusers

    root = tmp_path_factory.mktemp(request.param)
    configs = write_configs(request.param, root / "configs")
    folder = write_folder(configs, build(configs), root / "model", make_tokenizer)
    ours = LatentDiffusion.from_pretrained(folder, device="cpu")
    stock = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    stock.set_progress_bar_config(disable=True)
    return ours, stock


def difference(
    model: tuple[LatentDiffusion, Any],
    negative: str | None,
    guidance: float,
    sampler: str,
    steps: int = 2,
) -> float:
    """The largest difference of the decoded pictures, whose range is 2."""
    ours, stock = model
    with ours.begin(
        "a panda",
        negative_prompt=negative,
        seeds=SEEDS,
        steps=steps,
        guidance=guidance,
        sampler=sampler,
        **SETTINGS,
    ) as draft:
        draft.step(draft.total)
        latents = draft._open.latents / ours.vae.config.scaling_factor
        with torch.inference_mode():
            drawn = ours.vae.decode(latents, return_dict=False)[0]
    stock.scheduler = make_scheduler(sampler, "default", ours.scheduler_config)
    expected = stock(
        ["a panda"] * len(SEEDS),
        negative_prompt=None if negative is None else [negative] * len(SEEDS),
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        num_inference_steps=steps,
        guidance_scale=guidance,
        output_type="pt",
        **SETTINGS,
    ).images
    assert (drawn[0] - drawn[1]).abs().max() > 0.1  # or the comparison would say nothing
    return float(((drawn / 2 + 0.5).clamp(0, 1) - expected).abs().max())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_with_guidance_and_without(
    model: tuple[LatentDiffusion, Any], sampler: str
) -> None:
    assert difference(model, "blue", 5.0, sampler) <= 1e-3
    assert difference(model, "blue", 1.0, sampler) <= 1e-3


def test_no_negative_prompt_is_what_the_folder_says(model: tuple[LatentDiffusion, Any]) -> None:
    ours, _ = model
    assert ours.zeros_for_no_negative == ours.takes_sizes
    assert difference(model, None, 5.0, "euler") <= 1e-3
    assert difference(model, "", 5.0, "euler") <= 1e-3
