"""Models of each layout with few channels and random weights, and diffusers' own pipelines."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
    StableUnCLIPImageNormalizer,
)
from tokenizers import pre_tokenizers
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    XLMRobertaTokenizer,
)

from pipelines.unclip.image_tokens import ImageTokens

WIDTH = 16  # of embeddings
TOWER: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_dim": WIDTH,
}
SIDE = 32  # of what the image encoder reads
BLOCKS: dict[str, Any] = {
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 4,
    "resnet_time_scale_shift": "scale_shift",
}

Tokenizers = Callable[..., Any]


def clip_tokenizer(make_tokenizer: Tokenizers, root: Path) -> CLIPTokenizer:
    make_tokenizer(root / "made-tokenizer")
    return CLIPTokenizer.from_pretrained(root / "made-tokenizer", model_max_length=77)


def text_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        **TOWER,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def text_tower(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(text_config(tokenizer))


def image_tower() -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**TOWER, image_size=SIDE, patch_size=8))


def image_processor() -> CLIPImageProcessorPil:
    side = {"height": SIDE, "width": SIDE}
    return CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=side)


def prior(context: int = 77) -> diffusers.PriorTransformer:
    made = diffusers.PriorTransformer(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        embedding_dim=WIDTH,
        num_embeddings=context,
    )
    made.clip_std.data += torch.rand(made.clip_std.shape) + 0.5
    made.clip_mean.data += torch.randn(made.clip_mean.shape) / 4
    made.positional_embedding.data += torch.randn(made.positional_embedding.shape)
    return made


def prior_scheduler() -> diffusers.UnCLIPScheduler:
    return diffusers.UnCLIPScheduler(
        variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0
    )


def movq() -> diffusers.VQModel:
    return diffusers.VQModel(
        block_out_channels=(32, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 3 + ("AttnDownEncoderBlock2D",),
        up_block_types=("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        num_vq_embeddings=12,
        vq_embed_dim=4,
        norm_type="spatial",
    )


def vae() -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
    )


def karlo(make_tokenizer: Tokenizers, root: Path) -> diffusers.UnCLIPPipeline:
    tokenizer = clip_tokenizer(make_tokenizer, root)
    decoder = diffusers.UNet2DConditionModel(
        sample_size=16,
        in_channels=3,
        out_channels=6,
        cross_attention_dim=24,
        class_embed_type="identity",
        **BLOCKS,
    )
    enlarging: dict[str, Any] = {
        "sample_size": 32,
        "layers_per_block": 1,
        "down_block_types": ("ResnetDownsampleBlock2D",) * 2,
        "up_block_types": ("ResnetUpsampleBlock2D",) * 2,
        "block_out_channels": (16, 32),
        "norm_num_groups": 8,
        "in_channels": 6,
        "out_channels": 3,
    }
    proj = UnCLIPTextProjModel(clip_embeddings_dim=WIDTH, time_embed_dim=64, cross_attention_dim=24)
    proj.learned_classifier_free_guidance_embeddings.data += torch.randn(WIDTH)
    return diffusers.UnCLIPPipeline(
        tokenizer=tokenizer,
        text_encoder=text_tower(tokenizer),
        prior=prior(),
        text_proj=proj,
        decoder=decoder,
        super_res_first=diffusers.UNet2DModel(**enlarging),
        super_res_last=diffusers.UNet2DModel(**enlarging),
        prior_scheduler=prior_scheduler(),
        decoder_scheduler=diffusers.UnCLIPScheduler(variance_type="learned_range"),
        super_res_scheduler=diffusers.UnCLIPScheduler(),
    )


def karlo_variations(
    make_tokenizer: Tokenizers, root: Path
) -> diffusers.UnCLIPImageVariationPipeline:
    parts = karlo(make_tokenizer, root).components
    for name in ("prior", "prior_scheduler"):
        del parts[name]
    return diffusers.UnCLIPImageVariationPipeline(
        **parts, image_encoder=image_tower(), feature_extractor=image_processor()
    )


def kandinsky_prior(make_tokenizer: Tokenizers, root: Path) -> diffusers.KandinskyV22PriorPipeline:
    tokenizer = clip_tokenizer(make_tokenizer, root)
    return diffusers.KandinskyV22PriorPipeline(
        prior=prior(),
        image_encoder=image_tower(),
        text_encoder=text_tower(tokenizer),
        tokenizer=tokenizer,
        scheduler=prior_scheduler(),
        image_processor=image_processor(),
    )


def old_kandinsky_prior(make_tokenizer: Tokenizers, root: Path) -> diffusers.KandinskyPriorPipeline:
    return diffusers.KandinskyPriorPipeline(**kandinsky_prior(make_tokenizer, root).components)


def kandinsky_22() -> diffusers.KandinskyV22Pipeline:
    return diffusers.KandinskyV22Pipeline(
        unet=diffusers.UNet2DConditionModel(
            in_channels=4,
            out_channels=8,
            addition_embed_type="image",
            encoder_hid_dim=WIDTH,
            encoder_hid_dim_type="image_proj",
            cross_attention_dim=16,
            **BLOCKS,
        ),
        scheduler=diffusers.DDPMScheduler(
            beta_schedule="linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=True,
            clip_sample_range=2.0,
            variance_type="learned_range",
        ),
        movq=movq(),
    )


def multilingual_tokenizer() -> XLMRobertaTokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [*specials, "▁", "▁a", "▁panda", *alphabet, "<mask>"]
    return XLMRobertaTokenizer(
        vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], model_max_length=77
    )


def kandinsky_21() -> diffusers.KandinskyPipeline:
    tokenizer = multilingual_tokenizer()
    return diffusers.KandinskyPipeline(
        text_encoder=MultilingualCLIP(
            MCLIPConfig(
                transformerDimSize=24,
                imageDimSize=WIDTH,
                hidden_size=24,
                intermediate_size=24,
                num_attention_heads=2,
                num_hidden_layers=2,
                vocab_size=len(tokenizer),
                max_position_embeddings=90,
            )
        ),
        tokenizer=tokenizer,
        unet=diffusers.UNet2DConditionModel(
            in_channels=4,
            out_channels=8,
            addition_embed_type="text_image",
            encoder_hid_dim=24,
            encoder_hid_dim_type="text_image_proj",
            cross_attention_dim=WIDTH,
            **BLOCKS,
        ),
        scheduler=diffusers.DDIMScheduler(
            beta_schedule="linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        movq=movq(),
    )


def stable(make_tokenizer: Tokenizers, root: Path) -> diffusers.StableUnCLIPPipeline:
    tokenizer = clip_tokenizer(make_tokenizer, root)
    normalizer = StableUnCLIPImageNormalizer(embedding_dim=WIDTH)
    normalizer.mean.data += torch.randn(1, WIDTH) / 4
    normalizer.std.data += torch.rand(1, WIDTH)
    return diffusers.StableUnCLIPPipeline(
        prior_tokenizer=tokenizer,
        prior_text_encoder=text_tower(tokenizer),
        prior=prior(),
        prior_scheduler=diffusers.DDPMScheduler(
            variance_type="fixed_small_log",
            prediction_type="sample",
            clip_sample=True,
            clip_sample_range=5.0,
            beta_schedule="squaredcos_cap_v2",
        ),
        image_normalizer=normalizer,
        image_noising_scheduler=diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        tokenizer=tokenizer,
        text_encoder=CLIPTextModel(text_config(tokenizer)),
        unet=diffusers.UNet2DConditionModel(
            sample_size=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(16, 32),
            layers_per_block=1,
            norm_num_groups=8,
            cross_attention_dim=WIDTH,
            attention_head_dim=(2, 4),
            class_embed_type="projection",
            projection_class_embeddings_input_dim=2 * WIDTH,
        ),
        scheduler=diffusers.PNDMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            prediction_type="v_prediction",
            set_alpha_to_one=False,
            skip_prk_steps=True,
            steps_offset=1,
        ),
        vae=vae(),
    )


def stable_variations(
    make_tokenizer: Tokenizers, root: Path
) -> diffusers.StableUnCLIPImg2ImgPipeline:
    parts = stable(make_tokenizer, root).components
    for name in ("prior_tokenizer", "prior_text_encoder", "prior", "prior_scheduler"):
        del parts[name]
    return diffusers.StableUnCLIPImg2ImgPipeline(
        **parts, image_encoder=image_tower(), feature_extractor=image_processor()
    )


def write_own(make_tokenizer: Tokenizers, folder: Path) -> Path:
    """Our own layout, as training writes it."""
    tokenizer = clip_tokenizer(make_tokenizer, folder)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
    )
    scheduler = diffusers.DPMSolverMultistepScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.02,
        prediction_type="v_prediction",
        steps_offset=1,
    )
    text = text_config(tokenizer)
    clip = CLIPModel(
        CLIPConfig(
            text_config=text.to_dict(),
            vision_config=image_tower().config.to_dict(),
            projection_dim=WIDTH,
        )
    )
    tokenizer.save_pretrained(folder / "clip")
    image_processor().save_pretrained(folder / "clip")
    parts = {
        "clip": clip,
        "prior": prior(),
        "image_tokens": ImageTokens(WIDTH, WIDTH, tokens=2, hidden_dim=8),
        "tokenizer": tokenizer,
        "text_encoder": CLIPTextModel(text),
        "prior_scheduler": prior_scheduler(),
        "unet": unet,
        "scheduler": scheduler,
        "vae": vae(),
    }
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    (folder / "model_index.json").write_text('{"_class_name": "Unclip"}')
    return folder
