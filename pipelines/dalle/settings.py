"""The settings that the DALL·E path takes. Loads no torch."""

from typing import Annotated, TypedDict

from pipelines.settings import EditingSettings, Setting, SharedSettings


class SamplingSettings(TypedDict, total=False):
    """How image tokens are drawn."""

    temperature: Annotated[
        float | None,
        Setting(
            "how daringly image tokens are drawn; 0: always the likeliest",
            "Temperature",
            low=0,
            high=10,
        ),
    ]
    token_top_k: Annotated[
        int | None,
        Setting(
            "draw each image token from the k likeliest",
            "Token top k",
            low=1,
            high=1_000_000,
        ),
    ]
    token_top_p: Annotated[
        float | None,
        Setting(
            "draw each image token from the likeliest whose probabilities add up to this",
            "Token top p",
            low=0,
            high=1,
        ),
    ]


class ImagePromptSettings(TypedDict, total=False):
    """An image whose beginning is given."""

    keep_rows: Annotated[
        int | None,
        Setting(
            "how many rows of image tokens of --init-image are kept",
            "Keep rows",
            low=1,
            high=1000,
        ),
    ]


class DrawingSettings(SharedSettings, SamplingSettings, ImagePromptSettings, total=False):
    """What `Dalle.begin` takes."""

    init_image: Annotated[str | None, Setting("an image of the model's own size")]


class DalleSettings(
    SharedSettings, SamplingSettings, ImagePromptSettings, EditingSettings, total=False
):
    """All of it: also how an image file becomes the start of others."""
