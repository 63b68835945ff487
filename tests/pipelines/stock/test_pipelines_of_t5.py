"""More pipelines of diffusers with few channels, most of which read T5: each draws what the stock
call draws."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from test_more_pipelines import SMALL, bytes_tokenizer, draws_alike, flow, gemma, vae
from test_pipeline import clip, t5
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from pipelines.checkpoints.errors import WeightsError
from pipelines.families import find
from pipelines.stock.pipeline import _load

pytestmark = pytest.mark.slow


def small_vae(channels: int = 1) -> Any:
    """One level, so that latents are as large as the image."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(4,), layers_per_block=1, latent_channels=channels, norm_num_groups=1,
        sample_size=32, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06,
        scaling_factor=1.5,
    )  # fmt: skip


def movq() -> Any:
    from diffusers import VQModel

    return VQModel(
        block_out_channels=[32, 64], down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2, latent_channels=4, layers_per_block=1,
        norm_num_groups=8, num_vq_embeddings=12, vq_embed_dim=4,
    )  # fmt: skip


def bert() -> tuple[Any, Any]:
    from transformers import BertConfig, BertModel, BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "panda"]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    return tokenizer, BertModel(config)


def flux2_vae() -> Any:
    from diffusers import AutoencoderKLFlux2

    return AutoencoderKLFlux2(
        sample_size=32, down_block_types=("DownEncoderBlock2D",), block_out_channels=(4,),
        up_block_types=("UpDecoderBlock2D",), layers_per_block=1, latent_channels=1,
        norm_num_groups=1, use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip


def flux2_klein(tokenizer: Any) -> Any:
    import diffusers
    from transformers import Qwen3Config, Qwen3ForCausalLM

    text = Qwen3ForCausalLM(Qwen3Config(**SMALL, max_position_embeddings=512))
    return diffusers.Flux2KleinPipeline(
        scheduler=flow(),
        vae=flux2_vae(),
        text_encoder=text,
        tokenizer=bytes_tokenizer(),
        transformer=diffusers.Flux2Transformer2DModel(
            patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=16, axes_dims_rope=[4, 4, 4, 4],
            guidance_embeds=False,
        ),
    )  # fmt: skip


def kontext(tokenizer: Any) -> Any:
    import diffusers

    second, encoder = t5()
    return diffusers.FluxKontextPipeline(
        scheduler=flow(),
        vae=small_vae(),
        text_encoder=clip(CLIPTextModel, tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=encoder,
        tokenizer_2=second,
        transformer=diffusers.FluxTransformer2DModel(
            patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=16, pooled_projection_dim=16,
            axes_dims_rope=(4, 4, 8),
        ),
    )  # fmt: skip


def chroma(tokenizer: Any) -> Any:
    import diffusers

    second, encoder = t5()
    return diffusers.ChromaPipeline(
        scheduler=flow(),
        vae=small_vae(),
        text_encoder=encoder,
        tokenizer=second,
        transformer=diffusers.ChromaTransformer2DModel(
            patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=16, axes_dims_rope=(4, 4, 8),
            approximator_hidden_dim=16, approximator_layers=1, approximator_num_channels=16,
        ),
    )  # fmt: skip


def aura_flow(tokenizer: Any) -> Any:
    import diffusers
    from transformers import UMT5Config, UMT5EncoderModel

    second, _ = t5()
    config = UMT5Config(
        vocab_size=len(second), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2
    )
    return diffusers.AuraFlowPipeline(
        scheduler=flow(),
        vae=vae(),
        text_encoder=UMT5EncoderModel(config),
        tokenizer=second,
        transformer=diffusers.AuraFlowTransformer2DModel(
            sample_size=32, patch_size=2, in_channels=4, num_mmdit_layers=1,
            num_single_dit_layers=1, attention_head_dim=8, num_attention_heads=2,
            caption_projection_dim=16, joint_attention_dim=16, out_channels=4,
            pos_embed_max_size=256,
        ),
    )  # fmt: skip


def sana(tokenizer: Any) -> Any:
    import diffusers
    from test_more_pipelines import sana_sprint

    sprint = sana_sprint()
    return diffusers.SanaPipeline(
        scheduler=flow(),
        vae=sprint.vae,
        text_encoder=gemma(),
        tokenizer=bytes_tokenizer(),
        transformer=diffusers.SanaTransformer2DModel(
            patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2,
            attention_head_dim=4, num_cross_attention_heads=2, cross_attention_head_dim=4,
            cross_attention_dim=8, caption_channels=16, sample_size=32,
        ),
    )  # fmt: skip


def cogview3(tokenizer: Any) -> Any:
    import diffusers

    second, encoder = t5()
    return diffusers.CogView3PlusPipeline(
        scheduler=diffusers.CogVideoXDDIMScheduler(),
        vae=vae(),
        text_encoder=encoder,
        tokenizer=second,
        transformer=diffusers.CogView3PlusTransformer2DModel(
            patch_size=2, in_channels=4, num_layers=1, attention_head_dim=4, out_channels=4,
            num_attention_heads=2, text_embed_dim=16, time_embed_dim=8, condition_dim=2,
            pos_embed_max_size=8, sample_size=8,
        ),
    )  # fmt: skip


def pixart_alpha(tokenizer: Any) -> Any:
    import diffusers

    second, encoder = t5()
    return diffusers.PixArtAlphaPipeline(
        scheduler=diffusers.DPMSolverMultistepScheduler(),
        vae=vae(levels=4),
        text_encoder=encoder,
        tokenizer=second,
        transformer=diffusers.PixArtTransformer2DModel(
            sample_size=8, num_layers=1, patch_size=2, attention_head_dim=8,
            num_attention_heads=2, caption_channels=16, in_channels=4, cross_attention_dim=16,
            out_channels=8, use_additional_conditions=False,
        ),
    )  # fmt: skip


def hunyuan_dit(tokenizer: Any) -> Any:
    import diffusers

    first, bert_model = bert()
    second, encoder = t5()
    return diffusers.HunyuanDiTPipeline(
        scheduler=DDPMScheduler(),
        vae=vae(levels=4),
        text_encoder=bert_model,
        tokenizer=first,
        text_encoder_2=encoder,
        tokenizer_2=second,
        transformer=diffusers.HunyuanDiT2DModel(
            sample_size=16, num_layers=2, patch_size=2, attention_head_dim=8,
            num_attention_heads=3, in_channels=4, cross_attention_dim=16, hidden_size=24,
            cross_attention_dim_t5=16, pooled_projection_dim=16,
            activation_fn="gelu-approximate",
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def kandinsky3(tokenizer: Any) -> Any:
    import diffusers

    second, encoder = t5()
    return diffusers.Kandinsky3Pipeline(
        tokenizer=second,
        text_encoder=encoder,
        unet=diffusers.Kandinsky3UNet(
            in_channels=4, time_embedding_dim=4, groups=2, attention_head_dim=4,
            layers_per_block=3, block_out_channels=(32, 64), cross_attention_dim=4,
            encoder_hid_dim=16,
        ),
        scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2", steps_offset=1),
        movq=movq(),
    )  # fmt: skip


def ovis(tokenizer: Any) -> Any:
    import diffusers
    from transformers import Qwen3Config, Qwen3Model

    return diffusers.OvisImagePipeline(
        scheduler=flow(),
        vae=small_vae(),
        text_encoder=Qwen3Model(Qwen3Config(**SMALL, max_position_embeddings=512)),
        tokenizer=bytes_tokenizer(),
        transformer=diffusers.OvisImageTransformer2DModel(
            patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_single_layers=1,
            attention_head_dim=16, num_attention_heads=2, joint_attention_dim=16,
            axes_dims_rope=(4, 4, 8),
        ),
    )  # fmt: skip


def bria(tokenizer: Any) -> Any:
    import diffusers

    second, encoder = t5()
    return diffusers.BriaPipeline(
        scheduler=flow(),
        vae=vae(),
        text_encoder=encoder,
        tokenizer=second,
        transformer=diffusers.BriaTransformer2DModel(
            patch_size=1, in_channels=16, num_layers=1, num_single_layers=1,
            attention_head_dim=8, num_attention_heads=2, joint_attention_dim=16,
            pooled_projection_dim=None, axes_dims_rope=[0, 4, 4],
        ),
    )  # fmt: skip


def stable_cascade(tokenizer: Any) -> Any:
    import diffusers
    from diffusers.pipelines.wuerstchen import PaellaVQModel

    def unet(channels: int, *, has_pool: bool) -> Any:
        pooled = {"clip_text_pooled_in_channels": 16}
        if has_pool:
            pooled |= {"clip_text_in_channels": 16, "clip_image_in_channels": 768}
        return diffusers.StableCascadeUNet(
            in_channels=channels, out_channels=channels, conditioning_dim=32,
            block_out_channels=(16, 16), num_attention_heads=(-1, 2),
            down_num_layers_per_block=(1, 1), up_num_layers_per_block=(1, 1),
            down_blocks_repeat_mappers=(1, 1), up_blocks_repeat_mappers=(1, 1),
            block_types_per_layer=(
                ("SDCascadeResBlock", "SDCascadeTimestepBlock"),
                ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),
            ),
            switch_level=(False,) if has_pool else None, dropout=(0.0, 0.0),
            effnet_in_channels=None if has_pool else 16, **pooled,
        )  # fmt: skip

    steps = diffusers.DDPMWuerstchenScheduler
    return diffusers.StableCascadeCombinedPipeline(
        tokenizer=tokenizer,
        text_encoder=clip(CLIPTextModelWithProjection, tokenizer),
        decoder=unet(4, has_pool=False),
        scheduler=steps(),
        vqgan=PaellaVQModel(bottleneck_blocks=1, num_vq_embeddings=2),
        prior_prior=unet(16, has_pool=True),
        prior_text_encoder=clip(CLIPTextModelWithProjection, tokenizer),
        prior_tokenizer=tokenizer,
        prior_scheduler=steps(),
    )


PIPELINES: dict[str, Callable[[Any], Any]] = {
    each.__name__: each
    for each in (
        flux2_klein, kontext, chroma, aura_flow, sana, cogview3, pixart_alpha, hunyuan_dit,
        kandinsky3, ovis, bria, stable_cascade,
    )
}  # fmt: skip


@pytest.mark.parametrize("name", PIPELINES)
def test_images_are_those_of_the_stock_call(
    name: str, tmp_path: Path, make_tokenizer: Callable[..., Any]
) -> None:
    make_tokenizer(tmp_path / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer", model_max_length=77)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stock = PIPELINES[name](tokenizer)
    draws_alike(stock, tmp_path / "model")


def test_a_module_of_pipelines_is_none_of_another_kind(tmp_path: Path) -> None:
    """Parts may be classes of a module of diffusers' pipelines, and of none beside it."""
    index = {"_class_name": "KolorsPipeline", "scheduler": ["kolors.text_encoder", "os"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="which is not there"):
        _load(find(str(tmp_path)).folder, torch.float32)
