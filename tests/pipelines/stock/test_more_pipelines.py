"""More pipelines of diffusers with few channels: each draws what the stock call draws.

And a call of any form: with fewer or more steps than its scheduler has, or none that are seen.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from stock_parts import SMALL, bytes_tokenizer, dc_vae, draws_alike, flow, gemma, vae
from transformers import CLIPTokenizer

from pipelines.checkpoints.errors import WeightsError
from pipelines.families import find
from pipelines.stock.draft import StockDraft
from pipelines.stock.pipeline import _load

pytestmark = pytest.mark.slow


def qwen_vae() -> Any:
    from diffusers import AutoencoderKLQwenImage

    return AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip


def sana_sprint() -> Any:
    import diffusers

    return diffusers.SanaSprintPipeline(
        tokenizer=bytes_tokenizer(),
        text_encoder=gemma(),
        vae=dc_vae(),
        transformer=diffusers.SanaTransformer2DModel(
            patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2,
            attention_head_dim=4, num_cross_attention_heads=2, cross_attention_head_dim=4,
            cross_attention_dim=8, caption_channels=16, sample_size=32,
            qk_norm="rms_norm_across_heads", guidance_embeds=True,
        ),
        scheduler=diffusers.SCMScheduler(),
    )  # fmt: skip


def lumina2() -> Any:
    import diffusers

    return diffusers.Lumina2Pipeline(
        transformer=diffusers.Lumina2Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, hidden_size=8, num_layers=1,
            num_refiner_layers=1, num_attention_heads=1, num_kv_heads=1, multiple_of=2,
            cap_feat_dim=16, axes_dim_rope=(4, 2, 2), axes_lens=(512, 64, 64),
        ),
        scheduler=flow(),
        vae=vae(),
        text_encoder=gemma(),
        tokenizer=bytes_tokenizer(),
    )  # fmt: skip


def qwen_image() -> Any:
    import diffusers
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {**SMALL, "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default",
                                      "type": "default"}, "rope_theta": 1e4}  # fmt: skip
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
              "out_hidden_size": 16}  # fmt: skip
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    return diffusers.QwenImagePipeline(
        scheduler=flow(),
        vae=qwen_vae(),
        text_encoder=Qwen2_5_VLForConditionalGeneration(config),
        tokenizer=bytes_tokenizer(),
        transformer=diffusers.QwenImageTransformer2DModel(
            patch_size=2, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=16, axes_dims_rope=(8, 4, 4),
        ),
    )  # fmt: skip


def z_image() -> Any:
    import diffusers
    from transformers import Qwen3Config, Qwen3Model

    return diffusers.ZImagePipeline(
        scheduler=flow(),
        vae=vae(16),
        text_encoder=Qwen3Model(Qwen3Config(**SMALL)),
        tokenizer=bytes_tokenizer(),
        transformer=diffusers.ZImageTransformer2DModel(
            in_channels=16, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2,
            cap_feat_dim=16, axes_dims=[8, 4, 4], axes_lens=[1024, 32, 32],
        ),
    )  # fmt: skip


def cogview4() -> Any:
    import diffusers
    from transformers import GlmConfig, GlmModel

    return diffusers.CogView4Pipeline(
        tokenizer=bytes_tokenizer(),
        text_encoder=GlmModel(GlmConfig(**SMALL)),
        vae=vae(),
        transformer=diffusers.CogView4Transformer2DModel(
            patch_size=2, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=4,
            num_attention_heads=4, text_embed_dim=16, time_embed_dim=8, condition_dim=4,
            rope_axes_dim=(16, 16), sample_size=8,
        ),
        scheduler=flow(),
    )  # fmt: skip


def krea2() -> Any:
    import diffusers
    from transformers import Qwen3VLConfig, Qwen3VLModel

    text = {**SMALL, "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default"}}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
              "out_hidden_size": 16, "deepstack_visual_indexes": [0]}  # fmt: skip
    return diffusers.Krea2Pipeline(
        scheduler=flow(),
        vae=qwen_vae(),
        text_encoder=Qwen3VLModel(Qwen3VLConfig(text_config=text, vision_config=vision)),
        tokenizer=bytes_tokenizer(),
        transformer=diffusers.Krea2Transformer2DModel(
            in_channels=16, num_layers=1, attention_head_dim=8, num_attention_heads=2,
            num_key_value_heads=2, intermediate_size=16, timestep_embed_dim=8, text_hidden_dim=16,
            num_text_layers=2, text_num_attention_heads=2, text_num_key_value_heads=2,
            text_intermediate_size=16, num_layerwise_text_blocks=1, num_refiner_text_blocks=1,
            axes_dims_rope=(4, 2, 2),
        ),
        text_encoder_select_layers=[1, 2],
    )  # fmt: skip


def kandinsky_combined(make_tokenizer: Callable[..., Any], root: Path) -> Any:
    import diffusers
    from transformers import (
        CLIPImageProcessor,
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    make_tokenizer(root / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(root / "tokenizer", model_max_length=77)
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
             "num_attention_heads": 2, "projection_dim": 16}  # fmt: skip
    text = CLIPTextConfig(**tower, vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id,
                          eos_token_id=tokenizer.eos_token_id)  # fmt: skip
    return diffusers.KandinskyV22CombinedPipeline(
        unet=diffusers.UNet2DConditionModel(
            in_channels=4, out_channels=8, addition_embed_type="image",
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn", block_out_channels=(32, 64),
            layers_per_block=1, encoder_hid_dim=16, encoder_hid_dim_type="image_proj",
            cross_attention_dim=16, attention_head_dim=4, resnet_time_scale_shift="scale_shift",
            class_embed_type=None,
        ),
        scheduler=DDPMScheduler(
            beta_schedule="linear", beta_start=0.00085, beta_end=0.012, clip_sample=False,
            prediction_type="epsilon", thresholding=False,
        ),
        movq=diffusers.VQModel(
            block_out_channels=[32, 64], down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2, in_channels=3, out_channels=3,
            latent_channels=4, layers_per_block=1, norm_num_groups=8, num_vq_embeddings=12,
            vq_embed_dim=4,
        ),
        prior_prior=diffusers.PriorTransformer(
            num_attention_heads=2, attention_head_dim=8, num_layers=1, embedding_dim=16,
        ),
        prior_image_encoder=CLIPVisionModelWithProjection(
            CLIPVisionConfig(**tower, image_size=32, patch_size=16)
        ),
        prior_text_encoder=CLIPTextModelWithProjection(text),
        prior_tokenizer=tokenizer,
        prior_scheduler=diffusers.UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", num_train_timesteps=1000,
            clip_sample_range=5.0,
        ),
        prior_image_processor=CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
    )  # fmt: skip


PIPELINES: dict[str, Callable[..., Any]] = {
    each.__name__: each
    for each in (sana_sprint, lumina2, qwen_image, z_image, cogview4, krea2, kandinsky_combined)
}


@pytest.mark.parametrize("name", PIPELINES)
def test_pictures_are_those_of_the_stock_call(
    name: str, tmp_path: Path, make_tokenizer: Callable[..., Any]
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        given = (make_tokenizer, tmp_path) if name == "kandinsky_combined" else ()
        stock = PIPELINES[name](*given)
    draws_alike(stock, tmp_path / "model")


class _Scheduler:
    """Has three steps."""

    def __init__(self) -> None:
        self.config: dict[str, Any] = {}
        self.timesteps = [3, 2, 1]

    @classmethod
    def from_config(cls, config: Any) -> "_Scheduler":
        return cls()

    def step(self) -> None:
        """Do nothing."""


class _Stock:
    """A stock pipeline that makes as many steps as it is told."""

    def __init__(self, steps: int, error: Exception | None = None) -> None:
        self.scheduler = _Scheduler()
        self.steps = steps
        self.error = error

    def __call__(self, **arguments: Any) -> Any:
        for _ in range(self.steps):
            self.scheduler.step()
        if self.error is not None:
            raise self.error

        class Made:
            images = np.ones((1, 4, 4, 3))

        return Made()


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5])
def test_calls_with_other_numbers_of_steps(steps: int) -> None:
    with StockDraft(_Stock(steps), {}, [1, 2], 3, torch.device("cpu")) as draft:
        for _ in range(20):
            assert 0 <= draft.done <= draft.total
            if draft.done == draft.total:
                break
            draft.step()
        images = draft.images()
    assert [image.size for image in images if image is not None] == [(4, 4)] * 2


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5])
def test_all_steps_at_once_of_calls_with_other_numbers(steps: int) -> None:
    with StockDraft(_Stock(steps), {}, [1, 2], 3, torch.device("cpu")) as draft:
        while draft.done < draft.total:
            draft.step(draft.total - draft.done)
        assert [image.size for image in draft.images() if image is not None] == [(4, 4)] * 2


def test_what_a_call_raises_is_told_in_one_line() -> None:
    for error, expected in (
        (ValueError("no\nsuch size"), WeightsError),
        (TypeError("x"), WeightsError),
        (MemoryError(), MemoryError),
        (torch.OutOfMemoryError("x"), torch.OutOfMemoryError),
    ):
        stock = _Stock(1, error)
        with (
            StockDraft(stock, {}, [1], 3, torch.device("cpu")) as draft,
            pytest.raises(expected) as raised,
        ):
            draft.step(3)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("FluxControlPipeline", "draws from more than text"),
        ("QwenImageImg2ImgPipeline", "draws from more than text"),
        ("WanPipeline", "which makes a video, not an image"),
        ("LTXPipeline", "which makes a video, not an image"),
        ("TextToVideoZeroPipeline", "makes a video, not an image"),
        ("ShapEPipeline", "makes views of a shape, not an image"),
        ("QwenImageEditPlusPipeline", "draws from more than text"),
        ("QwenImageLayeredPipeline", "draws from more than text"),
        ("LongCatImageEditPipeline", "draws from more than text"),
        ("BriaFiboEditPipeline", "draws from more than text"),
        ("StableDiffusionGLIGENPipeline", "draws from more than text"),
        ("StableDiffusionPix2PixZeroPipeline", "draws from more than text"),
        ("KandinskyV22PriorPipeline", "makes image_embeds, negative_image_embeds, not an image"),
        ("StableAudioPipeline", "makes audios, not an image"),
        ("StableDiffusionInstructPix2PixPipeline", "draws from more than text"),
        ("StableDiffusionControlNetPipeline", "draws from more than text"),
        ("NotThereYetPipeline", "as it is installed here does not have$"),
    ],
)
def test_other_pipelines_are_refused_before_anything_is_loaded(
    name: str, reason: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    index = {"_class_name": name, "transformer": ["diffusers", "Gone"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=reason):
        _load(find(str(folder)).folder, torch.float32)


def test_what_a_pipeline_takes_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Standing:  # as diffusers has them where something is missing
        _backends = ("torch", "not-there")

    monkeypatch.setattr("diffusers.KolorsPipeline", Standing)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "KolorsPipeline"}))
    with pytest.raises(WeightsError, match="does not have: it takes not-there, which is not inst"):
        _load(tmp_path, torch.float32)
