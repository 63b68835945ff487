"""The Draft contract, rule by rule, for every sampler; and the stock pipeline's pictures."""

import gc
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import decoding, denoising
from pipelines.diffusion import text
from pipelines.diffusion.draft import DiffusionDraft as Draft
from pipelines.diffusion.pipeline import LatentDiffusion
from pipelines.diffusion.samplers import SAMPLERS, make_scheduler

pytestmark = pytest.mark.slow

STEPS = 6
SEEDS = (11, 0, 5, 2**63 - 1)
EVERY_SAMPLER = pytest.mark.parametrize("sampler", SAMPLERS)


class ExactUnet:
    """A UNet whose arithmetic does not depend on the batch, so that rows can be compared by bits.

    Real kernels round differently for different batch sizes; products and sums do not.
    """

    dtype = torch.float32

    def __init__(self, config: Any) -> None:
        self.config = config

    def __call__(
        self, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor, **_: Any
    ) -> tuple[torch.Tensor]:
        return (x.clamp(-2, 2) * (0.3 + 0.0005 * t.float()) + text[:, :4, :1, None],)


@pytest.fixture
def exact(pipeline: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> LatentDiffusion:
    monkeypatch.setattr(pipeline, "unet", ExactUnet(pipeline.unet.config))
    return pipeline


def latents_of(draft: Draft) -> torch.Tensor:
    return draft._open.latents


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple, deque)):
        for item in value:
            yield from tensors_in(item)


def max_difference(a: Image.Image | None, b: Image.Image | None) -> int:
    return int(np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max())


def difference(a: list[Image.Image | None], b: list[Image.Image | None]) -> int:
    assert len(a) == len(b)
    return max(map(max_difference, a, b))


def stock_pipeline(folder: Path) -> Any:
    from diffusers import StableDiffusionPipeline

    stock = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    stock.set_progress_bar_config(disable=True)
    return stock


# --- the same pictures as the stock pipeline ---


@pytest.mark.parametrize("like_sd2", [False, True])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_stock_pipeline_draws_the_same(
    make_diffusion_folder: Callable[..., Path],
    tmp_path: Path,
    like_sd2: bool,
    prediction_type: str,
) -> None:
    folder = make_diffusion_folder(
        tmp_path / "model", like_sd2=like_sd2, prediction_type=prediction_type
    )
    pipeline = LatentDiffusion.from_pretrained(folder, device="cpu")
    ours = pipeline(
        "a panda", negative_prompt="blue", seeds=SEEDS, steps=4, guidance=3.0, width=80, height=48
    )
    theirs = stock_pipeline(folder)(
        ["a panda"] * 4,
        negative_prompt=["blue"] * 4,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        num_inference_steps=4,
        guidance_scale=3.0,
        width=80,
        height=48,
    ).images
    assert difference(ours, theirs) <= 2
    assert max_difference(ours[0], ours[1]) > 50  # or the comparison would say nothing
    assert ours[0] is not None
    assert ours[0].size == (80, 48)


def test_stock_pipeline_draws_the_same_with_every_sampler(
    pipeline: LatentDiffusion, tiny_diffusion_folder: Path
) -> None:
    stock = stock_pipeline(tiny_diffusion_folder)
    for sampler, row in SAMPLERS.items():
        schedule = row.schedules[min(1, len(row.schedules) - 1)]
        ours = pipeline("a panda", seeds=[3, 4], steps=5, sampler=sampler, schedule=schedule)
        stock.scheduler = make_scheduler(sampler, schedule, pipeline.scheduler_config)
        theirs = stock(
            ["a panda"] * 2,
            generator=[torch.Generator().manual_seed(seed) for seed in (3, 4)],
            num_inference_steps=5,
        ).images
        assert difference(ours, theirs) <= 2, (sampler, schedule)


def test_guidance_embedding_is_the_stock_one(
    make_diffusion_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_diffusion_folder(tmp_path / "lcm", time_cond_proj_dim=8)
    pipeline = LatentDiffusion.from_pretrained(folder, device="cpu")
    stock = stock_pipeline(folder)
    stock.scheduler = make_scheduler("lcm", "default", pipeline.scheduler_config)
    theirs = stock(
        "a panda",
        generator=torch.Generator().manual_seed(1),
        num_inference_steps=4,
        guidance_scale=5.0,
    ).images
    ours = pipeline("a panda", seeds=[1], steps=4, guidance=5.0, sampler="lcm")
    assert difference(ours, theirs) <= 2
    weak = pipeline("a panda", seeds=[1], steps=4, guidance=1.0, sampler="lcm")
    assert difference(ours, weak) > 0


def test_guidance_is_one_batch_and_skipped_at_one(
    pipeline: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    monkeypatch.setattr(pipeline, "unet", ExactUnet(pipeline.unet.config))
    real = ExactUnet.__call__

    def counting(self: ExactUnet, x: torch.Tensor, *rest: Any, **named: Any) -> Any:
        sizes.append(len(x))
        return real(self, x, *rest, **named)

    monkeypatch.setattr(ExactUnet, "__call__", counting)
    for guidance in (0.0, 1.0, 1.1):
        pipeline.begin("a", seeds=[1, 2], guidance=guidance).step(2)
    assert sizes == [2, 2, 2, 2, 4, 4]


# --- begin ---


def test_defaults_are_those_of_the_spec(pipeline: LatentDiffusion) -> None:
    draft = pipeline.begin("a panda", seeds=[0])
    assert draft.total == pipeline.spec.defaults["steps"] == 30
    assert latents_of(draft).shape == (1, 4, 8, 8)
    assert (draft.seeds, draft.done, draft.failed) == ((0,), 0, {})


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"width": 70}, "width is 70; it must be a multiple of 8, from 8 to 2048"),
        ({"height": 0}, "height is 0; it must be"),
        ({"height": -64}, "height is -64; it must be"),
        ({"width": 10**9}, "width is 1000000000; it must be"),
        ({"steps": 0}, "steps is 0; 'ddim' takes 1 to 1000"),
        ({"steps": 10**6}, "steps is 1000000"),
        ({"guidance": float("nan")}, "guidance is nan; it must be a finite number"),
        ({"sampler": "magic"}, "unknown sampler 'magic'; choose from"),
        ({"schedule": "karras"}, "'ddim' has no schedule 'karras'"),
        ({"seeds": []}, "seeds must be one or more different numbers"),
        ({"seeds": [1, 1]}, "seeds must be one or more different numbers"),
        ({"seeds": [-1]}, "a seed is a whole number from 0"),
        ({"seeds": [2**63]}, "a seed is a whole number from 0"),
    ],
)
def test_begin_refuses_what_cannot_be(
    pipeline: LatentDiffusion, settings: dict[str, Any], rule: str
) -> None:
    with pytest.raises(ValueError, match=rule):
        pipeline.begin("a panda", **{"seeds": [1], **settings})


def test_zero_is_a_value(pipeline: LatentDiffusion) -> None:
    with pytest.raises(ValueError, match="width is 0"):
        pipeline.begin("a", seeds=[0], width=0)
    zero = pipeline.begin("a", seeds=[0], guidance=0.0)
    condition = zero._passes[0].conditions[0]
    assert condition.guidance == 0.0
    assert condition.negative is None


def test_begin_encodes_once_and_remembers(
    pipeline: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    [reader] = pipeline.text.readers
    real = reader.encoder.forward

    def counting(input_ids: torch.Tensor, **named: Any) -> Any:
        encoded.append(tuple(input_ids.shape))
        return real(input_ids, **named)

    monkeypatch.setattr(reader.encoder, "forward", counting)
    monkeypatch.setattr(pipeline.text, "_remembered", {})
    pipeline.begin("the first", negative_prompt="not this", seeds=range(16)).step(2)
    assert encoded == [(1, 32), (1, 32)]
    pipeline.begin("the first", negative_prompt="not this", seeds=[1])
    assert len(encoded) == 2
    for i in range(text.REMEMBERED - 1):
        pipeline.text.encode(f"other {i}")
        pipeline.text.encode("the first")
    assert len(pipeline.text._remembered) == text.REMEMBERED
    assert "not this" not in {prompt for prompt, *_ in pipeline.text._remembered}
    pipeline.text.encode("other 0")
    assert len(encoded) == 2 + text.REMEMBERED - 1


# --- noise ---


@pytest.mark.fault("one seed, every batch and device")
def test_noise_of_a_seed_is_the_same_in_every_batch(pipeline: LatentDiffusion) -> None:
    seeds = list(range(16))
    whole = latents_of(pipeline.begin("a", seeds=seeds))
    for size in (1, 4):
        for start in range(0, 16, size):
            part = latents_of(pipeline.begin("b c", seeds=seeds[start : start + size]))
            assert torch.equal(part, whole[start : start + size])
    by_hand = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(7))
    assert torch.equal(whole[7:8], by_hand)


@EVERY_SAMPLER
@pytest.mark.fault("one seed, every batch and device")
def test_candidates_do_not_depend_on_the_batch(pipeline: LatentDiffusion, sampler: str) -> None:
    draft = pipeline.begin("a panda", seeds=SEEDS, steps=STEPS, sampler=sampler)
    draft.step(draft.total)
    alone = pipeline.begin("a panda", seeds=SEEDS[2:3], steps=STEPS, sampler=sampler)
    alone.step(alone.total)
    assert torch.allclose(latents_of(alone), latents_of(draft)[2:3], atol=1e-4, rtol=1e-5)
    assert difference(alone.images(), draft.images()[2:3]) <= 2


def test_one_draw_per_stochastic_step(exact: LatentDiffusion) -> None:
    draft = exact.begin("a", seeds=[3], steps=STEPS, sampler="euler_a")
    draft.step(4)
    by_hand = torch.Generator().manual_seed(3)
    for _ in range(1 + 4):
        torch.randn((1, 4, 8, 8), generator=by_hand)
    assert torch.equal(draft._open.generators[0].get_state(), by_hand.get_state())


def test_global_random_state_is_left_alone(pipeline: LatentDiffusion) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    pipeline("a", seeds=[1], steps=2, sampler="euler_a")
    assert torch.equal(torch.get_rng_state(), before)


# --- step ---


@pytest.mark.parametrize(
    ("sampler", "total"), [("euler", 10), ("heun", 19), ("pndm", 11), ("dpmpp_2s", 10)]
)
def test_total_counts_network_evaluations(
    exact: LatentDiffusion, monkeypatch: pytest.MonkeyPatch, sampler: str, total: int
) -> None:
    calls = []
    real = ExactUnet.__call__

    def counting(self: ExactUnet, *args: Any, **named: Any) -> Any:
        calls.append(1)
        return real(self, *args, **named)

    monkeypatch.setattr(ExactUnet, "__call__", counting)
    draft = exact.begin("a", seeds=[1], steps=10, sampler=sampler)
    assert (draft.done, draft.total) == (0, total)
    assert type(draft.total) is int
    while draft.done < draft.total:
        draft.step()
        assert draft.done == len(calls)
    draft.step(5)  # a finished draft has nothing to do
    assert len(calls) == draft.done == total
    with pytest.raises(ValueError, match="count is 0"):
        draft.step(0)


@EVERY_SAMPLER
def test_steps_may_be_taken_together(exact: LatentDiffusion, sampler: str) -> None:
    one_by_one = exact.begin("a", seeds=SEEDS, steps=STEPS, sampler=sampler)
    while one_by_one.done < one_by_one.total:
        one_by_one.step()
    together = exact.begin("a", seeds=SEEDS, steps=STEPS, sampler=sampler)
    together.step(10**6)
    assert torch.equal(latents_of(one_by_one), latents_of(together))


@EVERY_SAMPLER
@pytest.mark.parametrize("error", [KeyboardInterrupt, torch.OutOfMemoryError])
def test_step_is_all_or_nothing(
    exact: LatentDiffusion,
    monkeypatch: pytest.MonkeyPatch,
    sampler: str,
    error: type[BaseException],
) -> None:
    expected = exact.begin("a", seeds=SEEDS, steps=STEPS, sampler=sampler)
    expected.step(expected.total)
    draft = exact.begin("a", seeds=SEEDS, steps=STEPS, sampler=sampler)
    real_unet, scheduler = ExactUnet.__call__, type(draft._open.scheduler)
    real_step = scheduler.step

    def failing_unet(*args: Any, **named: Any) -> Any:
        raise error

    def failing_after_step(*args: Any, **named: Any) -> Any:
        real_step(*args, **named)  # the scheduler has moved on and the noise is drawn
        raise error

    while draft.done < draft.total:
        before = latents_of(draft).clone()
        for owner, name, failing in (
            (ExactUnet, "__call__", failing_unet),
            (scheduler, "step", failing_after_step),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(owner, name, failing)
                with pytest.raises(error):
                    draft.step(2)
        assert torch.equal(latents_of(draft), before)
        draft.step(2)
    assert ExactUnet.__call__ is real_unet
    assert torch.equal(latents_of(draft), latents_of(expected))


@EVERY_SAMPLER
def test_two_drafts_take_turns(exact: LatentDiffusion, sampler: str) -> None:
    def begin(prompt: str, steps: int) -> Draft:
        return exact.begin(prompt, seeds=SEEDS, steps=steps, sampler=sampler)

    alone = [begin("a", STEPS), begin("panda", STEPS + 1)]
    for draft in alone:
        draft.step(draft.total)
    turns = [begin("a", STEPS), begin("panda", STEPS + 1)]
    while any(draft.done < draft.total for draft in turns):
        for draft in turns:
            draft.step()
    for left, right in zip(alone, turns, strict=True):
        assert torch.equal(latents_of(left), latents_of(right))


# --- keep and split ---


@EVERY_SAMPLER
@pytest.mark.parametrize("indices", [[1, 3], [2]])
def test_kept_candidates_go_on_bit_for_bit(
    exact: LatentDiffusion, sampler: str, indices: list[int]
) -> None:
    whole = exact.begin("a", negative_prompt="b", seeds=SEEDS, steps=STEPS, sampler=sampler)
    whole.step(whole.total)
    for half_way in range(1, whole.total):
        draft = exact.begin("a", negative_prompt="b", seeds=SEEDS, steps=STEPS, sampler=sampler)
        draft.step(half_way)
        draft.keep(indices)
        assert draft.seeds == tuple(SEEDS[i] for i in indices)
        draft.step(draft.total)
        assert latents_of(draft).shape[0] == len(indices)
        assert torch.equal(latents_of(draft), latents_of(whole)[indices]), half_way


@EVERY_SAMPLER
def test_kept_candidates_go_on_with_the_real_network(
    pipeline: LatentDiffusion, sampler: str
) -> None:
    whole = pipeline.begin("a panda", seeds=SEEDS, steps=STEPS, sampler=sampler)
    whole.step(whole.total)
    draft = pipeline.begin("a panda", seeds=SEEDS, steps=STEPS, sampler=sampler)
    draft.step(draft.total // 2)
    draft.keep([1, 3])
    draft.step(draft.total)
    expected = latents_of(whole)[[1, 3]]
    assert torch.allclose(latents_of(draft), expected, atol=1e-4, rtol=1e-5)


@EVERY_SAMPLER
def test_scheduler_holds_nothing_of_dropped_candidates(
    exact: LatentDiffusion, sampler: str
) -> None:
    draft = exact.begin("a", seeds=range(7), steps=STEPS, sampler=sampler)
    for step in range(1, draft.total):
        draft.step()
        other = exact.begin("a", seeds=range(7), steps=STEPS, sampler=sampler)
        other.step(step)
        other.keep([2, 4])
        for value in vars(other._open.scheduler).values():
            for tensor in tensors_in(value):
                assert tensor.ndim < 2 or tensor.shape[0] == 2


def test_dropped_candidates_leave_memory(pipeline: LatentDiffusion) -> None:
    draft = pipeline.begin("a", seeds=range(8), steps=4, sampler="dpmpp_2m")
    draft.step(2)
    held = [weakref.ref(latents_of(draft)), weakref.ref(draft._open.clean)]
    held += [weakref.ref(t) for t in draft._open.scheduler.model_outputs if t is not None]
    draft.keep([1])
    gc.collect()
    assert [ref() for ref in held] == [None] * len(held)
    assert latents_of(draft).untyped_storage().nbytes() == 4 * 8 * 8 * 4


@pytest.mark.parametrize("indices", [[], [1, 1], [2, 1], [4], [-1], [0, 9]])
def test_keep_refuses_indices_that_do_not_increase(
    pipeline: LatentDiffusion, indices: list[int]
) -> None:
    draft = pipeline.begin("a", seeds=SEEDS)
    with pytest.raises(ValueError, match="indices must strictly increase within 0 to 3"):
        draft.keep(indices)
    assert draft.seeds == SEEDS


@EVERY_SAMPLER
def test_halves_go_on_bit_for_bit(exact: LatentDiffusion, sampler: str) -> None:
    seeds = (1, 2, 3, 4, 5)
    whole = exact.begin("a", seeds=seeds, steps=STEPS, sampler=sampler)
    whole.step(whole.total)
    draft = exact.begin("a", seeds=seeds, steps=STEPS, sampler=sampler)
    draft.step(3)
    halves = draft.split()
    assert [half.seeds for half in halves] == [(1, 2), (3, 4, 5)]
    assert [half.done for half in halves] == [3, 3]
    for half in halves:
        half.step(half.total)
    assert torch.equal(torch.cat([latents_of(h) for h in halves]), latents_of(whole))
    with pytest.raises(RuntimeError, match="closed"):
        draft.step()


def test_one_candidate_cannot_be_split(pipeline: LatentDiffusion) -> None:
    draft = pipeline.begin("a", seeds=[1])
    with pytest.raises(ValueError, match="one candidate cannot be split"):
        draft.split()
    assert draft.seeds == (1,)


# --- previews ---


@EVERY_SAMPLER
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_predicted_clean_latent_is_right(
    pipeline: LatentDiffusion,
    monkeypatch: pytest.MonkeyPatch,
    sampler: str,
    prediction_type: str,
) -> None:
    """A network that knows the answer: whatever the sampler, the prediction is the answer."""
    answer = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(99))

    class Oracle(ExactUnet):
        def __call__(
            self, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor, **_: Any
        ) -> tuple[torch.Tensor]:
            (alpha_bar,) = denoising.interpolate(alphas, t[None])
            alpha, sigma = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
            eps = (x - alpha * answer) / sigma
            if prediction_type == "epsilon":
                return (eps,)
            return (alpha * eps - sigma * answer,)

    config = {**pipeline.scheduler_config, "prediction_type": prediction_type}
    monkeypatch.setattr(pipeline, "scheduler_config", config)
    monkeypatch.setattr(pipeline, "unet", Oracle(pipeline.unet.config))
    for schedule in SAMPLERS[sampler].schedules:
        draft = pipeline.begin(
            "a", seeds=[1, 2], steps=8, guidance=1.0, sampler=sampler, schedule=schedule
        )
        alphas = draft._open.scheduler.alphas_cumprod
        assert draft.preview() is None
        while draft.done < draft.total:
            draft.step()
            assert draft._open.clean is not None
            assert torch.allclose(draft._open.clean, answer, atol=2e-3)
        # The sampler agrees with the prediction about where it leads.
        assert (latents_of(draft) - answer).abs().mean() < 0.15


def test_alpha_bar_between_timesteps() -> None:
    table = torch.tensor([0.9, 0.5, 0.1])
    found = denoising.interpolate(table, torch.tensor([0.0, 0.25, 1.5, 2.0, 2.5]))
    assert found == pytest.approx([0.9, 0.8, 0.3, 0.1, 0.1])


def test_previews(pipeline: LatentDiffusion) -> None:
    draft = pipeline.begin("a panda", seeds=SEEDS, steps=6, width=80, height=48)
    assert draft.preview() is None
    assert draft.preview(exact=True) is None
    draft.step(3)
    for exact in (False, True):
        pictures = draft.preview(exact=exact)
        assert pictures is not None
        assert [p.size for p in pictures if p is not None] == [(80, 48)] * 4
        some = draft.preview([1, 3], exact=exact)
        assert some is not None
        assert difference(some, [pictures[1], pictures[3]]) <= 1
    with pytest.raises(ValueError, match="indices must strictly increase"):
        draft.preview([4])
    draft.step(draft.total)
    last = draft.preview(exact=True)
    assert last is not None
    assert difference(last, draft.images()) <= 1


def test_previews_do_not_change_the_draft(exact: LatentDiffusion) -> None:
    draft = exact.begin("a", seeds=SEEDS, steps=STEPS, sampler="euler_a")
    other = exact.begin("a", seeds=SEEDS, steps=STEPS, sampler="euler_a")
    other.step(other.total)
    while draft.done < draft.total:
        draft.step()
        draft.preview()
        draft.preview([0], exact=True)
    assert torch.equal(latents_of(draft), latents_of(other))


def test_stored_preview_map_is_used(
    make_diffusion_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_diffusion_folder(tmp_path / "model")
    red = decoding.LatentRgb(torch.zeros(4, 3), torch.tensor([1.0, 0.0, 0.2]))
    decoding.write_latent_rgb(red, folder / "vae")
    draft = LatentDiffusion.from_pretrained(folder, device="cpu").begin("a", seeds=[1])
    draft.step()
    pictures = draft.preview()
    assert pictures is not None
    assert pictures[0] is not None
    assert pictures[0].getpixel((5, 5)) == (255, 0, 51)


# --- pictures ---


def test_images_and_pixels_are_the_same(pipeline: LatentDiffusion) -> None:
    draft = pipeline.begin("a panda", seeds=SEEDS, steps=3)
    draft.step(2)
    for make in (draft.images, draft.pixels):
        with pytest.raises(RuntimeError, match="the draft is at step 2 of 3, not done"):
            make()
    draft.step()
    pixels, images = draft.pixels(), draft.images()
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (4, 3, 64, 64)
    for row, image in zip(pixels, images, strict=True):
        assert np.array_equal(row.permute(1, 2, 0).numpy(), np.asarray(image))


def test_pictures_are_decoded_once(
    pipeline: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = pipeline.begin("a panda", seeds=SEEDS, steps=2)
    draft.step(2)
    before = draft.images()
    monkeypatch.setattr(decoding, "decode", lambda *_: pytest.fail("decoded again"))
    draft.keep([0, 2])
    assert draft.pixels().shape[0] == 2
    assert difference(draft.images(), [before[0], before[2]]) == 0


@pytest.mark.fault("values that are not finite")
def test_not_a_number_is_no_picture_and_has_a_reason(
    pipeline: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = type(pipeline.unet).forward

    def poisoned(self: Any, sample: torch.Tensor, *args: Any, **named: Any) -> Any:
        (out,) = real(self, sample, *args, **named)
        out[1] = float("nan")
        return (out,)

    with monkeypatch.context() as patch:
        patch.setattr(type(pipeline.unet), "forward", poisoned)
        draft = pipeline.begin("a", seeds=[7, 8, 9], steps=2, guidance=1.0)
        draft.step(1)
    for exact in (False, True):
        pictures = draft.preview(exact=exact)
        assert pictures is not None
        assert [p is None for p in pictures] == [False, True, False]
    draft.step(1)
    images = draft.images()
    assert [image is None for image in images] == [False, True, False]
    assert draft.failed == {8: "the network made values that are not finite"}
    assert draft.pixels().shape == (2, 3, 64, 64)
    draft.keep([1])
    assert draft.images() == [None]
    assert draft.pixels().shape == (0, 3, 64, 64)
    assert list(draft.failed) == [8]


def test_a_decoder_that_fails_for_good_has_a_reason(
    pipeline: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nan(vae: Any, rows: torch.Tensor) -> torch.Tensor:
        return torch.full((len(rows), 3, 64, 64), float("nan"))

    draft = pipeline.begin("a", seeds=[7, 8], steps=1)
    draft.step()
    monkeypatch.setattr(decoding, "_decode_rows", nan)
    assert draft.images() == [None, None]
    assert draft.failed[7] == "the decoder made values that are not finite, in float32 too"


def test_memory_short_in_the_decoder_does_not_cost_the_latents(
    pipeline: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    draft = pipeline.begin("a", seeds=[7, 8], steps=2)
    draft.step(2)
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "_decode_rows", out_of_memory)
        with pytest.raises(torch.OutOfMemoryError):
            draft.images()
    assert all(image is not None for image in draft.images())


def test_calling_the_pipeline_is_the_whole_loop(pipeline: LatentDiffusion) -> None:
    draft = pipeline.begin("a panda", seeds=[1, 2], steps=3)
    draft.step(3)
    assert difference(pipeline("a panda", seeds=[1, 2], steps=3), draft.images()) == 0


# --- close ---


def test_close_frees_everything(pipeline: LatentDiffusion) -> None:
    with pipeline.begin("a", seeds=[1, 2], steps=2) as draft:
        draft.step(2)
        held = [weakref.ref(latents_of(draft)), weakref.ref(draft._open.scheduler)]
        pictures = weakref.ref(draft.pixels())
    gc.collect()
    assert [ref() for ref in (*held, pictures)] == [None] * 3
    draft.close()
    for use in (draft.step, draft.images, draft.preview, draft.split, lambda: draft.keep([0])):
        with pytest.raises(RuntimeError, match="this draft is closed"):
            use()


# --- loading ---


@pytest.mark.fault("half precision on a CPU")
def test_half_precision_on_a_cpu_warns_and_runs_in_float32(tiny_diffusion_folder: Path) -> None:
    with pytest.warns(UserWarning, match="far slower than float32 on a CPU"):
        pipeline = LatentDiffusion.from_pretrained(tiny_diffusion_folder, "cpu", dtype="float16")
    assert pipeline.dtype == torch.float32
    assert (pipeline.unet.dtype, pipeline.vae.dtype) == (torch.float32, torch.float32)
    assert pipeline.attention == "sdpa"


def test_safety_checkers_are_not_loaded(
    make_diffusion_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_diffusion_folder(tmp_path / "model")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "model.safetensors").write_bytes(b"broken, but not opened")
    (picture,) = LatentDiffusion.from_pretrained(folder, device="cpu")("a", seeds=[1], steps=1)
    assert picture is not None


def test_scheduler_copies_go_into_deques_and_tuples() -> None:
    shape = torch.Size((3, 1, 2, 2))
    value = torch.arange(3.0)[:, None, None, None].expand(shape)
    scheduler = SimpleNamespace(a=[value, None, (value,)], b=deque([value], maxlen=4), c=value[0])
    twin = denoising.copy_scheduler(scheduler, torch.tensor([0, 2]), shape)
    assert twin.a[0][:, 0, 0, 0].tolist() == [0, 2]
    assert twin.a[2][0].shape[0] == twin.b[0].shape[0] == 2
    assert twin.b.maxlen == 4
    assert torch.equal(twin.c, value[0])
    twin.a.append(1)
    assert len(scheduler.a) == 3


def test_compiled_networks_draw_the_same(
    tiny_diffusion_folder: Path,
    pipeline: LatentDiffusion,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Traced as ever, but run as they are: translating to C++ takes minutes."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    compile_network = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda network: compile_network(network, backend="eager")
    )
    compiled = LatentDiffusion.from_pretrained(tiny_diffusion_folder, "cpu", compiled=True)
    pictures = [p("a panda", seeds=[1, 2], steps=2) for p in (pipeline, compiled)]
    for one, other in zip(*pictures, strict=True):
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1
    with pytest.raises(ValueError, match="nothing can be compiled"):
        LatentDiffusion.from_pretrained(
            tiny_diffusion_folder, "cpu", offload="sequential", compiled=True
        )
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="needs a C\\+\\+ compiler"):
        LatentDiffusion.from_pretrained(tiny_diffusion_folder, "cpu", compiled=True)
