"""Image to image and inpainting: the same images as diffusers', and nothing else is moved."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from reduced_models import build, write_configs, write_folder

from pipelines.denoising import predict_clean, predict_output
from pipelines.diffusion.editing import Given
from pipelines.diffusion.pipeline import LatentDiffusion
from pipelines.diffusion.samplers import make_scheduler
from pipelines.drafts import draw
from pipelines.editing import Canvas, Edit, SecondPass, Start, prepare
from pipelines.upscale.enlarging import plain

SAMPLERS = ("euler", "euler_a", "ddim", "dpmpp_2m", "heun", "unipc")
SEEDS = (3, 4)


def picture(width: int = 64, height: int = 64, seed: int = 0) -> Image.Image:
    """Soft colours, so that shrinking and coding leave something of it."""
    colours = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)


def mask_of(*box: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    mask = Image.new("L", size, 0)
    mask.paste(255, box)
    return mask


def differ(a: Any, b: Any) -> int:
    return int(np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max())


@pytest.fixture
def encoder_means(monkeypatch: pytest.MonkeyPatch) -> None:
    """Diffusers draws from what the encoder says; the mean is the same image each time."""
    monkeypatch.setattr(
        DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode()
    )


def stock(folder: Path, kind: str, **parts: Any) -> Any:
    import diffusers

    made = getattr(diffusers, kind).from_pretrained(folder, **parts)
    made.set_progress_bar_config(disable=True)
    return made


def stock_images(
    pipe: Any, sampler: str, ours: LatentDiffusion, **settings: Any
) -> list[Image.Image]:
    pipe.scheduler = make_scheduler(sampler, "default", ours.scheduler_config)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    return list(
        pipe(
            ["a panda"] * 2,
            image=[picture()] * 2,
            generator=generators,
            num_inference_steps=6,
            guidance_scale=3.0,
            **settings,
        ).images
    )


def ours(pipeline: LatentDiffusion, sampler: str, start: Start) -> list[Image.Image | None]:
    draft = pipeline.begin(
        "a panda", seeds=SEEDS, start=start, steps=6, guidance=3.0, sampler=sampler
    )
    return draw(draft)


@pytest.mark.slow
@pytest.mark.usefixtures("encoder_means")
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_image_to_image_is_that_of_diffusers(
    pipeline: LatentDiffusion, tiny_diffusion_folder: Path, strength: float
) -> None:
    pipe = stock(tiny_diffusion_folder, "StableDiffusionImg2ImgPipeline", safety_checker=None)
    for sampler in SAMPLERS:
        mine = ours(pipeline, sampler, Start((picture(),), strength))
        theirs = stock_images(pipe, sampler, pipeline, strength=strength)
        assert all(differ(a, b) <= 2 for a, b in zip(mine, theirs, strict=True)), sampler
        assert differ(mine[0], mine[1]) > 20, "each candidate has noise of its own"


@pytest.mark.slow
@pytest.mark.usefixtures("encoder_means")
def test_a_second_pass_is_image_to_image_of_diffusers(
    pipeline: LatentDiffusion, tiny_diffusion_folder: Path
) -> None:
    pipe = stock(tiny_diffusion_folder, "StableDiffusionImg2ImgPipeline", safety_checker=None)
    settings: dict[str, Any] = {"steps": 2, "guidance": 3.0, "width": 64, "height": 64}
    second = SecondPass((96, 96), 0.5, 3, partial(plain, times=1.5))
    for sampler in SAMPLERS:
        if sampler == "euler_a":
            continue  # its noise in the second pass goes on with that of the first
        first = draw(pipeline.begin("a panda", seeds=[3], sampler=sampler, **settings))[0]
        assert first is not None
        begun = pipeline.begin("a panda", seeds=[3], sampler=sampler, second=second, **settings)
        pipe.scheduler = make_scheduler(sampler, "default", pipeline.scheduler_config)
        [theirs] = pipe(
            "a panda",
            image=first.resize((96, 96), Image.Resampling.LANCZOS),
            generator=torch.Generator().manual_seed(3),
            num_inference_steps=6,
            strength=0.5,
            guidance_scale=3.0,
        ).images
        assert differ(draw(begun)[0], theirs) <= 2, sampler


@pytest.mark.slow
@pytest.mark.usefixtures("encoder_means")
@pytest.mark.parametrize("strength", [0.7, 1.0])
def test_inpainting_is_that_of_diffusers(
    pipeline: LatentDiffusion, tiny_diffusion_folder: Path, strength: float
) -> None:
    pipe = stock(tiny_diffusion_folder, "StableDiffusionInpaintPipeline", safety_checker=None)
    mask = mask_of(16, 8, 48, 40)
    for sampler in SAMPLERS:
        mine = ours(pipeline, sampler, Start((picture(),), strength, mask))
        theirs = stock_images(
            pipe, sampler, pipeline, mask_image=[mask] * 2, strength=strength, width=64, height=64
        )
        assert all(differ(a, b) <= 2 for a, b in zip(mine, theirs, strict=True)), sampler


@pytest.mark.slow
@pytest.mark.usefixtures("encoder_means")
def test_inpainting_with_nine_channels_is_that_of_diffusers(
    make_diffusion_folder: Callable[..., Path], tmp_path: Path
) -> None:
    from diffusers import UNet2DConditionModel

    folder = make_diffusion_folder(tmp_path / "nine")
    config = json.loads((folder / "unet" / "config.json").read_text())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        unet = UNet2DConditionModel.from_config({**config, "in_channels": 9})
    unet.half().save_pretrained(folder / "unet")
    pipeline = LatentDiffusion.from_pretrained(folder, device="cpu")
    pipe = stock(folder, "StableDiffusionInpaintPipeline", safety_checker=None)
    alone = draw(pipeline.begin("a panda", seeds=SEEDS, steps=6, guidance=3.0, sampler="euler"))
    white = Image.new("L", (64, 64), 255)  # from text alone: all of the image is masked
    theirs = stock_images(
        pipe, "euler", pipeline, mask_image=[white] * 2, strength=1.0, width=64, height=64
    )
    assert all(differ(a, b) <= 2 for a, b in zip(alone, theirs, strict=True))
    mask = mask_of(16, 8, 48, 40)
    for sampler, strength in zip(SAMPLERS, (1.0, 0.7) * 3, strict=True):
        start = Start((picture(),), strength, mask, guidance=2.0)  # which it does not need
        mine = ours(pipeline, sampler, start)
        theirs = stock_images(
            pipe, sampler, pipeline, mask_image=[mask] * 2, strength=strength, width=64, height=64
        )
        assert all(differ(a, b) <= 2 for a, b in zip(mine, theirs, strict=True)), sampler


@pytest.mark.slow
@pytest.mark.usefixtures("encoder_means")
def test_edits_by_xl_are_those_of_diffusers(
    make_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    configs = write_configs("sdxl", tmp_path / "configs")
    folder = write_folder(configs, build(configs), tmp_path / "model", make_tokenizer)
    pipeline = LatentDiffusion.from_pretrained(folder, device="cpu")
    change = stock(folder, "StableDiffusionXLImg2ImgPipeline")
    repaint = stock(folder, "StableDiffusionXLInpaintPipeline")
    mask = mask_of(16, 8, 48, 40)
    for sampler in SAMPLERS:
        mine = ours(pipeline, sampler, Start((picture(),), 0.5))
        theirs = stock_images(change, sampler, pipeline, strength=0.5)
        assert all(differ(a, b) <= 2 for a, b in zip(mine, theirs, strict=True)), sampler
        mine = ours(pipeline, sampler, Start((picture(),), 0.7, mask))
        theirs = stock_images(
            repaint, sampler, pipeline, mask_image=[mask] * 2, strength=0.7, width=64, height=64
        )
        assert all(differ(a, b) <= 2 for a, b in zip(mine, theirs, strict=True)), sampler
    led = ours(pipeline, "ddim", Start((picture(),), 1.0, mask, guidance=2.0))
    assert led != ours(pipeline, "ddim", Start((picture(),), 1.0, mask))


def test_what_a_hard_mask_keeps_is_equal_to_the_bit() -> None:
    """1,000 random masks at random places, sizes and areas, whatever is drawn."""
    rng = np.random.default_rng(0)
    for i in range(1000):
        width, height = (int(n) for n in rng.integers(20, 90, 2))
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        share = rng.uniform(0.01, 0.6)
        hard = rng.random((height, width)) < share
        hard[rng.integers(height), rng.integers(width)] = True
        mask = Image.fromarray((hard * 255).astype(np.uint8))
        edit = Edit(1.0, inpaint_area=("whole", "masked")[i % 2], padding=int(rng.integers(0, 9)))
        size = (width, height) if i % 2 == 0 else (64, 48)
        start = prepare(image, mask, edit, size, 8)
        assert all(side % 8 == 0 for side in start.size)
        drawn = Image.fromarray(rng.integers(0, 256, (*start.size[::-1], 3), dtype=np.uint8))
        made = np.asarray(start.canvases[0].lay(drawn))
        assert np.array_equal(made[~hard], np.asarray(image)[~hard])
        if i % 2 == 0:
            assert np.array_equal(made[hard], np.asarray(drawn)[:height, :width][hard])


@pytest.mark.slow
def test_a_draft_keeps_what_is_outside_the_mask(pipeline: LatentDiffusion) -> None:
    image, mask = picture(70, 50), mask_of(10, 10, 40, 30, size=(70, 50))
    start = prepare(image, mask, Edit(1.0), image.size, 8)
    with pipeline.begin("a panda", seeds=SEEDS, start=start, steps=2) as draft:
        draft.step(2)
        outside = np.asarray(mask) == 0
        for made in draft.images():
            assert made is not None
            assert made.size == (70, 50)
            assert np.array_equal(np.asarray(made)[outside], np.asarray(image)[outside])
            assert not np.array_equal(np.asarray(made)[~outside], np.asarray(image)[~outside])
        assert tuple(draft.pixels().shape) == (2, 3, 50, 70)
        rough = draft.preview()
        assert rough is not None
        assert [i.size for i in rough if i is not None] == [(70, 50)] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "again", "guidance"),
    [("euler_a", 1, 0), ("dpmpp_2m", 1, 2), ("euler_a", 2, 2), ("dpmpp_2m", 3, 0)],
)
def test_candidates_of_an_edit_are_the_same_in_a_batch_and_alone(
    pipeline: LatentDiffusion, sampler: str, again: int, guidance: float
) -> None:
    edit = Edit(0.8, mask_fill="noise", mask_resampling=again, mask_guidance=guidance)
    start = prepare(picture(), mask_of(8, 8, 50, 40), edit, (64, 64), 8)
    settings = {"start": start, "steps": 5, "sampler": sampler}
    together = draw(pipeline.begin("a panda", seeds=[1, 2, 3], **settings))
    alone = [draw(pipeline.begin("a panda", seeds=[s], **settings))[0] for s in (1, 2, 3)]
    assert max(differ(a, b) for a, b in zip(together, alone, strict=True)) <= 2
    with pipeline.begin("a panda", seeds=[1, 2, 3], **settings) as draft:
        draft.step(2)
        first, second = draft.split()
        first.step(draft.total)
        second.step(draft.total)
        halves = [*first.images(), *second.images()]
    assert max(differ(a, b) for a, b in zip(together, halves, strict=True)) <= 2


@pytest.mark.slow
def test_noisy_steps_are_taken_again_from_new_noise(pipeline: LatentDiffusion) -> None:
    """By a plain loop with the formulas of DDIM (Song et al., arXiv 2010.02502, eq. 12)."""
    mask = mask_of(8, 16, 48, 40)
    start = prepare(picture(), mask, Edit(1.0, mask_resampling=3), (64, 64), 8)
    settings = {"start": start, "steps": 8, "sampler": "ddim", "guidance": 2.0}
    with pipeline.begin("a panda", seeds=[5], **settings) as draft:
        state, [one] = draft._open, draft._passes
        assert state.given is not None
        known, cells = state.given.clean, state.given.mask
        assert cells is not None
        generator = torch.Generator().manual_seed(5)
        shape = known.shape
        first = torch.randn(shape, generator=generator)
        bars = state.scheduler.alphas_cumprod
        times = state.scheduler.timesteps.tolist()
        x, evaluations = first, 0
        for t, following in zip(times, [*times[1:], None], strict=True):
            bar = bars[t]
            goes = 3 if 0.001 <= bar < 0.25 else 1
            for go in range(goes):
                v = one.conditions[0].predict(pipeline.unet, x, torch.tensor(t))
                evaluations += 1
                clean = bar.sqrt() * x - (1 - bar).sqrt() * v
                eps = bar.sqrt() * v + (1 - bar).sqrt() * x
                if go < goes - 1:
                    whole = torch.where(cells > 0, clean, known)
                    noise = torch.randn(shape, generator=generator)
                    x = bar.sqrt() * whole + (1 - bar).sqrt() * noise
            after = (
                bars[following] if following is not None else state.scheduler.final_alpha_cumprod
            )
            x = after.sqrt() * clean + (1 - after).sqrt() * eps
            given = known
            if following is not None:
                given = after.sqrt() * known + (1 - after).sqrt() * first
            x = torch.where(cells > 0, x, given)
        assert draft.total == evaluations > 8 + 3
        draft.step(draft.total)
        assert (draft._open.latents - x).abs().max() < 1e-3 * x.abs().max()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_what_is_drawn_is_led_by_the_gradient_of_where_it_does_not_fit(
    prediction_type: str,
) -> None:
    """A network that is a matrix: the gradient can be written down."""
    torch.manual_seed(0)
    size, alpha_bar, weight = (2, 1, 2, 3), 0.1, 1.5
    alpha, sigma = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    matrix = torch.randn(6, 6)
    with torch.inference_mode():
        x_t, clean, noise = (torch.randn(size) for _ in range(3))
        mask = torch.tensor([[[[1.0, 1, 0], [0, 1, 1]]]])
        given = Given(clean, noise, mask, None, weight)

        def network(x: torch.Tensor) -> torch.Tensor:
            return (x.flatten(1) @ matrix.T).view(size)

        output = given.predict(network, alpha_bar, prediction_type, x_t)
        led = predict_clean(x_t, output, alpha_bar, prediction_type)
        jacobian = {  # of the clean latents by x_t
            "epsilon": (torch.eye(6) - sigma * matrix) / alpha,
            "v_prediction": alpha * torch.eye(6) - sigma * matrix,
            "sample": matrix,
        }[prediction_type]
        predicted = x_t.flatten(1) @ jacobian.T
        gradient = 2 * ((1 - mask) * (predicted.view(size) - clean)).flatten(1) @ jacobian
        expected = predicted - weight * alpha / 2 * gradient
    assert torch.allclose(led.flatten(1), expected, rtol=1e-4, atol=1e-4)
    again = predict_output(x_t, led, alpha_bar, prediction_type)
    assert torch.allclose(again, output, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_what_is_led_fits_better_where_it_is_given(pipeline: LatentDiffusion) -> None:
    misfits = []
    for guidance in (0.0, 2.0):
        edit = Edit(1.0, mask_guidance=guidance)
        start = prepare(picture(), mask_of(8, 16, 48, 40), edit, (64, 64), 8)
        with pipeline.begin("a", seeds=[1, 2], start=start, steps=9, sampler="ddim") as draft:
            draft.step(6)
            state = draft._open
            assert state.given is not None
            assert state.given.mask is not None
            assert state.clean is not None
            error = (1 - state.given.mask) * (state.clean - state.given.clean)
            misfits.append(error.square().mean().item())
    assert misfits[1] < misfits[0]


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["heun", "euler", "unipc"])
def test_a_step_of_two_halves_is_taken_again_as_a_whole(
    pipeline: LatentDiffusion, sampler: str
) -> None:
    start = prepare(picture(), mask_of(8, 16, 48, 40), Edit(1.0, mask_resampling=2), (64, 64), 8)
    with pipeline.begin("a", seeds=[1], start=start, steps=9, sampler=sampler) as draft:
        [one] = draft._passes
        order = draft._open.scheduler.order
        again = [one.steps[i] for i in range(draft.total) if one.comes_again(i)]
        assert again
        assert all(step % order == 0 for step in again)
        draft.step(draft.total)
        [made] = draft.images()
        assert made is not None


@pytest.mark.parametrize(("strength", "rule"), [(0.0, "above 0"), (1.5, "above 0"), (0.1, "none")])
def test_strengths_that_cannot_be(pipeline: LatentDiffusion, strength: float, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        pipeline.begin("a", seeds=[1], steps=4, start=Start((picture(),), strength))


def test_a_canvas_is_soft_where_its_mask_is() -> None:
    image, drawn = Image.new("RGB", (8, 8), "black"), Image.new("RGB", (8, 8), "white")
    grey = Canvas(image, Image.new("L", (8, 8), 128), (0, 0, 8, 8)).lay(drawn)
    assert 120 < grey.getpixel((3, 3))[0] < 136  # type: ignore[index]


@pytest.mark.parametrize("mode", ["fit", "fill", "stretch"])
def test_images_are_brought_to_size(mode: str) -> None:
    start = prepare(picture(90, 40), None, Edit(0.5, resize_mode=mode), (64, 64), 8)
    assert start.size == (64, 64)
    assert not start.canvases
    edge = np.asarray(picture(90, 40).resize((64, 64)))[:, 0].astype(int)
    is_bent = np.abs(np.asarray(start.images[0])[:, 0].astype(int) - edge).mean() < 12
    assert is_bent == (mode == "stretch")


def test_what_is_masked_is_filled_with_the_colours_around_it() -> None:
    image = Image.new("RGB", (64, 64), (200, 40, 40))
    image.paste((0, 0, 255), (20, 20, 44, 44))
    start = prepare(image, mask_of(16, 16, 48, 48), Edit(1.0, mask_fill="blur"), (64, 64), 8)
    assert differ(start.images[0], Image.new("RGB", (64, 64), (200, 40, 40))) <= 1


def test_the_masked_part_is_enlarged_in_the_shape_of_the_model() -> None:
    image, mask = picture(200, 100), mask_of(150, 60, 170, 90, size=(200, 100))
    start = prepare(image, mask, Edit(1.0, inpaint_area="masked", padding=5), (64, 64), 8)
    left, top, right, bottom = start.canvases[0].box
    assert (right - left, bottom - top) == (40, 40)
    assert left <= 145
    assert right >= 175
    assert bottom <= 100
    assert start.size == (64, 64)
    assert start.result_size == (200, 100)


def test_variations_lie_on_the_arc_between_two_noises(pipeline: LatentDiffusion) -> None:
    def noise(**settings: Any) -> torch.Tensor:
        with pipeline.begin("a", seeds=[5], sampler="ddim", **settings) as draft:
            return draft._open.latents

    own, [base] = noise(), pipeline.begin("a", seeds=[9], sampler="ddim")._open.latents
    assert torch.equal(noise(base_seed=9, variation=0.0)[0], base)
    assert torch.equal(noise(base_seed=9, variation=1.0), own)
    near, far = noise(base_seed=9)[0], noise(base_seed=9, variation=0.5)[0]
    length = (own.norm() + base.norm()) / 2
    assert abs(float(far.norm() / length) - 1) < 0.05, "as strong as other noise"
    angle = (base * own[0]).sum() / (base.norm() * own.norm())
    turned = (base * near).sum() / (base.norm() * near.norm())
    assert float(turned.acos() / angle.acos()) == pytest.approx(0.2, abs=0.02)
