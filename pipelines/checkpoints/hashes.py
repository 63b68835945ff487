"""Short hashes that identify the weights of a model."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from pipelines.checkpoints.configs import read_pulled
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.specs import NO_ADAPTERS, NO_FILES, Spec


def spec_hash(spec: Spec) -> str:
    """Return ten hex digits that identify the weights of a model with its adapters."""
    own = files_hash(spec.folder, spec.shared)
    if spec.adapters == NO_ADAPTERS:
        return own
    weights = [lora.weight for lora in spec.adapters.loras]
    hashes = [files_hash(path) for path in spec.adapters.paths]
    return hashlib.sha256(json.dumps([own, weights, hashes]).encode()).hexdigest()[:10]


def files_hash(folder: Path, shared: Mapping[str, Path] = NO_FILES) -> str:
    """Hash a folder's safetensors files and their names: the first 10 hex digits of a SHA-256.

    Of a single file they are those of its own SHA-256, which other tools write into images too.
    It tells whether two images came from the same weights. Safety checkers do not count: they
    draw nothing. Parts that are `shared` count as if they were in the folder itself. Raises
    WeightsError for a file that is not any more what was fetched.
    """
    if folder.is_file():
        with folder.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:10]
    paths = sorted(
        ((Path(name) / path.relative_to(root)).as_posix(), path)
        for name, root in {".": folder, **shared}.items()
        for path in root.rglob("*.safetensors")
        if "safety_checker" not in path.relative_to(root).parts
    )
    fetched = read_pulled(folder).get("files", {})
    total = hashlib.sha256()
    for relative, path in paths:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        expected = fetched.get(relative, {}).get("sha256", digest)
        if digest != expected:
            raise WeightsError(
                f"{path} is damaged: its sha256 is {digest}, that of what was fetched was "
                f"{expected}; fetch it again with generate --pull"
            )
        total.update(f"{relative} {digest}\n".encode())
    return total.hexdigest()[:10]
