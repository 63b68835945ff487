"""What upscaler a file holds, told by the names and shapes of its tensors. Loads no torch.

Real-ESRGAN's compact networks (Wang et al., arXiv 2107.10833) and ESRGAN (Wang et al., arXiv
1809.00219) in both of its public layouts, the first one and that of BasicSR.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt

Shapes = Mapping[str, tuple[int, ...]]
NO_SCALE = "its last layer has {} outputs, which no scale gives"


@dataclass(frozen=True)
class CompactConfig:
    """The defaults are those of the world's upsampler: 0.9 million parameters."""

    features: int = 64
    layers: int = 24  # between the first convolution and the last
    scale: int = 4


@dataclass(frozen=True)
class RrdbConfig:
    """The defaults are those of RealESRGAN_x4plus: 16.7 million parameters."""

    features: int = 64
    blocks: int = 23
    growth: int = 32  # channels that each layer of a dense block adds
    doublings: int = 2  # of the size, at the end
    folded: int = 1  # so many pixels a side become channels first

    @property
    def scale(self) -> int:
        """By how much it enlarges, in each direction."""
        return 2**self.doublings // self.folded


Config = CompactConfig | RrdbConfig


def identify(shapes: Shapes) -> Config:
    """Return the network whose tensors these are, in whichever layout. Raises ValueError."""
    if "body.0.weight" in shapes:
        return compact(shapes)
    if "model.0.weight" in shapes or "conv_first.weight" in shapes:
        return rrdb({current_name(key, shapes): shape for key, shape in shapes.items()})
    raise ValueError("its tensors are neither a compact upsampler's (SRVGGNetCompact) nor ESRGAN's")


def compact(shapes: Shapes) -> CompactConfig:
    """Read the sizes of a compact upsampler from the shapes of its tensors.

    Raises ValueError for tensors that are not in this layout.
    """
    last = max((_number(key) for key in shapes if key.startswith("body.")), default=0)
    first, final = shapes.get("body.0.weight", ()), shapes.get(f"body.{last}.weight", ())
    if len(first) != 4 or len(final) != 4 or first[1] != 3 or final[0] % 3 or last % 2:
        raise ValueError("its tensors are not those of a compact upsampler (SRVGGNetCompact)")
    scale = isqrt(final[0] // 3)
    if scale**2 != final[0] // 3:
        raise ValueError(NO_SCALE.format(final[0]))
    return CompactConfig(features=first[0], layers=last // 2 - 1, scale=scale)


def rrdb(shapes: Shapes) -> RrdbConfig:
    """Read the sizes of ESRGAN, named as in BasicSR. Raises ValueError for other tensors."""
    first, growing = shapes.get("conv_first.weight", ()), shapes.get("body.0.rdb1.conv1.weight", ())
    blocks = len({key.split(".")[1] for key in shapes if key.startswith("body.")})
    if len(first) != 4 or len(growing) != 4 or blocks == 0:
        raise ValueError("its tensors are not those of ESRGAN (RRDBNet)")
    ups = [key for key in shapes if re.fullmatch(r"conv_up\d\.weight", key)]
    folded = isqrt(first[1] // 3)
    if folded**2 * 3 != first[1] or 2 ** len(ups) % folded:
        raise ValueError(f"its first layer has {first[1]} inputs, which no image gives")
    return RrdbConfig(first[0], blocks, growing[0], len(ups), folded)


def current_name(key: str, keys: Shapes) -> str:
    """Return what BasicSR calls a tensor of ESRGAN's first layout; `key` itself if it is none.

    There the layers are counted: the blocks are the second, then come the layers that double the
    size, with two modules between them, and two convolutions at the end.
    """
    if "model.0.weight" not in keys:
        return key
    block = re.fullmatch(r"model\.1\.sub\.(\d+)\.RDB([123])\.conv([1-5])\.0\.(weight|bias)", key)
    if block:
        number, dense, layer, kind = block.groups()
        return f"body.{number}.rdb{dense}.conv{layer}.{kind}"
    if trunk := re.fullmatch(r"model\.1\.sub\.\d+\.(weight|bias)", key):
        return f"conv_body.{trunk[1]}"
    layer_of = re.fullmatch(r"model\.(\d{1,2})\.(weight|bias)", key)
    if layer_of is None:
        return key
    place, kind = int(layer_of[1]), layer_of[2]
    last = max(int(m[1]) for k in keys if (m := re.fullmatch(r"model\.(\d{1,2})\.weight", k)))
    names = {0: "conv_first", last: "conv_last", last - 2: "conv_hr"}
    if place in names:
        return f"{names[place]}.{kind}"
    return f"conv_up{place // 3}.{kind}" if place % 3 == 0 else key


def _number(key: str) -> int:
    number = key.split(".")[1]
    return int(number) if re.fullmatch(r"\d{1,4}", number) else 0
