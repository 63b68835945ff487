"""Where an upscaler is, and by how much it enlarges, told without torch wherever that can be."""

from pathlib import Path

from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.headers import read_header
from pipelines.checkpoints.specs import path_of
from pipelines.upscale.layouts import identify

WEIGHTS = "model.safetensors"  # in the folder of an upsampler that ships with a model
USUAL = 4  # times, by which most upscalers enlarge


def find(name: str) -> Path:
    """Return the file or folder of an upscaler that people name. Raises WeightsError."""
    path = path_of(name)
    if path is None:
        raise WeightsError(f"upscale_model {name[:300]}: no such file")
    path = path.resolve()
    weights_of(path)
    return path


def weights_of(path: Path) -> Path:
    """Return the file with an upscaler's weights. Raises WeightsError for a folder without one."""
    if path.is_file():
        return path
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    raise WeightsError(f"{path} holds no upscaler: name a file, or a folder with {WEIGHTS}")


def scale_of(path: Path) -> int:
    """Return by how much an upscaler enlarges, as its header tells it.

    Pickles have none, and other architectures tell it when they are loaded: USUAL for those.
    Raises WeightsError for a damaged file.
    """
    file = weights_of(path)
    if file.suffix != ".safetensors":
        return USUAL
    header = read_header(file)
    try:
        return identify({key: tensor.shape for key, tensor in header.items()}).scale
    except ValueError:
        return USUAL
