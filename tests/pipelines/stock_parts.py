"""Small random parts of stock pipelines, and what compares a pipeline with the stock call."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from transformers import (
    CLIPTextConfig,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from pipelines.stock.pipeline import StockPipeline

SIZE: dict[str, Any] = {"width": 32, "height": 32}
STEPS = 2
SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 300,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def bytes_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of bytes, with a template for chats."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0, "<pad>": 1, **{sign: i + 2 for i, sign in enumerate(alphabet)}}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 0)])
    tokenizer.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>")
    made.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    return made


def flow() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler()


def vae(channels: int = 4, levels: int = 2) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(8,) * levels,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=32,
        shift_factor=0.1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def gemma() -> Any:
    from transformers import Gemma2Config, Gemma2Model

    return Gemma2Model(Gemma2Config(**SMALL))


def dc_vae() -> Any:
    import diffusers

    return diffusers.AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=[1, 1],
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )


def clip(kind: Any, tokenizer: Any) -> Any:
    return kind(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            projection_dim=16,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def t5() -> tuple[Any, Any]:
    words = ["<pad>", "</s>", "<unk>", "▁", "▁a", "▁panda", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = T5Tokenizer(vocab=[(word, -float(i)) for i, word in enumerate(words)], extra_ids=0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2
    )
    return tokenizer, T5EncoderModel(config)


def draws_alike(stock: Any, folder: Path, most: int = 0) -> None:
    """Save a stock pipeline and compare what it draws with what ours draws from the folder.

    A megapixel may differ by `most` of 255, where weights that were read lie elsewhere in memory.
    """
    for part in stock.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()  # as it is when it is loaded
    stock.save_pretrained(folder)
    stock.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(7)
    told: dict[str, Any] = {**SIZE, "num_inference_steps": STEPS, "output_type": "np"}
    expected = stock(prompt="a panda", generator=generator, **told).images[0]
    ours = StockPipeline.from_pretrained(folder, device="cpu")
    [picture] = ours("a panda", seeds=[7], steps=STEPS, **SIZE)
    given = (expected * 255).round().astype(int)
    assert given.shape == np.asarray(picture).shape
    assert given.std() > 1
    assert np.abs(np.asarray(picture) - given).max() <= most


def made_draws_alike(
    make: Callable[[Any], Any], make_tokenizer: Callable[..., Any], folder: Path, most: int = 0
) -> None:
    """Compare a stock pipeline, made at random with a tokenizer of CLIP's kind, with ours."""
    make_tokenizer(folder / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", model_max_length=77)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stock = make(tokenizer)
    draws_alike(stock, folder / "model", most)
