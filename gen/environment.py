"""Facts for bug reports: versions, devices, attention, and the weights that are here."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import rerank.model.specs
from gen.models import describe_devices
from pipelines import families
from pipelines.checkpoints import hashes

PACKAGES = (
    "salon",
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "safetensors",
    "Pillow",
    "numpy",
    "xformers",
    "gradio",
)


def describe() -> list[tuple[str, str]]:
    """Names and values, in the order in which they are shown."""
    devices, attention = describe_devices()
    facts = [("python", platform.python_version()), ("platform", platform.platform())]
    facts += [(package, _version(package)) for package in PACKAGES]
    facts += [("devices", devices), ("attention", attention)]
    facts += [(f"model {s.name}", _weights(s.folder)) for s in families.shipped().values()]
    facts += [(f"reranker {s.name}", _weights(s.folder)) for s in rerank.model.specs.SPECS.values()]
    return facts


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _weights(folder: Path) -> str:
    files = list(folder.rglob("*.safetensors"))
    if not files:
        return f"no weights in {folder}"
    size = sum(path.stat().st_size for path in files) / 1e6
    return f"{hashes.files_hash(folder)}, {size:.1f} MB in {folder}"
