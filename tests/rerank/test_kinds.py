"""Kinds of models beside CLIP and SigLIP, equal to transformers with its own processing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AltCLIPConfig,
    AltCLIPModel,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPImageProcessorPil,
    MetaClip2Config,
    MetaClip2Model,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
)

from rerank import Reranker, WeightsError
from rerank.model.preprocessing import Patches

pytestmark = pytest.mark.slow

PROMPTS = ["a red panda", "Two blue apples, left of a balloon!", "a"]
SIZES = [(32, 32), (64, 48), (30, 40)]
TOWER = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
TEXT = {**TOWER, "vocab_size": 300, "max_position_embeddings": 60, "bos_token_id": 0,
        "pad_token_id": 1, "eos_token_id": 2}  # fmt: skip
VISION = {**TOWER, "image_size": 32, "patch_size": 16}
MODELS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "metaclip_2": (MetaClip2Config, MetaClip2Model, {"projection_dim": 16}),
    "altclip": (AltCLIPConfig, AltCLIPModel, {"project_dim": 16}),
    "chinese_clip": (ChineseCLIPConfig, ChineseCLIPModel, {}),
}


def write_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = {"<s>": 0, "<pad>": 1, "</s>": 2}
    vocabulary = {**special, **{sign: i + 3 for i, sign in enumerate(alphabet)}}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    ends = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", None, ends)
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    made.save_pretrained(folder)
    return made


@pytest.mark.parametrize("kind", MODELS)
def test_a_kind_is_equal_to_transformers(kind: str, tmp_path: Path) -> None:
    config_of, model_of, more = MODELS[kind]
    tokenizer = write_tokenizer(tmp_path)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)
    processor.save_pretrained(tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = config_of(text_config={**TEXT, **more}, vision_config=VISION, projection_dim=16)
        model = model_of(config).eval()
        for name, value in model.named_parameters():
            if value.ndim > 1 and "embedding" not in name:
                value.data.mul_(3)
    model.save_pretrained(tmp_path)
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (len(SIZES), 6, 6, 3), dtype=np.uint8)
    images = [Image.fromarray(each).resize(size) for each, size in zip(coarse, SIZES, strict=True)]
    with torch.no_grad():
        texts = tokenizer(PROMPTS, padding=True, return_tensors="pt")
        text = model.get_text_features(texts.input_ids, attention_mask=texts.attention_mask)
        pixels = processor(images, return_tensors="pt").pixel_values
        image = model.get_image_features(pixels)
    text, image = (
        torch.nn.functional.normalize(each.pooler_output, dim=-1) for each in (text, image)
    )
    reranker = Reranker.load(tmp_path, device="cpu", exact=True)
    ours = reranker.similarity(PROMPTS, images)
    assert (text @ image.T).std() > 1e-3
    torch.testing.assert_close(ours, text @ image.T, atol=1e-4, rtol=0)


def write_naflex(folder: Path, most: int = 20) -> tuple[Any, Any, PreTrainedTokenizerFast]:
    """Save SigLIP 2 for images of any shape, small and random; model, processor and tokenizer."""
    tokenizer = write_tokenizer(folder)
    processor = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=most)
    processor.save_pretrained(folder)
    text = {**TEXT, "vocab_size": 300, "max_position_embeddings": 24, "projection_size": 16}
    vision = {**TOWER, "patch_size": 8, "num_patches": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Siglip2Model(Siglip2Config(text_config=text, vision_config=vision)).eval()
        for name, value in model.named_parameters():
            if value.ndim > 1 and "embedding" not in name:
                value.data.mul_(3)
    model.save_pretrained(folder)
    return model, processor, tokenizer


def test_naflex_is_equal_to_transformers(tmp_path: Path) -> None:
    """Images of many shapes in one call, each read in its own; texts filled up, and no mask."""
    model, processor, tokenizer = write_naflex(tmp_path)
    rng = np.random.default_rng(0)
    sizes = [(32, 32), (64, 48), (30, 40), (200, 20), (7, 90), (48, 64), (640, 480)]
    coarse = rng.integers(0, 256, (len(sizes), 6, 6, 3), dtype=np.uint8)
    images = [Image.fromarray(each).resize(size) for each, size in zip(coarse, sizes, strict=True)]
    ids = []
    for prompt in PROMPTS:
        own = [*tokenizer(prompt.lower(), add_special_tokens=False).input_ids, 2]
        ids.append((own + [1] * 24)[:24])
    with torch.no_grad():
        text = model.get_text_features(torch.tensor(ids)).pooler_output
        image = model.get_image_features(**processor(images, return_tensors="pt")).pooler_output
    expected = (
        torch.nn.functional.normalize(text, dim=-1) @ torch.nn.functional.normalize(image, dim=-1).T
    )
    reranker = Reranker.load(tmp_path, device="cpu", exact=True)
    assert reranker.image_size == 32
    assert expected.std() > 1e-3
    short = [i for i, prompt in enumerate(PROMPTS) if len(prompt) < 20]  # others are read in parts
    ours = reranker.similarity([PROMPTS[i] for i in short], images)
    torch.testing.assert_close(ours, expected[short], atol=1e-4, rtol=0)
    fast = Reranker.load(tmp_path, device="cpu").similarity([PROMPTS[i] for i in short], images)
    torch.testing.assert_close(fast, expected[short], atol=0.03, rtol=0)
    pixels = torch.from_numpy(np.stack([np.array(images[0])] * 2)).permute(0, 3, 1, 2)
    torch.testing.assert_close(reranker.similarity(["a"], pixels)[0, 0], ours[-1, 0])


@pytest.mark.parametrize("most", [1, 4, 20, 256, 1024])
def test_images_of_any_shape_come_to_their_size(most: int) -> None:
    from transformers.models.siglip2.image_processing_pil_siglip2 import (
        get_image_size_for_max_num_patches as theirs,
    )

    rng = np.random.default_rng(most)
    for height, width in rng.integers(1, 4000, (60, 2)).tolist():
        assert Patches(16, most).fit(height, width) == theirs(height, width, 16, most)


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    config_of, model_of, more = MODELS["chinese_clip"]
    write_tokenizer(tmp_path)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32).save_pretrained(tmp_path)
    text = {**TEXT, **more, "pad_token_id": 0}
    model = model_of(config_of(text_config=text, vision_config=VISION, projection_dim=16))
    model.save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="filled with token 1, the model leaves out token 0"):
        Reranker.load(tmp_path, device="cpu")
    config = json.loads((tmp_path / "config.json").read_text())
    for kind, reason in (
        (["clip"], "model_type is"),
        ("bert", "not 'clip'"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": kind}))
        with pytest.raises(WeightsError, match=reason):
            Reranker.load(tmp_path, device="cpu")
