"""The Spec of a model of the DALL·E path, read from its files without torch."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pipelines.checkpoints.configs import read_config
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.memory import Header, part_of
from pipelines.checkpoints.places import Place, with_facts
from pipelines.checkpoints.specs import Spec, folder_licence
from pipelines.dalle.settings import DalleSettings, SamplingSettings
from pipelines.settings import EditingSettings, settings_of

SAMPLING_SETTINGS = ("guidance", *settings_of(SamplingSettings))
DALLE_SETTINGS = tuple(settings_of(DalleSettings))

DALLE_CLASS = "Dalle"
ENDS = 4  # tokens that begin or end a prompt, at most


def read_spec(place: Place) -> Spec:
    """Return the Spec of a folder of the DALL·E path, from its JSON.

    What a converted checkpoint is drawn with where its authors advise it, its licence and what it
    draws are in model_index.json.
    """
    folder = place.path
    index = read_config(folder / "model_index.json")
    if index.get("_class_name") != DALLE_CLASS:
        raise WeightsError(f"{folder} holds no Dalle, but a {index.get('_class_name')}")
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
    absent = (
        set() if dvae.get("has_encoder", True) else {"keep_rows", *settings_of(EditingSettings)}
    )
    if transformer.get("null_prefix"):  # guidance compares with that
        absent.add("negative_prompt")
    spec = Spec(
        name=place.name,
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
        draws=str(index.get("draws", f"what {place.name} was trained on")),
    )
    return with_facts(spec, place)


def _own_defaults(index: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Read the sampling defaults in model_index.json. Raises WeightsError for invalid ones."""
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


def tensors(spec: Spec) -> dict[str, Header]:
    """Return what the files say of each part's weights."""
    names = ("text_encoder", "transformer", "dvae")
    places = {name: spec.part(name) for name in names}
    return {name: part_of(path, "model") for name, path in places.items() if path.is_dir()}


def dropped_text(spec: Spec, prompt: str) -> str:
    """Return the end of a prompt that is beyond the context, told by the tokenizer's file alone.

    Returns "" if all of it is read, or where the folder has no such file.
    """
    file = spec.part("tokenizer") / "tokenizer.json"
    if len(prompt) + ENDS <= spec.context or not file.is_file():  # a token has a character or more
        return ""
    encoded = _tokenizer(file).encode(prompt)
    if len(encoded.ids) <= spec.context:
        return ""
    ends = encoded.special_tokens_mask[::-1].index(0)
    return prompt[encoded.offsets[spec.context - ends][0] :].lstrip()


@cache
def _tokenizer(file: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # of Rust, without a type of its own
        raise WeightsError(f"{file}: not a tokenizer ({error})") from error
