"""More pipelines of diffusers with few channels, most of which read T5: each draws what the stock
call draws."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diffusers import DDPMScheduler
from stock_parts import SMALL, bytes_tokenizer, dc_vae, flow, gemma, made_draws_alike, t5, vae

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

    return diffusers.SanaPipeline(
        scheduler=flow(),
        vae=dc_vae(),
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


def with_its_parts(name: str, make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Another pipeline of the same parts, as those with perturbed attention are."""

    def made(tokenizer: Any) -> Any:
        import diffusers

        return getattr(diffusers, name)(**make(tokenizer).components)

    made.__name__ = name
    return made


PIPELINES: dict[str, Callable[[Any], Any]] = {
    each.__name__: each
    for each in (
        chroma, aura_flow, sana, cogview3, hunyuan_dit,
        kandinsky3, ovis, bria,
        with_its_parts("HunyuanDiTPAGPipeline", hunyuan_dit),
        with_its_parts("SanaPAGPipeline", sana),
    )
}  # fmt: skip


@pytest.mark.parametrize("name", PIPELINES)
def test_images_are_those_of_the_stock_call(
    name: str, tmp_path: Path, make_tokenizer: Callable[..., Any]
) -> None:
    made_draws_alike(PIPELINES[name], make_tokenizer, tmp_path)
