"""Public models that score here: what is known of them, and no more. Imports no torch.

Hashes, sizes and revisions are those of files that somebody had; where nobody had them, the fields
are empty.
"""

from dataclasses import dataclass


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
    `source`, its file is to be got from there by hand: it is a head for `rerank --aesthetic`.
    """

    name: str
    judges: str
    licence: str | None  # as the hub calls it; None: it names none, or nobody looked
    permits: str  # in a few words; the licence itself holds
    weights: float  # GB in float32, in which it runs, counted from the sizes of the networks
    citation: str
    processor: str | None = None  # where tokenizer and preprocessing are, if not with it
    source: str | None = None
    revision: str | None = None
    files: tuple[PublicFile, ...] = ()
    tried: bool = False  # whether Salon was run on the real files


LAION_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
PUBLIC = {
    model.name: model
    for model in (
        Public(
            name="openai/clip-vit-base-patch32",
            judges="how well an image fits a text; small and fast",
            licence=None,
            permits="see its page",
            weights=0.61,
            citation="Radford et al., arXiv 2103.00020",
        ),
        Public(
            name="openai/clip-vit-large-patch14",
            judges="how well an image fits a text",
            licence=None,
            permits="see its page",
            weights=1.71,
            citation="Radford et al., arXiv 2103.00020",
        ),
        Public(
            name=LAION_H,
            judges="how well an image fits a text",
            licence=None,
            permits="see its page",
            weights=3.94,
            citation="Schuhmann et al., arXiv 2210.08402",
        ),
        Public(
            name="google/siglip-base-patch16-224",
            judges="how well an image fits a text, as a probability",
            licence=None,
            permits="see its page",
            weights=0.81,
            citation="Zhai et al., arXiv 2303.15343",
        ),
        Public(
            name="yuvalkirstain/PickScore_v1",
            judges="which image of a text people like better",
            licence=None,
            permits="see its page",
            weights=3.94,
            citation="Kirstain et al., arXiv 2305.01569",
            processor=LAION_H,
        ),
        Public(
            name="facebook/metaclip-b16-400m",
            judges="how well an image fits a text",
            licence="cc-by-nc-4.0",
            permits="no commercial use",
            weights=0.60,
            citation="Xu et al., arXiv 2309.16671",
        ),
        Public(
            name="LAION's aesthetic predictor",
            judges="how good an image looks, by the features of openai/clip-vit-large-patch14",
            licence="Apache-2.0",
            permits="any use that keeps the notice",
            weights=0.004,
            citation="Schuhmann et al., arXiv 2210.08402",
            processor="openai/clip-vit-large-patch14",
            source="`christophschuhmann/improved-aesthetic-predictor` on GitHub",
            files=(PublicFile("sac+logos+ava1-l14-linearMSE.pth"),),
        ),
    )
}
