"""The settings of models that draw from the embedding of an image. Loads no torch."""

from typing import Annotated, TypedDict

from pipelines.settings import Setting, SizedSettings

MAX_EMBEDDINGS = 4096


class PriorSettings(TypedDict, total=False):
    """How a prompt becomes the embedding of an image."""

    prior_candidates: Annotated[
        int | None,
        Setting(
            "how many image embeddings are drawn for the prompt, before any image: candidates take "
            "the best and most different of them in turn; by default each draws its own",
            "Prior candidates",
            low=2,
            high=MAX_EMBEDDINGS,
        ),
    ]
    prior_draws: Annotated[
        int | None,
        Setting(
            "without --prior-candidates: how many embeddings each candidate draws, to take the one "
            "nearest to the prompt",
            "Prior draws",
            low=1,
            high=64,
        ),
    ]
    prior_steps: Annotated[
        int | None,
        Setting("denoising steps of the embedding", "Prior steps", low=2, high=1000),
    ]
    prior_guidance: Annotated[
        float | None,
        Setting("how closely the embedding follows the prompt", "Prior CFG scale", low=0, high=100),
    ]
    prior_seed: Annotated[
        int | None,
        Setting(
            "the seed of the first of the embeddings that all candidates choose from",
            "Prior seed",
            asked=False,
            low=0,
            high=2**63 - 1,
        ),
    ]


class DrawingSettings(SizedSettings, PriorSettings, total=False):
    """What `Unclip.begin` takes."""

    decoder_text: Annotated[
        bool | None,
        Setting(
            "whether the decoder reads the prompt beside the embedding; by default yes, but not "
            "where the embedding is that of an image",
            "Decoder text",
        ),
    ]
    image_guidance: Annotated[
        float | None,
        Setting(
            "how closely the decoder follows the embedding where it reads the prompt, too; where "
            "that is the embedding of an image, by default as closely as the prompt",
            "Image CFG scale",
            low=0,
            high=100,
        ),
    ]


class ImagePromptSettings(TypedDict, total=False):
    """Images in the place of the prompt."""

    image_prompt: Annotated[
        str | None,
        Setting(
            "an image file that is drawn anew from its embedding: the same things, elsewhere",
            metavar="IMAGE",
            local=True,
        ),
    ]
    mix_with: Annotated[
        str | None,
        Setting("an image file that --image-prompt is mixed with", metavar="IMAGE", local=True),
    ]
    mix_at: Annotated[
        float | None,
        Setting(
            "how far a mix is turned from its first image to the second, by default 0.5, or an "
            "image to what --toward says, by default 0.35",
            "Mix at",
            low=0,
            high=1,
        ),
    ]
    toward: Annotated[
        str | None,
        Setting("what --image-prompt is changed to, in words; the rest of it stays", "Toward"),
    ]
    away_from: Annotated[
        str | None,
        Setting("with --toward: what it is now, in words", "Away from", aliases=("from",)),
    ]
    image_prompt_hash: Annotated[
        str | None,
        Setting("the SHA-256 of the file of --image-prompt", "Image prompt hash", asked=False),
    ]
    mix_with_hash: Annotated[
        str | None,
        Setting("the SHA-256 of the file of --mix-with", "Mix with hash", asked=False),
    ]


class UnclipSettings(DrawingSettings, ImagePromptSettings, total=False):
    """All of it: also images in the place of a prompt, and what is loaded beside a model."""

    prior: Annotated[
        str | None,
        Setting(
            "the folder of a prior, or its name on the hub, for a model that has none",
            metavar="FOLDER",
            local=True,
            loads=True,
        ),
    ]
