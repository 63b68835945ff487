"""LlamaGen from text: logits with and without guidance, pictures, codes, states and tokens of the
reference, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from public_checkpoints import (
    DATA,
    llamagen_shapes,
    llamagen_vqgan_shapes,
    picture,
    reference,
    values,
    weights,
)
from refusals import refusal
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5EncoderModel

from gen.cli import main as generate
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.known_models import PUBLIC
from pipelines.dalle.convert.__main__ import main
from pipelines.dalle.convert.llamagen import transformer_plan, vqgan_plan
from pipelines.dalle.convert.recipe import source_shapes
from pipelines.dalle.convert.writing import build
from pipelines.dalle.layers import Activation
from pipelines.dalle.masks import Mask
from pipelines.dalle.networks import load_dalle
from pipelines.dalle.pipeline import Dalle, Sampling, Text
from pipelines.dalle.transformer import TransformerConfig
from pipelines.dalle.vqgan import VqganConfig
from pipelines.families import find

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5
FLAGS = ("--heads=4", "--size=96")
PROMPTS = ("the red bolt", "on the RED bolt, on")
GUIDANCE = 7.5


@pytest.fixture(scope="module")
def pipeline(llamagen_folder: Path) -> Dalle:
    return Dalle.from_pretrained(llamagen_folder, device="cpu")


@pytest.mark.parametrize("row", [0, 1])
@torch.inference_mode()
def test_logits_of_the_reference(row: int, pipeline: Dalle) -> None:
    """Which pads the text on the left up to 12 tokens and masks it; here it is not padded.

    Guidance multiplies what the two sides differ by, and so the rounding.
    """
    expected = reference("llamagen")
    image = expected["image"][row : row + 1].expand(2, -1)
    text = pipeline.encode(PROMPTS[row])
    text = Text.together([text, pipeline.compared(text, None)])
    logits = pipeline.transformer(text.read, text.present, image).image
    assert torch.allclose(logits[0, ::3], expected["logits"][row], atol=TOLERANCE)
    guided = Sampling(GUIDANCE, 1.0, None, None).guided(logits)[0]
    assert torch.allclose(guided[::3], expected["guided"][row], atol=GUIDANCE * TOLERANCE)


def test_states_of_the_reference(pipeline: Dalle) -> None:
    """T5's own, of a padded prompt."""
    states = pipeline.encode(PROMPTS[0]).read
    assert torch.allclose(states[0], reference("llamagen")["states"], atol=TOLERANCE)


def test_the_text_encoder_is_one_of_transformers(llamagen_folder: Path, pipeline: Dalle) -> None:
    folder = llamagen_folder / "text_encoder"
    stock, report = T5EncoderModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = torch.tensor([[4, 5, 6, 1]])
    with torch.inference_mode():
        states = stock(ids).last_hidden_state
    assert torch.allclose(states, pipeline.encode(PROMPTS[0]).read, atol=TOLERANCE)


@torch.inference_mode()
def test_pictures_and_codes_of_the_reference(pipeline: Dalle) -> None:
    expected = reference("llamagen_vqgan")
    pixels = pipeline.dvae.decode(expected["codes"])
    assert torch.allclose(pixels[:, :, ::4, ::4], expected["pixels"], atol=TOLERANCE)
    assert torch.equal(pipeline.dvae.encode(picture(96)), expected["found"])


def test_tokens_of_the_reference(pipeline: Dalle) -> None:
    """Captions are cleaned, and prompts cut, as there."""
    for row in json.loads((DATA / "llamagen_tokens.json").read_text(encoding="utf-8")):
        encoded = pipeline.tokenizer(row["prompt"], truncation=True, max_length=12)
        assert encoded.input_ids == row["tokens"]
    assert pipeline.encode("the " * 40).read.shape[1] == 12
    assert pipeline.dropped_text("the " * 11 + "red bolt") == "red bolt"


@pytest.mark.parametrize("guidance", [1.0, GUIDANCE])
def test_token_by_token_as_in_one_pass(guidance: float, pipeline: Dalle) -> None:
    draft = pipeline.begin(PROMPTS[0], seeds=[1, 2], temperature=0.0, guidance=guidance)
    draft.step(20)
    tokens = draft._open.tokens[:1]
    text = pipeline.encode(PROMPTS[0])
    text = Text.together([text, pipeline.compared(text, None)])
    with torch.inference_mode():
        logits = pipeline.transformer(text.read, text.present, tokens.expand(2, -1)).image
    guided = Sampling(max(guidance, 1.001), 0.0, None, None).guided(logits)[0]
    wanted = logits[0] if guidance == 1.0 else guided
    assert torch.equal(wanted[:20].argmax(-1), tokens[0, :20])


def test_what_the_folder_says(pipeline: Dalle) -> None:
    spec = pipeline.spec
    assert (spec.context, spec.defaults["width"], spec.defaults["token_top_k"]) == (12, 96, 1000)
    assert spec.defaults["guidance"] == 7.5
    assert "negative_prompt" not in spec.settings
    with pytest.raises(ValueError, match="takes no negative_prompt"):
        pipeline.begin("the red bolt", negative_prompt="blue", seeds=[1])


def test_the_text_encoder_never_runs_in_float16(llamagen_folder: Path) -> None:
    networks = load_dalle(find(str(llamagen_folder)), torch.device("cpu"), torch.float16)
    assert networks.text_encoder is not None
    assert {p.dtype for p in networks.text_encoder.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in networks.transformer.parameters()} == {torch.float16}


def test_draws_by_the_command(llamagen_folder: Path, tmp_path: Path) -> None:
    command = ["the red bolt", "-m", str(llamagen_folder), "--candidates=2", "--top-k=1"]
    assert generate([*command, "--seed=3", "-o", str(tmp_path)]) == 0
    (best,) = tmp_path.glob("0001-r1-*.png")
    with Image.open(best) as image:
        assert image.size == (96, 96)


def test_a_text_encoder_of_another_width(llamagen_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llamagen_folder, tmp_path / "model"))
    config = folder / "text_encoder/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"d_model": 16}))
    with pytest.raises(WeightsError, match="d_model is 16, transformer prefix_width is 32"):
        Dalle.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize("missing", ["shared.weight", "encoder.block.1.layer.0.layer_norm.weight"])
def test_a_text_encoder_without_a_key(missing: str, llamagen_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llamagen_folder, tmp_path / "model"))
    path = folder / "text_encoder/model.safetensors"
    state = load_file(path)
    del state[missing]
    save_file(state, path)
    with pytest.raises(WeightsError, match="missing keys"):
        Dalle.from_pretrained(folder, device="cpu")


# --- what is refused ---


@pytest.fixture
def download(llamagen_download: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llamagen_download, tmp_path / "download"))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("layers.1.attention.wo.weight", None, "is missing keys: layers.1.attention.wo.weight"),
        ("tok_embeddings.weight", None, "is missing keys: tok_embeddings.weight"),
        ("freqs_cis", torch.ones(1), "has keys that no network of this kind has: freqs_cis"),
        ("output.weight", torch.ones(9, 64), "output.weight is [9, 64], not [40, 64]"),
        ("norm.weight", torch.full((64,), torch.inf), "no finite numbers: norm.weight"),
    ],
)
def test_keys_that_do_not_fit(
    key: str,
    value: torch.Tensor | None,
    says: str,
    download: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = weights(llamagen_shapes())
    state.pop(key, None)
    if value is not None:
        state[key] = value
    torch.save({"module": state}, download / "t2i_XL.pt")
    assert says in refusal(download, capsys, *FLAGS)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("decoder.conv_blocks.4.res.2.norm1.bias", None, "decoder.conv_blocks.4.res.2.norm1.bias"),
        ("encoder.mid.1.q.weight", None, "is missing keys: encoder.mid.1.q.weight"),
        ("encoder.conv_blocks.0.res.0.conv1.weight", None, "conv_blocks.0.res.0.conv1.weight"),
        ("quantize.embedding.weight", None, "is missing keys: quantize.embedding.weight"),
        ("decoder.up.0.extra", torch.ones(1), "of this kind has: decoder.up.0.extra"),
        ("decoder.mid.2.conv1.bias", torch.ones(5), "conv1.bias is [5], not [128]"),
    ],
)
def test_a_vqgan_that_does_not_fit(
    key: str,
    value: torch.Tensor | None,
    says: str,
    download: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = weights(llamagen_vqgan_shapes())
    state.pop(key, None)
    if value is not None:
        state[key] = value
    torch.save({"model": state}, download / "vq_ds16_t2i.pt")
    assert says in refusal(download, capsys, *FLAGS)


def test_what_the_files_do_not_tell(download: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "the size of its images: say --size" in refusal(download, capsys, "--heads=4")
    assert "2 layers of width 64: say how many --heads" in refusal(download, capsys, "--size=96")
    assert "size 100 is no multiple of 16" in refusal(download, capsys, "--heads=4", "--size=100")
    assert "no multiple of 0 heads" in refusal(download, capsys, "--heads=0", "--size=96")
    assert "multiple of four" in refusal(download, capsys, "--heads=32", "--size=96")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("config.json", '{"model_type": "bert"}', "holds a bert; it must be a t5"),
        ("config.json", '{"auto_map": {"AutoModel": "evil.M"}}', "would run code"),
        ("config.json", '{"model_type": "t5", "d_model": "x"}', "config that builds no network"),
        ("tokenizer.json", "{}", "is no tokenizer"),
        ("tokenizer.json", None, "tokenizer.json is missing"),
        ("pytorch_model-00002-of-00002.bin", None, "is missing keys: encoder."),
    ],
)
def test_a_t5_that_does_not_fit(
    name: str, content: str | None, says: str, download: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = download / "flan-t5-xl" / name
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    assert says in refusal(download, capsys, *FLAGS)


def test_a_t5_without_weights_or_with_others(
    download: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = download / "flan-t5-xl"
    extra = {"encoder.block.2.layer.0.layer_norm.weight": torch.ones(32)}
    torch.save(extra, folder / "pytorch_model-00003-of-00003.bin")
    assert "of this kind has: encoder.block.2." in refusal(download, capsys, *FLAGS)
    for path in folder.glob("*.bin"):
        path.unlink()
    assert "holds no model.safetensors or pytorch_model.bin" in refusal(download, capsys, *FLAGS)


def test_a_t5_in_safetensors(download: Path, llamagen_folder: Path) -> None:
    """Which are taken rather than pickles of the same."""
    shards = sorted((download / "flan-t5-xl").glob("*.bin"))
    for number, path in enumerate(shards):
        state = {key: value.clone() for key, value in torch.load(path).items()}
        save_file(state, path.with_name(f"model-{number}.safetensors"))
        path.write_text("not read")
    dest = download.with_name("model")
    assert main([str(download), str(dest), *FLAGS]) == 0
    made, expected = (
        load_file(folder / "text_encoder/model.safetensors") for folder in (dest, llamagen_folder)
    )
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[key], expected[key]) for key in made)


def test_tokenizers_that_do_not_end_prompts(
    download: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = download / "flan-t5-xl/tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": None}))
    assert "does not end prompts with </s>" in refusal(download, capsys, *FLAGS)


def test_every_row_of_the_published_size_has_a_place() -> None:
    config = TransformerConfig(
        grid=16,
        image_vocabulary=16384,
        text_length=120,
        text_vocabulary=None,
        prefix_width=2048,
        prefix_mlp=True,
        null_prefix=True,
        width=1280,
        heads=20,
        masks=(Mask.FULL,) * 36,
        gated_mlp=True,
        mlp_width=3584,
        activation=Activation.SILU,
        rms_norm=True,
        rotary=True,
    )
    codes = VqganConfig(
        vocabulary=16384,
        code_width=8,
        multipliers=(1, 1, 2, 2, 4),
        attention_levels=(4,),
        nearest_code=True,
        unit_codes=True,
    )
    found = []
    for network, plan in ((config, transformer_plan(config)), (codes, vqgan_plan(codes))):
        ours = {key: tuple(value.shape) for key, value in build(network).state_dict().items()}
        shapes = source_shapes(plan, ours)
        found.append(sum(torch.Size(shape).numel() for shape in shapes.values()))
        if network is config:
            assert shapes["cls_embedding.uncond_embedding"] == (120, 2048)
            assert len(shapes) == 7 * 36 + 6
    assert found[0] == pytest.approx(0.778e9, rel=1e-3)
    flan = T5Config(
        d_model=2048, d_ff=5120, num_layers=24, num_heads=32, feed_forward_proj="gated-gelu"
    )
    with torch.device("meta"):
        found.append(sum(p.numel() for p in T5EncoderModel(flan).parameters()))
    for name in ("LlamaGen XL, stage 1", "LlamaGen XL, stage 2"):
        assert PUBLIC[name].weights == pytest.approx(2 * sum(found) / 1e9, abs=0.005)


def test_values_are_where_they_belong(llamagen_folder: Path) -> None:
    """The level nearest the pixels is the last of theirs and the first of ours."""
    stored = load_file(llamagen_folder / "dvae/model.safetensors")
    name = "decoder.conv_blocks.4.res.1.conv2.weight"
    expected = values(f"vq_ds16_t2i.{name}", llamagen_vqgan_shapes()[name])
    assert torch.equal(stored["decoder.up.0.block.1.conv2.weight"], expected)
