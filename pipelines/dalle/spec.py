"""What a model of the DALL·E path says of itself, read without torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.checkpoints.configs import read_config
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.specs import Spec, folder_licence

SAMPLING_SETTINGS = ("guidance", "temperature", "token_top_k", "token_top_p")


IMAGE_PROMPT_SETTINGS = ("init_image", "keep_rows")


DALLE_SETTINGS = ("negative_prompt", *SAMPLING_SETTINGS, *IMAGE_PROMPT_SETTINGS)


DALLE_CLASS = "Dalle"


def read_spec(folder: Path, name: str) -> Spec:
    """The Spec of a folder of the DALL·E path, from its JSON.

    What a converted checkpoint is drawn with where its authors advise it, its licence and what it
    draws are in model_index.json.
    """
    index = read_config(folder / "model_index.json")
    dvae = read_config(folder / "dvae" / "config.json")
    transformer = read_config(folder / "transformer" / "config.json")
    size, grid, context = dvae.get("size"), transformer.get("grid"), transformer.get("text_length")
    if transformer.get("cross_attention_width") is not None:
        context = read_config(folder / "text_encoder" / "config.json").get("length")
    if not (isinstance(size, int) and isinstance(grid, int) and isinstance(context, int)):
        raise WeightsError(
            f"{folder}: dvae says no size, transformer no grid or text_length, or text_encoder no "
            "length"
        )
    absent = set() if dvae.get("has_encoder", True) else set(IMAGE_PROMPT_SETTINGS)
    if transformer.get("null_prefix"):  # guidance compares with that
        absent.add("negative_prompt")
    return Spec(
        name=name,
        folder=folder,
        kind="dalle",
        settings=tuple(name for name in DALLE_SETTINGS if name not in absent),
        defaults={
            "width": size,
            "height": size,
            "guidance": 1.0,
            "temperature": 1.0,
            **_own_defaults(index, folder),
        },
        context=context,
        size_multiple=max(1, size // max(1, grid)),
        max_size=size,
        licence=str(index.get("licence", folder_licence(folder))),
        draws=str(index.get("draws", f"what {name} was trained on")),
    )


def _own_defaults(index: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The sampling defaults in model_index.json. Raises WeightsError for what is none."""
    defaults = index.get("defaults", {})
    numbers = isinstance(defaults, dict) and all(
        name in SAMPLING_SETTINGS and isinstance(value, int | float)
        for name, value in defaults.items()
    )
    if not numbers:
        raise WeightsError(
            f"{folder}/model_index.json: defaults must be numbers of {', '.join(SAMPLING_SETTINGS)}"
        )
    return dict(defaults)
