"""Load and draw with networks of full size: what it takes, not what it shows.

    python -m benchmarks.full_size sd1
    python -m benchmarks.full_size sdxl --pixels 512 --steps 4

Writes a folder of Stable Diffusion 1.5 or XL with random weights in half precision (2 and 7 GB) to
a temporary place, then loads it and draws one picture in a process of its own. On a CPU networks
run in float32, so memory for twice the file is needed. `--quick` does all of it with a UNet of few
channels.
"""

import argparse
import json
import shutil
import struct
import subprocess
import sys
import tempfile
from math import prod
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from gen.memory import held_by_process, peak_of_process
from pipelines.checkpoints.loading import LAST, building
from pipelines.checkpoints.single_file import LAYOUTS
from pipelines.diffusion.networks import openai_tokenizer

BLOCK = 2**22  # random numbers, which are repeated
QUICK: dict[str, dict[str, Any]] = {
    "sd1": {"block_out_channels": [32, 32, 64, 64]},
    "sdxl": {"block_out_channels": [64, 64, 128], "attention_head_dim": [2, 4, 4]},
}


def main() -> None:
    """Write the folder, measure in another process, and print what it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("layout", choices=[layout.name for layout in LAYOUTS])
    parser.add_argument("--pixels", type=int, default=256)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        measure(options.measure, options.pixels, options.steps)
        return
    with tempfile.TemporaryDirectory() as place:
        folder = write_folder(options.layout, Path(place) / options.layout, options.quick)
        size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
        print(f"{options.layout}: {size / 1e9:.2f} GB on the disk", flush=True)
        words = ["--measure", str(folder), "--pixels", str(options.pixels)]
        words += ["--steps", str(options.steps), options.layout]
        subprocess.run([sys.executable, "-m", "benchmarks.full_size", *words], check=True)


def write_folder(name: str, folder: Path, quick: bool) -> Path:
    """Write a diffusers folder with the configs of a layout and random weights."""
    layout = next(layout for layout in LAYOUTS if layout.name == name)
    shutil.copytree(layout.configs, folder)
    for path in folder.glob("tokenizer*/tokenizer_config.json"):
        openai_tokenizer(json.loads(path.read_text())).save_pretrained(path.parent)
    for path in sorted(folder.glob("*/config.json")):
        config = json.loads(path.read_text())
        if quick and path.parent.name == "unet":
            config |= QUICK[name]
            path.write_text(json.dumps(config))
        with building(folder):
            network = build(path.parent.name, config)
        stem = "diffusion_pytorch_model" if isinstance(network, LAST) else "model"
        write_weights(network, path.parent / f"{stem}.safetensors")
    return folder


def build(part: str, config: dict[str, Any]) -> torch.nn.Module:
    """Return a network of a diffusers folder, without memory for its weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    if part in ("unet", "vae"):
        kind = UNet2DConditionModel if part == "unet" else AutoencoderKL
        return kind.from_config(config)
    text = CLIPTextModel if part == "text_encoder" else CLIPTextModelWithProjection
    return text(CLIPTextConfig.from_dict(config))


def write_weights(network: torch.nn.Module, path: Path) -> None:
    """Write a safetensors file in float16, a piece at a time."""
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    header, place = {}, 0
    for name, shape in shapes.items():
        size = 2 * prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header).encode()
    generator = torch.Generator().manual_seed(0)
    random = (0.02 * torch.randn(BLOCK, generator=generator)).half().numpy().tobytes()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            size = 2 * prod(shape)
            if len(shape) == 1:  # of norms, and biases
                value = 1.0 if name.endswith("weight") else 0.0
                file.write(torch.full(shape, value, dtype=torch.float16).numpy().tobytes())
            else:
                file.write(random * (size // len(random)) + random[: size % len(random)])


def measure(folder: Path, pixels: int, steps: int) -> None:
    """Load and draw, and print seconds and memory."""
    from pipelines.diffusion.pipeline import LatentDiffusion

    before, start = held_by_process(), perf_counter()
    pipeline = LatentDiffusion.from_pretrained(folder)
    networks = [*(reader.encoder for reader in pipeline.text.readers), pipeline.unet, pipeline.vae]
    weights = sum(p.nbytes for network in networks for p in network.parameters())
    taken, seconds = peak_of_process() - before, perf_counter() - start
    print(f"on {pipeline.device} in {pipeline.dtype}: {weights / 1e9:.2f} GB of weights")
    print(f"loaded in {seconds:.0f} s with {taken / 1e9:.2f} GB, {taken / weights:.3f} of them")
    start = perf_counter()
    size: dict[str, int] = {"width": pixels, "height": pixels, "steps": steps}
    [picture] = pipeline("a lighthouse", seeds=[0], guidance=1.0, **size)
    what = "no finite picture" if picture is None else f"a picture of {picture.size}"
    print(f"{steps} steps in {perf_counter() - start:.0f} s: {what}")
    print(f"at most {peak_of_process() / 1e9:.2f} GB in all")
    if pipeline.device.type == "cuda":
        print(f"on the GPU at most {torch.cuda.max_memory_allocated() / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
