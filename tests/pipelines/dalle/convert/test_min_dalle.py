"""DALL·E mini and mega: logits, pictures and tokens of the reference, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from public_checkpoints import BART, DATA, bart_shapes, reference, values, write_min_dalle
from refusals import refusal

from gen.cli import main as generate
from pipelines.checkpoints.errors import WeightsError
from pipelines.dalle.bart import BartConfig
from pipelines.dalle.convert.__main__ import main
from pipelines.dalle.convert.min_dalle import VQGAN, decoder_plan, encoder_plan, read_decoder_config
from pipelines.dalle.convert.recipe import source_shapes
from pipelines.dalle.convert.writing import build
from pipelines.dalle.pipeline import Dalle, Text

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5
HEADS = "--heads=4"


@pytest.fixture(scope="module")
def pipeline(min_dalle_folder: Path) -> Dalle:
    return Dalle.from_pretrained(min_dalle_folder, device="cpu")


@pytest.mark.parametrize("start", [BART["codes"], BART["codes"] - 1])
@torch.inference_mode()
def test_logits_of_the_reference(
    start: int, pipeline: Dalle, min_dalle_download: Path, tmp_path: Path
) -> None:
    """With both readings of what drawing starts with, for a prompt and for none, in one batch."""
    if start != BART["codes"]:
        flags = [HEADS, f"--start-token={start}"]
        assert main([str(min_dalle_download), str(tmp_path / "model"), *flags]) == 0
        pipeline = Dalle.from_pretrained(tmp_path / "model", device="cpu")
    expected = reference("min_dalle")
    text = Text.together([pipeline.encode(""), pipeline.encode("the red bolt")])
    assert text.context is not None
    assert torch.equal(text.context.present, expected["tokens"] != 1)
    image = expected["image"].expand(2, -1)
    logits = pipeline.transformer(text.read, text.present, image, text.context).image
    assert torch.allclose(logits[:, ::5], expected[f"logits_{start}"], atol=TOLERANCE)


@torch.inference_mode()
def test_pictures_of_the_reference(pipeline: Dalle) -> None:
    expected = reference("min_dalle_vqgan")
    pixels = pipeline.dvae.decode(expected["codes"])
    assert torch.allclose(pixels[:, :, ::4, ::4], expected["pixels"], atol=5e-5)  # through [0, 255]


def test_tokens_of_the_reference(pipeline: Dalle) -> None:
    rows = json.loads((DATA / "min_dalle_tokens.json").read_text(encoding="utf-8"))
    for row in rows:
        assert pipeline.tokenizer(row["prompt"], verbose=False).input_ids == row["tokens"]
    assert pipeline.tokenizer("</s> the").input_ids.count(2) == 1  # what looks special is text


def test_what_the_folder_says(pipeline: Dalle) -> None:
    spec = pipeline.spec
    assert (spec.context, spec.defaults["guidance"], spec.defaults["width"]) == (16, 16.0, 256)
    assert spec.licence.startswith("MIT")
    assert not {"init_image", "keep_rows"} & set(spec.settings)  # pictures cannot be encoded
    with pytest.raises(ValueError, match="this VQGAN has no encoder"):
        pipeline.tokens(Image.new("RGB", (256, 256)))


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        ("model_index.json", {"defaults": {"steps": 3}}, "defaults must be numbers of guidance"),
        ("model_index.json", {"defaults": {"guidance": "16"}}, "defaults must be numbers"),
        ("text_encoder/config.json", {"length": None}, "or text_encoder no length"),
        (
            "transformer/config.json",
            {"cross_attention_width": 32},
            "text_encoder width is 64, transformer cross_attention_width is 32",
        ),
        (
            "dvae/config.json",
            {"multipliers": [1, 1, 2, 2]},
            "dvae grid is 32, transformer grid is 16",
        ),
        ("dvae/config.json", {"size": 250}, "size 250 is no multiple of 16"),
    ],
)
def test_folders_that_do_not_fit_together(
    file: str, changes: dict[str, Any], says: str, min_dalle_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(min_dalle_folder, tmp_path / "model"))
    entries = json.loads((folder / file).read_text(encoding="utf-8"))
    (folder / file).write_text(json.dumps(entries | changes), encoding="utf-8")
    with pytest.raises(WeightsError) as error:
        Dalle.from_pretrained(folder, device="cpu")
    assert says in str(error.value)


def test_guidance_and_token_by_token(pipeline: Dalle) -> None:
    """Against teacher forcing with min-dalle's own formula, u·(1 − s) + c·s."""
    draft = pipeline.begin("the red bolt", seeds=[1, 2], temperature=0.0)
    draft.step(12)
    tokens = draft._open.tokens[:1]
    text = Text.together([pipeline.encode("the red bolt"), pipeline.encode("")])
    with torch.inference_mode():
        logits = pipeline.transformer(
            text.read, text.present, tokens.expand(2, -1), text.context
        ).image
    expected = logits[1] * (1 - 16.0) + logits[0] * 16.0
    assert torch.equal(expected[:12].argmax(-1), tokens[0, :12])


def test_draws_by_the_command(min_dalle_folder: Path, tmp_path: Path) -> None:
    command = ["the red bolt", "-m", str(min_dalle_folder), "--candidates=1", "--top-k=1"]
    assert generate([*command, "--seed=3", "-o", str(tmp_path)]) == 0
    (best,) = tmp_path.glob("0001-r1-*.png")
    with Image.open(best) as image:
        assert image.size == (256, 256)


# --- what is refused ---


@pytest.fixture
def download(min_dalle_download: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(min_dalle_download, tmp_path / "download"))


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("layers.1.glu.ln1.bias", None, "is missing keys: layers.1.glu.ln1.bias"),
        ("layers.1.glu.ln1.weight", torch.ones(90), "of this kind has: layers.1.glu.ln1.weight"),
        ("layers.0.glu.fc2.weight", torch.ones(64, 9), "fc2.weight is [64, 9], not [64, 90]"),
    ],
)
def test_keys_that_do_not_fit(
    part: str,
    key: str,
    value: torch.Tensor | None,
    says: str,
    download: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A scale of a norm that was trained without one is none of these networks' keys."""
    shapes = bart_shapes(part == "decoder")
    state = {k: values(k, shape) for k, shape in shapes.items()}
    state.pop(key, None)
    if value is not None:
        state[key] = value
    torch.save(state, download / f"{part}_mini.pt")
    assert says in refusal(download, capsys, HEADS)


def test_files_that_are_not_there(download: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds no encoder of mega" in refusal(download, capsys, HEADS, "--variant=mega")
    write_min_dalle(download, suffix="")
    assert "both mini and mega: choose one by --variant" in refusal(download, capsys, HEADS)
    (download / "merges.txt").unlink()
    assert "merges.txt is missing" in refusal(download, capsys, HEADS, "--variant=mega")
    (download / "vocab_mini.json").write_text('{"a": 0}')
    error = refusal(download, capsys, HEADS, "--variant=mini")
    assert "is missing tokens: </s>, <pad>, <s> and 2 more" in error


def test_merges_of_another_vocabulary(download: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (download / "merges_mini.txt").write_text("#version: 0.2\nt h\nq u\nlonely\n")
    error = refusal(download, capsys, HEADS)
    assert "merges what is not in the vocabulary: lonely , q u" in error


def test_the_folder_that_min_dalle_keeps(
    download: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("encoder", "decoder", "vocab", "merges")
    (download / "vqgan").mkdir()
    (download / "detoker.pt").rename(download / "vqgan/detoker.pt")
    for path in [p for name in names for p in download.glob(f"{name}_mini.*")]:
        kept = download / "dalle_bart_mini" / path.name.replace("_mini", "")
        kept.parent.mkdir(exist_ok=True)
        path.rename(kept)
    assert main([str(download), str(tmp_path / "model"), "--heads=4"]) == 0


def test_start_tokens_that_there_are_not(
    download: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refusal(download, capsys, HEADS, "--start-token=36")
    assert "has 36 tokens: it cannot start with 36" in error


@pytest.mark.parametrize(
    ("layers", "width", "heads", "inside", "words", "rows", "size"),
    [
        (12, 1024, 16, 2730, 50264, 16385, 0.438e9),
        (24, 2048, 32, 4096, 50272, 16416, 2.587e9),
    ],
)
@pytest.mark.parametrize("start", [16383, 16384])
def test_every_row_of_the_published_sizes_has_a_place(
    layers: int, width: int, heads: int, inside: int, words: int, rows: int, size: float, start: int
) -> None:
    bart = BartConfig(words, 64, width, heads, layers, inside)
    with torch.device("meta"):
        source = {
            "embed_tokens.weight": torch.empty(rows, width),
            "embed_positions.weight": torch.empty(256, width),
            "layers.0.glu.fc0.weight": torch.empty(inside, width),
            f"layers.{layers - 1}.glu.fc1.weight": torch.empty(inside, width),
        }
        source |= {f"layers.{i}.glu.fc1.weight": torch.empty(0) for i in range(layers)}
    codes = VQGAN.__class__(**{**vars(VQGAN), "vocabulary": 16384, "multipliers": (1, 1, 2, 2, 4)})
    config = read_decoder_config(source, Path("decoder.pt"), bart, codes, None)
    assert config.heads == heads
    found = 0
    for network, plan in (
        (bart, encoder_plan(bart)),
        (config, decoder_plan(config, rows, start)),
    ):
        ours = {key: tuple(value.shape) for key, value in build(network).state_dict().items()}
        shapes = source_shapes(plan, ours)
        found += sum(torch.Size(shape).numel() for shape in shapes.values())
    assert shapes["lm_head.weight"] == (rows, width)
    assert shapes["embed_tokens.weight"] == (rows, width)
    assert shapes["embed_positions.weight"] == (256, width)
    assert found == pytest.approx(size, rel=2e-3)
