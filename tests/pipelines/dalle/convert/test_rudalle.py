"""ruDALL-E: logits and pictures of the reference implementation, and what is refused."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from public_checkpoints import (
    RUDALLE,
    picture,
    reference,
    rudalle_masks,
    rudalle_shapes,
    sber_shapes,
    weights,
    write_rudalle,
)
from refusals import refusal

from gen.cli import main as generate
from pipelines.dalle.convert.__main__ import main
from pipelines.dalle.convert.recipe import source_shapes
from pipelines.dalle.convert.rudalle import plan
from pipelines.dalle.convert.writing import build
from pipelines.dalle.masks import Mask
from pipelines.dalle.pipeline import Dalle
from pipelines.dalle.transformer import TransformerConfig

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5
HEADS = "--heads=4"


@pytest.fixture(scope="module")
def pipeline(rudalle_folder: Path) -> Dalle:
    return Dalle.from_pretrained(rudalle_folder, device="cpu")


@pytest.fixture(scope="module")
def version_2(tmp_path_factory: pytest.TempPathFactory) -> Dalle:
    folder = tmp_path_factory.mktemp("version-2")
    source = write_rudalle(folder / "download", version=2)
    assert main([str(source), str(folder / "model"), "--heads=4"]) == 0
    return Dalle.from_pretrained(folder / "model", device="cpu")


@pytest.mark.parametrize("version", [2, 3])
@torch.inference_mode()
def test_logits_of_the_reference(version: int, pipeline: Dalle, version_2: Dalle) -> None:
    """The version is told by the stored masks."""
    if version == 2:
        pipeline = version_2
    expected = reference(f"rudalle_v{version}")
    text, image = expected["text"], expected["image"]
    present = text != 0
    if version == 2:  # which reads a start token first
        text = torch.nn.functional.pad(text, (1, 0), value=2)
        present = torch.nn.functional.pad(present, (1, 0), value=True)
    output = pipeline.transformer(text, present, image)
    assert output.text is not None
    found = output.text
    if version == 2:  # without the padding of the start token, which the reference has not
        words = RUDALLE["words"]
        assert (found[..., words] < -9000).all()
        found = torch.cat([found[..., :words], found[..., words + 1 :]], dim=-1)
    assert torch.allclose(output.image[:, ::5], expected["image_logits"], atol=TOLERANCE)
    assert torch.allclose(found, expected["text_logits"], atol=TOLERANCE)


def test_token_by_token_as_in_one_pass(version_2: Dalle) -> None:
    """Version 2, whose cache keeps the last text position in the grid of the masks."""
    draft = version_2.begin("рыжий котик", seeds=[1, 2], temperature=0.0)
    draft.step(20)
    text = version_2.encode("рыжий котик")
    assert text.read[0, :4].tolist() == [2, 2, 47, 17]
    tokens = draft._open.tokens[:1]
    with torch.inference_mode():
        logits = version_2.transformer(text.read, text.present, tokens).image
    assert torch.equal(logits[0, :20].argmax(-1), tokens[0, :20])


@torch.inference_mode()
def test_pictures_and_codes_of_the_reference(pipeline: Dalle) -> None:
    expected = reference("sber_vqgan")
    pixels = pipeline.dvae.decode(expected["codes"])
    assert torch.allclose(pixels[:, :, ::3, ::3], expected["pixels"], atol=TOLERANCE)
    assert torch.equal(pipeline.dvae.encode(picture(96)), expected["found"])


def test_what_the_folder_says(pipeline: Dalle) -> None:
    spec, config = pipeline.spec, pipeline.transformer.config
    assert config.masks == (Mask.ROW, Mask.COLUMN, Mask.ROW, Mask.CONVOLUTION_CLIPPED)
    assert (spec.context, spec.defaults["width"], spec.defaults["token_top_k"]) == (16, 96, 2048)
    assert "Russian" in spec.draws
    assert {"init_image", "keep_rows", "token_top_p"} <= set(spec.settings)
    assert pipeline.transformer.head.weight.dtype == torch.float32


def test_prompts_are_lower_cased_and_end(pipeline: Dalle) -> None:
    text = pipeline.encode("Рыжий КОТИК ")
    assert text.read[0, :9].tolist() == [2, 47, 17, 22, 7, 19, 40, 3, 0]
    assert text.present.sum() == 8
    assert pipeline.dropped_text("рыжий котик " * 3) == "жий котик "


def test_draws_by_the_command(rudalle_folder: Path, tmp_path: Path) -> None:
    command = ["рыжий котик", "-m", str(rudalle_folder), "--candidates=2", "--top-k=1", "--seed=3"]
    assert generate([*command, "-o", str(tmp_path)]) == 0
    (best,) = tmp_path.glob("0001-r1-*.png")
    with Image.open(best) as image:
        assert image.size == (96, 96)
        assert image.info["parameters"].startswith("рыжий котик")


# --- what is refused ---


@pytest.fixture
def download(rudalle_download: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(rudalle_download, tmp_path / "download"))


def change(path: Path, changes: dict[str, torch.Tensor | None]) -> None:
    """Put tensors into a file, or take them out."""
    state = {**weights(rudalle_shapes(), torch.float16), **rudalle_masks(3)}
    for key, value in changes.items():
        state.pop(key, None)
        if value is not None:
            state[key] = value
    torch.save(state, path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"to_logits.0.bias": None}, "is missing keys: to_logits.0.bias"),
        ({"text_embeddings.weight": None}, "is missing keys: text_embeddings.weight"),
        ({"text_embeddings.weight": torch.ones(())}, "wrong shape: text_embeddings.weight is []"),
        (
            {"extra.weight": torch.ones(1)},
            "has keys that no network of this kind has: extra.weight",
        ),
        (
            {"transformer.layers.2.attention.dense.weight": torch.ones(64, 63)},
            "wrong shape: transformer.layers.2.attention.dense.weight is [64, 63], not [64, 64]",
        ),
        (
            {"to_logits.1.weight": torch.ones(9, 64)},
            "wrong shape: to_logits.1.weight is [9, 64], not [140, 64]",
        ),
        ({"to_logits.0.bias": torch.full((64,), torch.nan)}, "no finite numbers: to_logits.0.bias"),
        ({"to_logits.0.bias": torch.ones(64).bool()}, "no finite numbers: to_logits.0.bias"),
        ({"transformer.conv_mask": None}, "does not tell by its masks which it is: say --version"),
        (
            {"transformer.row_mask": torch.ones(160, 160).tril()},
            "transformer.row_mask is not the mask that it should be",
        ),
    ],
)
def test_keys_that_do_not_fit(
    changes: dict[str, torch.Tensor | None],
    says: str,
    download: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(download / "pytorch_model.bin", changes)
    assert says in refusal(download, capsys, HEADS)


def test_heads_are_said_where_widths_do_not_tell(
    download: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(download), str(download.with_name("never"))]) == 3
    assert "4 layers of width 64: say how many --heads" in capsys.readouterr().err
    assert "width 64 is no multiple of 5 heads" in refusal(download, capsys, HEADS, "--heads=5")


def test_a_vqgan_that_does_not_fit(download: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (vqgan,) = download.glob("*.ckpt")
    state = weights(sber_shapes())
    del state["decoder.up.2.upsample.conv.bias"]
    torch.save({"state_dict": state}, vqgan)
    assert "is missing keys: decoder.up.2.upsample.conv.bias" in refusal(download, capsys, HEADS)
    (download / "second.ckpt").touch()
    assert "must hold one *.ckpt with a VQGAN" in refusal(download, capsys, HEADS)


def test_a_tokenizer_of_another_model(download: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = download / "bpe.model"
    model.write_text("2 1\n9601 4\n97 5\n4 5 6\n1 0 2 3\n")
    assert "has 7 tokens and begins prompts with 2, the transformer reads 60" in refusal(
        download, capsys, HEADS
    )


@pytest.mark.parametrize(("version", "rows"), [(2, 129), (3, 128)])
def test_every_row_of_the_published_size_has_a_place(version: int, rows: int) -> None:
    config = TransformerConfig(
        text_length=rows,
        text_vocabulary=16384,
        width=2048,
        heads=16,
        masks=(Mask.ROW,) * 24,
        extra_norms=True,
        head_norm=True,
        masks_begin_in_text=version == 2,
    )
    ours = {key: tuple(value.shape) for key, value in build(config).state_dict().items()}
    shapes = source_shapes(plan(config), ours)
    assert len(shapes) == 16 * 24 + 11  # and three masks
    assert shapes["text_embeddings.weight"] == (16384 + 128, 2048)
    assert shapes["text_pos_embeddings.weight"] == (129, 2048)
    assert shapes["to_logits.1.weight"] == (24704, 2048)
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == pytest.approx(
        1.310e9, rel=1e-3
    )
