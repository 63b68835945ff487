"""FLUX 2 and Kontext, and Stable Cascade in its two stages, with few channels: each draws what the
stock call draws."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stock_parts import SMALL, bytes_tokenizer, clip, flow, made_draws_alike, t5
from transformers import CLIPTextModel, CLIPTextModelWithProjection

pytestmark = pytest.mark.slow

FLUX: dict[str, Any] = {"patch_size": 1, "num_layers": 1, "num_single_layers": 1,
                        "attention_head_dim": 16, "num_attention_heads": 2}  # fmt: skip


def flux2_vae() -> Any:
    import diffusers

    return diffusers.AutoencoderKLFlux2(
        sample_size=32, down_block_types=("DownEncoderBlock2D",), block_out_channels=(4,),
        up_block_types=("UpDecoderBlock2D",), layers_per_block=1, latent_channels=1,
        norm_num_groups=1, use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip


def flux2_transformer(**more: Any) -> Any:
    import diffusers

    return diffusers.Flux2Transformer2DModel(
        **FLUX, in_channels=4, joint_attention_dim=3 * SMALL["hidden_size"],
        timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4), **more,
    )  # fmt: skip


def flux2(tokenizer: Any) -> Any:
    """Reads layers 10, 20 and 30 of its text encoder."""
    import diffusers
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    text = {**SMALL, "model_type": "mistral", "num_hidden_layers": 30}
    vision = {"model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16,
              "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 30, "patch_size": 6,
              "head_dim": 8}  # fmt: skip
    config = Mistral3Config(text_config=text, vision_config=vision, image_token_index=2)
    return diffusers.Flux2Pipeline(
        scheduler=flow(),
        vae=flux2_vae(),
        text_encoder=Mistral3ForConditionalGeneration(config),
        tokenizer=bytes_tokenizer(),
        transformer=flux2_transformer(),
    )


def flux2_klein(tokenizer: Any, name: str = "Flux2KleinPipeline") -> Any:
    """Reads layers 9, 18 and 27 of its text encoder."""
    import diffusers
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return getattr(diffusers, name)(
        scheduler=flow(),
        vae=flux2_vae(),
        text_encoder=Qwen3ForCausalLM(Qwen3Config(**{**SMALL, "num_hidden_layers": 27})),
        tokenizer=bytes_tokenizer(),
        transformer=flux2_transformer(guidance_embeds=False),
    )


def flux2_klein_kv(tokenizer: Any) -> Any:
    return flux2_klein(tokenizer, "Flux2KleinKVPipeline")


def flux_kontext(tokenizer: Any) -> Any:
    """Draws about a megapixel, whatever it is asked for: so the VAE has no attention."""
    import diffusers

    second, encoder = t5()
    return diffusers.FluxKontextPipeline(
        transformer=diffusers.FluxTransformer2DModel(
            **FLUX, in_channels=4, joint_attention_dim=16, pooled_projection_dim=16,
            axes_dims_rope=(4, 4, 8),
        ),
        scheduler=flow(),
        vae=diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, block_out_channels=(4,) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1, latent_channels=1,
            norm_num_groups=1, sample_size=32, shift_factor=0.1, mid_block_add_attention=False,
            use_quant_conv=False, use_post_quant_conv=False,
        ),
        text_encoder=clip(CLIPTextModel, tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=encoder,
        tokenizer_2=second,
    )  # fmt: skip


def stable_cascade(tokenizer: Any) -> Any:
    """Both stages in one pipeline, named as in the published folder, which diffusers 0.42 itself
    no longer loads."""
    import diffusers
    from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel

    block = ("SDCascadeResBlock", "SDCascadeTimestepBlock")
    with_attention = (*block, "SDCascadeAttnBlock")
    encoder = clip(CLIPTextModelWithProjection, tokenizer)
    made = diffusers.StableCascadeCombinedPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        decoder=diffusers.StableCascadeUNet(
            in_channels=4, out_channels=4, conditioning_dim=32, block_out_channels=(8, 8, 16, 32),
            num_attention_heads=(-1, -1, 1, 2), down_num_layers_per_block=(1,) * 4,
            up_num_layers_per_block=(1,) * 4, down_blocks_repeat_mappers=(1,) * 4,
            up_blocks_repeat_mappers=(1,) * 4, switch_level=None, clip_text_pooled_in_channels=16,
            block_types_per_layer=(block, block, with_attention, with_attention),
            dropout=(0.1,) * 4,
        ),
        scheduler=diffusers.DDPMWuerstchenScheduler(),
        vqgan=PaellaVQModel(bottleneck_blocks=1, num_vq_embeddings=2, embed_dim=8),
        prior_prior=diffusers.StableCascadeUNet(
            conditioning_dim=32, block_out_channels=(32, 32), num_attention_heads=(2, 2),
            down_num_layers_per_block=(1, 1), up_num_layers_per_block=(1, 1),
            clip_image_in_channels=16, switch_level=(False,), clip_text_in_channels=16,
            clip_text_pooled_in_channels=16,
        ),
        prior_text_encoder=encoder,
        prior_tokenizer=tokenizer,
        prior_scheduler=diffusers.DDPMWuerstchenScheduler(),
    )  # fmt: skip
    made.register_to_config(vqgan=("wuerstchen", "PaellaVQModel"))
    return made


PIPELINES: dict[str, Callable[[Any], Any]] = {
    each.__name__: each
    for each in (flux2, flux2_klein, flux2_klein_kv, flux_kontext, stable_cascade)
}


@pytest.mark.parametrize("name", PIPELINES)
def test_pictures_are_those_of_the_stock_call(
    name: str, tmp_path: Path, make_tokenizer: Callable[..., Any]
) -> None:
    made_draws_alike(
        PIPELINES[name], make_tokenizer, tmp_path, most=1 if name == "flux_kontext" else 0
    )
