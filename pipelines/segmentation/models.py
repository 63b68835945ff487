"""Which networks find things, told by their folders. Loads no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pipelines.checkpoints.configs import read_config
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.specs import CHECKPOINTS, path_of

Kind = Literal["named", "clicked"]
SHIPPED = CHECKPOINTS / "stickers-masks"  # by words, for what the shipped models draw
OURS = "MaskNetwork"
KINDS: dict[str, Kind] = {"clipseg": "named", "sam": "clicked", OURS: "named"}


def find(names: Sequence[str]) -> dict[Kind, Path]:
    """Return the folders of the networks that people name, by what they go by.

    Things that are named are found by the network that ships, where it is there and no other is
    named. Raises WeightsError for a folder that holds none.
    """
    found: dict[Kind, Path] = {}
    if (SHIPPED / "config.json").is_file():
        found["named"] = SHIPPED
    for name in names:
        path = path_of(name)
        if path is None or not path.is_dir():
            raise WeightsError(f"mask_model {name[:300]}: no such folder")
        found[KINDS[kind_of(path)]] = path.resolve()
    return found


def kind_of(folder: Path) -> str:
    """Return which network a folder holds. Raises WeightsError for one that is not known here."""
    config = read_config(folder / "config.json")
    kind = config.get("_class_name", config.get("model_type"))
    if kind not in KINDS:
        known = ", ".join(KINDS)
        raise WeightsError(f"{folder} holds a {kind!s:.40}; what finds things is one of {known}")
    return str(kind)
