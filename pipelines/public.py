"""Public models that load here: what is known of them, and no more. Imports no torch.

Hashes, sizes and revisions are those of files that somebody had; where nobody had them, the fields
are empty. `generate --pull` checks and records those of the files that it fetches.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PublicFile:
    """A file of a model."""

    name: str
    size: int  # bytes
    sha256: str


@dataclass(frozen=True)
class Public:
    """A model on the Hugging Face hub; `name` is where."""

    name: str
    draws: str
    licence: str | None  # as the hub calls it
    permits: str  # in a few words; the licence itself holds
    weights: float  # GB in half precision, counted from the sizes of the networks
    defaults: Mapping[str, Any]
    citation: str
    revision: str | None = None
    files: tuple[PublicFile, ...] = ()
    tried: bool = False  # whether Salon was run on the real files


PUBLIC = {
    model.name: model
    for model in (
        Public(
            name="stable-diffusion-v1-5/stable-diffusion-v1-5",
            draws="nearly anything, 512x512",
            licence="creativeml-openrail-m",
            permits="commercial use; forbids harmful uses that it lists",
            weights=2.13,
            defaults={"width": 512, "height": 512, "steps": 30, "guidance": 7.5},
            citation="Rombach et al., arXiv 2112.10752",
        ),
        Public(
            name="stabilityai/stable-diffusion-xl-base-1.0",
            draws="nearly anything, 1024x1024",
            licence="openrail++",
            permits="commercial use; forbids harmful uses that it lists",
            weights=6.94,
            defaults={"width": 1024, "height": 1024, "steps": 30, "guidance": 5.0},
            citation="Podell et al., arXiv 2307.01952",
        ),
    )
}


@dataclass(frozen=True)
class Download:
    """A checkpoint that `python -m pipelines.convert` makes a folder of; what is empty is not known
    here."""

    name: str
    holds: tuple[str, ...]  # the files in it that are read, and what is known of their sizes
    source: str  # where it is from
    licence: str
    draws: str
    defaults: Mapping[str, Any]
    citation: str
    revision: str = ""
    sha256: str = ""
    tried: bool = False


RUDALLE_LICENCE = "code Apache-2.0; the page of the weights names none"
RUDALLE_DEFAULTS = {"token_top_k": 2048, "token_top_p": 0.995}
RUDALLE_PARTS = ("bpe.model (224,498 bytes)", "vqgan.gumbelf8-sber.model.ckpt")
RUDALLE_CODE = "github.com/ai-forever/ru-dalle"
MINI_LICENCE = "MIT; after dalle-mini, Apache-2.0"
MINI_DEFAULTS = {"guidance": 16.0, "token_top_k": 256}
MINI_CODE = "github.com/borisdayma/dalle-mini"

DOWNLOADS = (
    Download(
        name="ruDALL-E XL Malevich, version 3",
        holds=("pytorch_model_v3.bin (2.62 GB)", *RUDALLE_PARTS),
        source="ai-forever/rudalle-Malevich, ai-forever/Sber-VQGAN; its code takes bpe.model from "
        "shonenkov/rudalle-utils",
        licence=RUDALLE_LICENCE,
        draws="what a Russian prompt of up to 128 tokens says, 256x256",
        defaults=RUDALLE_DEFAULTS,
        citation=RUDALLE_CODE,
    ),
    Download(
        name="ruDALL-E XL Malevich, version 2",
        holds=("pytorch_model_v2.bin", *RUDALLE_PARTS),
        source="ai-forever/rudalle-Malevich, and the others as for version 3",
        licence=RUDALLE_LICENCE,
        draws="what a Russian prompt of up to 128 tokens says, 256x256",
        defaults=RUDALLE_DEFAULTS,
        citation=RUDALLE_CODE,
    ),
    Download(
        name="Emojich XL (version 2)",
        holds=("pytorch_model.bin", *RUDALLE_PARTS),
        source="sberbank-ai/rudalle-Emojich, and the others as for Malevich",
        licence=RUDALLE_LICENCE,
        draws="emoji, Russian prompts, 256x256",
        defaults=RUDALLE_DEFAULTS,
        citation=RUDALLE_CODE,
    ),
    Download(
        name="Surrealist XL (version 3)",
        holds=("pytorch_model.bin", *RUDALLE_PARTS),
        source="shonenkov-AI/rudalle-xl-surrealist, and the others as for Malevich",
        licence="",
        draws="surrealism, Russian prompts, 256x256",
        defaults=RUDALLE_DEFAULTS,
        citation=RUDALLE_CODE,
    ),
    Download(
        name="DALL·E mini",
        holds=(
            "encoder_mini.pt",
            "decoder_mini.pt (471 MB)",
            "detoker.pt (187 MB)",
            "vocab_mini.json",
            "merges_mini.txt",
        ),
        source="kuprel/min-dalle",
        licence=MINI_LICENCE,
        draws="what an English prompt of up to 64 tokens says, 256x256",
        defaults=MINI_DEFAULTS,
        citation=MINI_CODE,
    ),
    Download(
        name="DALL·E mega",
        holds=(
            "encoder.pt (2.22 GB)",
            "decoder.pt (2.96 GB)",
            "detoker.pt (187 MB)",
            "vocab.json",
            "merges.txt",
        ),
        source="kuprel/min-dalle",
        licence=MINI_LICENCE,
        draws="what an English prompt of up to 64 tokens says, 256x256",
        defaults=MINI_DEFAULTS,
        citation=MINI_CODE,
    ),
    Download(
        name="minDALL-E",
        holds=(
            "stage1_last.ckpt",
            "stage2_last.ckpt",
            "tokenizer/bpe-16k-vocab.json",
            "tokenizer/bpe-16k-merges.txt",
        ),
        source="1.3B.tar.gz (5 GB) by kakaobrain, whose README says where it is",
        licence="cc-by-nc-sa-4.0: no commercial use; its code Apache-2.0",
        draws="what an English prompt of up to 64 tokens says, 256x256",
        defaults={"token_top_k": 256},
        citation="github.com/kakaobrain/minDALL-E",
    ),
    *(
        Download(
            name=f"LlamaGen XL, stage {stage}",
            holds=(
                f"t2i_XL_stage{stage}_{size}.pt",
                "vq_ds16_t2i.pt",
                "flan-t5-xl/ with config.json, tokenizer.json and its weights",
            ),
            source="peizesun/llamagen_t2i; FLAN-T5-XL is Google's",
            licence="MIT; FLAN-T5 has its own, see its page",
            draws=f"what an English prompt of up to 120 tokens says, {size}x{size}",
            defaults={"guidance": 7.5, "token_top_k": 1000},
            citation="Sun et al., arXiv 2406.06525",
        )
        for stage, size in ((1, 256), (2, 512))
    ),
    Download(
        name="OpenAI's dVAE",
        holds=("encoder.pkl", "decoder.pkl"),
        source="cdn.openai.com/dall-e",
        licence="modified MIT, which asks to say clearly that it was used",
        draws="nothing alone: codes of pictures, and pictures of codes",
        defaults={},
        citation="Ramesh et al., arXiv 2102.12092",
    ),
)
