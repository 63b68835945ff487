"""Which kinds of models there are, and which model a name means. Loads no torch."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pipelines.dalle.spec
import pipelines.diffusion.spec
import pipelines.stock.spec
from pipelines.checkpoints.configs import read_config, read_pulled
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.known_models import PUBLIC
from pipelines.checkpoints.specs import (
    HUB_NAME,
    SHIPPED,
    Spec,
    split_revision,
)

DEFAULT_MODEL = "stickers"


SPECS: Mapping[str, Spec] = {
    "stickers": Spec(
        name="stickers",
        folder=SHIPPED["stickers"],
        kind="latent_diffusion",
        settings=pipelines.diffusion.spec.DIFFUSION_SETTINGS,
        defaults={
            "width": 64,
            "height": 64,
            "steps": 20,
            "guidance": 3.0,
            "sampler": "dpmpp_2m",
            "schedule": "default",
        },
        context=32,
        size_multiple=8,
        max_size=256,
        licence="Apache-2.0; glyphs after Noto Color Emoji, OFL-1.1",
        draws="stickers: emoji things and plain shapes on coloured grounds, 64x64",
    ),
    "stickers-dalle": Spec(
        name="stickers-dalle",
        folder=SHIPPED["stickers-dalle"],
        kind="dalle",
        settings=pipelines.dalle.spec.DALLE_SETTINGS,
        defaults={"width": 64, "height": 64, "guidance": 1.5, "temperature": 0.9},
        context=32,
        size_multiple=8,
        max_size=64,
        licence="Apache-2.0; glyphs after Noto Color Emoji, OFL-1.1",
        draws="the same stickers, image token by image token, 64x64",
    ),
}


def find(name_or_folder: str) -> Spec:
    """The Spec of a known model, of a folder or file, or of `org/name` in the local hub cache.

    `org/name@revision` is a branch, tag or commit of it.

    Raises WeightsError with the choices if there is no such thing, and with the reason if the
    folder is not a model that can be loaded. Never touches the network.
    """
    if name_or_folder in SPECS:
        return SPECS[name_or_folder]
    folder = Path(name_or_folder).expanduser()
    if folder.is_dir():
        return read_spec(folder, name=folder.resolve().name)
    if folder.is_file():
        return pipelines.diffusion.spec.read_single_file_spec(folder)
    if HUB_NAME.fullmatch(name_or_folder):
        repository, revision = split_revision(name_or_folder)
        spec = read_spec(_cached_folder(repository, revision), name=name_or_folder)
        known = PUBLIC.get(repository)
        if known is None:
            return spec
        spec = replace(spec, draws=known.draws)
        if spec.kind == "diffusers":  # whose folders do not say how they are best drawn with
            spec = replace(spec, defaults=known.defaults)
        if known.licence is None or "licence" in read_pulled(spec.folder):
            return spec
        return replace(spec, licence=known.licence)
    raise WeightsError(
        f"no model {name_or_folder!r}: it is no folder or file, and the known models are "
        f"{', '.join(SPECS)}"
    )


def _cached_folder(repo_id: str, revision: str | None) -> Path:
    """The folder of a hub repository that was fetched before."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo_id, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        named = repo_id if revision is None else f"{repo_id}@{revision}"
        raise WeightsError(
            f"{named} is no folder and is not in the hub cache {constants.HF_HUB_CACHE}; "
            f"fetch it with: generate --pull {named}"
        ) from None


def read_spec(folder: Path, name: str) -> Spec:
    """The Spec of a folder of any kind, from its JSON files.

    Raises WeightsError naming the missing part, or the class that is not supported.
    """
    class_name = read_config(folder / "model_index.json").get("_class_name")
    if class_name == pipelines.dalle.spec.DALLE_CLASS:
        return pipelines.dalle.spec.read_spec(folder, name)
    if class_name in pipelines.diffusion.spec.PIPELINE_CLASSES:
        return pipelines.diffusion.spec.read_spec(folder, name)
    return pipelines.stock.spec.read_spec(folder, name)
