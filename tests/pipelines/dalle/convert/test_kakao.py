"""minDALL-E: logits, pictures, codes and tokens of the reference, its licence, what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from public_checkpoints import (
    DATA,
    kakao_shapes,
    kakao_vqgan_shapes,
    kakao_words,
    picture,
    reference,
    weights,
)
from refusals import refusal

from gen.cli import main as generate
from pipelines.checkpoints.known_models import PUBLIC
from pipelines.dalle.convert.kakao import transformer_plan
from pipelines.dalle.convert.recipe import source_shapes
from pipelines.dalle.convert.writing import build
from pipelines.dalle.layers import Activation
from pipelines.dalle.masks import Mask
from pipelines.dalle.pipeline import Dalle
from pipelines.dalle.transformer import TransformerConfig
from pipelines.dalle.vqgan import VqganConfig

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5
FLAGS = ("--heads=4", "--accept-noncommercial")
FORBIDS = "cc-by-nc-sa-4.0, forbids commercial use"


@pytest.fixture(scope="module")
def pipeline(kakao_folder: Path) -> Dalle:
    with pytest.warns(UserWarning, match=FORBIDS):
        return Dalle.from_pretrained(kakao_folder, device="cpu")


@torch.inference_mode()
def test_logits_of_the_reference(pipeline: Dalle) -> None:
    """Of image tokens, and of text tokens: padding is the word that it is there."""
    expected = reference("kakao")
    words, text = len(kakao_words()), expected["text"]
    present = text != kakao_words()["[PAD]"]
    output = pipeline.transformer(text, present, expected["image"])
    assert output.text is not None
    assert (output.text[..., words:] < -9000).all()
    found = output.text[:, ::3, :words]
    assert torch.allclose(output.image[:, ::3], expected["image_logits"], atol=TOLERANCE)
    assert torch.allclose(found, expected["text_logits"], atol=TOLERANCE)


@torch.inference_mode()
def test_pictures_and_codes_of_the_reference(pipeline: Dalle) -> None:
    expected = reference("kakao_vqgan")
    pixels = pipeline.dvae.decode(expected["codes"])
    assert torch.allclose(pixels[:, :, ::4, ::4], expected["pixels"], atol=TOLERANCE)
    assert torch.equal(pipeline.dvae.encode(picture(96)), expected["found"])


def test_tokens_of_the_reference(pipeline: Dalle) -> None:
    padding = kakao_words()["[PAD]"]
    for row in json.loads((DATA / "kakao_tokens.json").read_text(encoding="utf-8")):
        text = pipeline.encode(row["prompt"])
        assert torch.where(text.present, text.read, padding)[0].tolist() == row["tokens"]
    assert padding not in pipeline.tokenizer("[PAD] the").input_ids  # what looks special is text


def test_prompts_that_nothing_ends_are_cut_behind_the_context(pipeline: Dalle) -> None:
    assert pipeline.dropped_text("on " * 16) == ""
    assert pipeline.dropped_text("on " * 16 + "red") == "red"


def test_token_by_token_as_in_one_pass(pipeline: Dalle) -> None:
    draft = pipeline.begin("the red bolt", seeds=[1, 2], temperature=0.0)
    draft.step(20)
    text = pipeline.encode("the red bolt")
    tokens = draft._open.tokens[:1]
    with torch.inference_mode():
        logits = pipeline.transformer(text.read, text.present, tokens).image
    assert torch.equal(logits[0, :20].argmax(-1), tokens[0, :20])


def test_what_the_folder_says(pipeline: Dalle) -> None:
    spec = pipeline.spec
    assert (spec.context, spec.defaults["width"], spec.defaults["token_top_k"]) == (16, 96, 256)
    assert spec.defaults["guidance"] == 1.0
    assert spec.forbids_commerce
    assert {"init_image", "keep_rows"} <= set(spec.settings)


def test_draws_by_the_command_and_says_the_licence(
    kakao_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["the red bolt", "-m", str(kakao_folder), "--candidates=2", "--top-k=1", "--seed=3"]
    assert generate([*command, "-o", str(tmp_path)]) == 0
    assert FORBIDS in capsys.readouterr().err
    (best,) = tmp_path.glob("0001-r1-*.png")
    with Image.open(best) as image:
        assert image.size == (96, 96)


# --- what is refused ---


@pytest.fixture
def download(kakao_download: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kakao_download, tmp_path / "download"))


def test_the_licence_must_be_accepted(download: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = refusal(download, capsys, "--heads=4")
    assert FORBIDS in error
    assert "add --accept-noncommercial" in error


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("blocks.1.attn.key.bias", None, "is missing keys: blocks.1.attn.key.bias"),
        ("tok_emb_txt.weight", None, "is missing keys: tok_emb_txt.weight"),
        ("blocks.0.attn.mask", torch.ones(1), "of this kind has: blocks.0.attn.mask"),
        ("blocks.0.mlp.0.weight", torch.ones(9, 64), "0.weight is [9, 64], not [256, 64]"),
        ("head_txt.weight", torch.ones(5, 64), "head_txt.weight is [5, 64], not [48, 64]"),
        ("pos_emb_img.weight", torch.ones(35, 64), "35 image positions, which are no square"),
    ],
)
def test_keys_that_do_not_fit(
    key: str,
    value: torch.Tensor | None,
    says: str,
    download: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = weights(kakao_shapes())
    state.pop(key, None)
    if value is not None:
        state[key] = value
    torch.save({"state_dict": state}, download / "stage2_last.ckpt")
    assert says in refusal(download, capsys, *FLAGS)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("encoder.mid.attn_1.q.weight", "is missing keys: encoder.mid.attn_1.q.weight"),
        ("quantize.embedding.weight", "is missing keys: quantize.embedding.weight"),
    ],
)
def test_a_vqgan_that_does_not_fit(
    key: str, says: str, download: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = weights(kakao_vqgan_shapes())
    del state[key]
    torch.save({"state_dict": state}, download / "stage1_last.ckpt")
    assert says in refusal(download, capsys, *FLAGS)
    state["extra"] = torch.ones(1)
    torch.save({"state_dict": state | weights(kakao_vqgan_shapes())}, download / "stage1_last.ckpt")
    assert "has keys that no network of this kind has: extra" in refusal(download, capsys, *FLAGS)


def test_heads_are_said_where_widths_do_not_tell(
    download: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refusal(download, capsys, "--accept-noncommercial")
    assert "2 layers of width 64: say how many --heads" in error


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"[PAD]": 0, "a": 1}, "is missing tokens: [UNK]"),
        ({"[PAD]": 0, "[UNK]": 48}, "has tokens up to 48, the network reads 48"),
        ({"[PAD]": 0, "[UNK]": -1}, "must give each word a number"),
        ({"[PAD]": 0, "[UNK]": 1}, "merges what is not in the vocabulary"),
    ],
)
def test_a_tokenizer_of_another_model(
    words: dict[str, int], says: str, download: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (download / "tokenizer/bpe-16k-vocab.json").write_text(json.dumps(words))
    assert says in refusal(download, capsys, *FLAGS)


def test_half_a_download(download: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (download / "stage2_last.ckpt").unlink()
    assert "stage2_last.ckpt is missing" in refusal(download, capsys, *FLAGS)


def test_every_row_of_the_published_size_has_a_place() -> None:
    config = TransformerConfig(
        grid=16,
        image_vocabulary=16384,
        text_length=64,
        text_vocabulary=16384,
        width=1536,
        heads=24,
        masks=(Mask.FULL,) * 42,
        activation=Activation.GELU,
        raster_positions=True,
    )
    ours = {key: tuple(value.shape) for key, value in build(config).state_dict().items()}
    shapes = source_shapes(transformer_plan(config, padding=1), ours)
    assert len(shapes) == 16 * 42 + 8
    assert shapes["head_txt.weight"] == shapes["tok_emb_img.weight"] == (16384, 1536)
    numbers = sum(torch.Size(shape).numel() for shape in shapes.values())
    assert numbers == pytest.approx(1.291e9, rel=1e-3)
    codes = VqganConfig(
        vocabulary=16384, multipliers=(1, 1, 2, 2, 4), attention_levels=(4,), nearest_code=True
    )
    numbers += sum(parameter.numel() for parameter in build(codes).parameters())
    assert PUBLIC["minDALL-E"].weights == pytest.approx(2 * numbers / 1e9, abs=0.005)
