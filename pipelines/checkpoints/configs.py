"""JSON files of model folders, read strictly."""

import json
from pathlib import Path
from typing import Any

from pipelines.checkpoints.errors import WeightsError

PULLED = "pulled.json"  # beside fetched files: where they are from, and their hashes


# Keys that make a loader run code from the folder, or fetch code for it.
CODE_KEYS = frozenset(
    {
        "auto_map",
        "trust_remote_code",
        "custom_pipeline",
        "custom_pipelines",
        "_attn_implementation",
        "_attn_implementation_internal",
        "attn_implementation",
    }
)


def read_config(path: Path) -> dict[str, Any]:
    """Read a JSON file of a model folder, which must hold an object.

    Raises WeightsError if the file is missing, is not a JSON object, or asks to run code.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise WeightsError(
            f"{path} is missing: the model folder is not complete; copy or download it again"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise WeightsError(f"{path} is not a JSON object")
    _refuse_code(config, path)
    return config


def _refuse_code(value: object, path: Path) -> None:
    """Raise WeightsError for a key that would run code, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in CODE_KEYS and inner not in (None, False):
                raise WeightsError(
                    f"{path} sets {key!r}, which would run code that came with the weights; "
                    "only plain diffusers and transformers models are loaded"
                )
            _refuse_code(inner, path)
    elif isinstance(value, list):
        for inner in value:
            _refuse_code(inner, path)


def read_pulled(folder: Path) -> dict[str, Any]:
    """Read what `generate --pull` recorded of the files in a folder; {} for other files."""
    path = folder / PULLED
    return read_config(path) if path.is_file() else {}
