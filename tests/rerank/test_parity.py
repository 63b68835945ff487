"""Equal to transformers, with its PIL image processors, on networks of the true sizes.

The weights are random: the full ViT-B/32 and SigLIP base, but for a small table of tokens, which
changes nothing in what is computed.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from rerank import Reranker, WeightsError
from rerank.model.preprocessing import read_preprocessing
from rerank.model.weights import Model, load_text_reader

pytestmark = pytest.mark.slow

PROMPTS = ["a red panda", "Two blue apples, left of a balloon!", "the panda"]
SIZES = [(224, 224), (640, 480), (60, 97), (300, 1200)]


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (len(SIZES), 6, 6, 3), dtype=np.uint8)
    return [Image.fromarray(each).resize(size) for each, size in zip(coarse, SIZES, strict=True)]


def spread_out(model: Model) -> Model:
    """Fresh weights see hardly any difference between images; larger ones do."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1 and "embedding" not in name:
                value.mul_(3)
    return model.eval()


def reranker_of(model: Model, folder: Path) -> Reranker:
    size = model.config.vision_config.image_size
    return Reranker(
        model,
        load_text_reader(folder, model),
        read_preprocessing(folder, size, exact=True),
        name="random",
        folder=folder,
        device=torch.device("cpu"),
    )


def assert_equal(
    reranker: Reranker, images: list[Image.Image], cosines: torch.Tensor, logits: torch.Tensor
) -> None:
    assert cosines.std() > 1e-3  # else being equal would mean nothing
    torch.testing.assert_close(reranker.similarity(PROMPTS, images), cosines, atol=1e-5, rtol=0)
    for row, prompt in enumerate(PROMPTS):
        ours = torch.tensor(reranker.logits(prompt, images))
        torch.testing.assert_close(ours, logits[row], atol=1e-3, rtol=0)


def test_clip_vit_b_32(tiny_clip_folder: Path, tmp_path: Path, images: list[Image.Image]) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(tiny_clip_folder)
    tokenizer.save_pretrained(tmp_path)
    CLIPImageProcessorPil().save_pretrained(tmp_path)
    torch.manual_seed(0)
    text = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    model = spread_out(CLIPModel(CLIPConfig(text_config=text)))
    assert model.config.vision_config.num_hidden_layers == 12
    pixels = CLIPImageProcessorPil()(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model(
            **tokenizer(PROMPTS, padding=True, return_tensors="pt"), pixel_values=pixels
        )
    cosines = expected.text_embeds @ expected.image_embeds.T
    assert_equal(reranker_of(model, tmp_path), images, cosines, expected.logits_per_text)


def save_siglip_tokenizer(folder: Path, kind: str) -> PreTrainedTokenizerFast:
    """A small one, as SigLIP's: subwords with a mark at the beginning of words, one end token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    letters = [chr(code) for code in range(33, 127)]
    pieces = ["<pad>", "</s>", "<unk>", "▁", *letters, "▁a", "▁red", "pan", "da", "apple"]
    tokenizer = Tokenizer(
        models.Unigram([(piece, -len(pieces) + i / 9) for i, piece in enumerate(pieces)], 2, False)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tokenizer_class": kind}))
    return fast


def test_siglip_base(tmp_path: Path, images: list[Image.Image]) -> None:
    tokenizer = save_siglip_tokenizer(tmp_path, "SiglipTokenizer")
    processor = SiglipImageProcessorPil()
    processor.save_pretrained(tmp_path)
    torch.manual_seed(0)
    text = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 1}
    model = SiglipModel(SiglipConfig(text_config=text))
    assert model.config.vision_config.num_hidden_layers == 12
    model = spread_out(model)
    with torch.no_grad():
        model.logit_scale.fill_(2.0)
        model.logit_bias.fill_(-10.0)
        # What SigLIP's own tokenizer does first: no capitals, no punctuation.
        plain = ["a red panda", "two blue apples left of a balloon", "the panda"]
        ids = tokenizer(plain, padding="max_length", max_length=64, return_tensors="pt").input_ids
        pixels = processor(images, return_tensors="pt")["pixel_values"]
        expected = model(input_ids=ids, pixel_values=pixels)
    cosines = expected.text_embeds @ expected.image_embeds.T
    reranker = reranker_of(model, tmp_path)
    assert_equal(reranker, images, cosines, expected.logits_per_text)
    assert reranker.context == 64
    assert len(reranker.chunks("panda " * 99)) > 1


def tiny_siglip(folder: Path, kind: str = "GemmaTokenizer") -> Path:
    """A whole folder that loads."""
    tokenizer = save_siglip_tokenizer(folder, kind)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
             "num_attention_heads": 4}  # fmt: skip
    text = {**small, "vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 1,
            "projection_size": 32}  # fmt: skip
    vision = {**small, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    return folder


def test_a_siglip_folder(tmp_path: Path, images: list[Image.Image]) -> None:
    reranker = Reranker.load(tiny_siglip(tmp_path), "cpu")
    scores = reranker.score("a red panda", images)
    assert len(set(scores)) == len(images)
    assert reranker.score("A RED panda", images) == scores
    assert reranker.score("a red, panda", images) != scores  # Gemma's tokenizer keeps punctuation
    logits = reranker.logits("a red panda", images)
    assert logits == pytest.approx([reranker.scale * s + reranker.bias for s in scores])
    assert reranker.image_features([]).shape == (0, 32)


def test_siglip_folders_that_are_not_whole(tmp_path: Path) -> None:
    folder = tiny_siglip(tmp_path)
    (folder / "tokenizer.json").rename(tmp_path / "spiece.model")
    with pytest.raises(WeightsError, match=r"no tokenizer\.json"):
        Reranker.load(folder)


def test_tokenizer_and_preprocessing_from_another_folder(
    tiny_clip_folder: Path, damaged: Path, reranker: Reranker, images: list[Image.Image]
) -> None:
    """As PickScore needs it, which comes without."""
    for file in damaged.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            file.unlink()
    with pytest.raises(WeightsError, match="no tokenizer"):
        Reranker.load(damaged)
    whole = Reranker.load(damaged, "cpu", processor=tiny_clip_folder)
    expected = reranker.score("a panda", images)
    assert whole.score("a panda", images) == pytest.approx(expected, abs=1e-6)
