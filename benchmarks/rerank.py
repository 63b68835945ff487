"""Scoring pictures, ours against transformers and open_clip.

The same architecture, prompt and pictures on all sides, from JPEG files and from one tensor: the
shipped CLIP, and a ViT-B/32 with random weights. Each side runs in a process of its own, in turns;
a peer runs at the batch size and threads that are fastest for it, ours as it is installed.

    python -m benchmarks.rerank
    python -m benchmarks.rerank --open-clip-python OTHER_ENVIRONMENT/bin/python
    python -m benchmarks.rerank --quick

open_clip needs torchvision, which may not share an environment with transformers unless both fit
the installed torch, so it is given the Python of another environment. Printed are pictures a
second (the median of the rounds), the ratio to each peer (the median of the rounds' ratios), the
share of the measured peak of matrix products, peak memory, and the seconds from starting a process
to its first score.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from rerank.model.specs import DEFAULT, SPECS

ROOT = Path(__file__).resolve().parent.parent
THREADS = os.cpu_count() or 1
BATCHES = (16, 64, 256)
WHAT = ("files", "tensors")
TRANSFORMERS_SCRIPT = """
import sys, torch
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
folder, file = sys.argv[1:]
model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
with torch.inference_mode():
    output = model(
        **CLIPTokenizer.from_pretrained(folder)("a red fox", return_tensors="pt"),
        **CLIPImageProcessorPil.from_pretrained(folder)(Image.open(file), return_tensors="pt"),
    )
print((output.text_embeds @ output.image_embeds.T).item())
"""
OUR_SCRIPT = """
import sys
from rerank import Reranker
folder, file = sys.argv[1:]
print(Reranker.load(folder, "cpu").score("a red fox", [file])[0])
"""


@dataclass(frozen=True)
class Setting:
    """How a peer runs: pictures in one pass, threads that prepare pictures (0: none of their own),
    threads of torch."""

    batch: int
    decoders: int
    threads: int


class Side:
    """A worker process."""

    def __init__(self, kind: str, python: str, folder: Path, pictures: Path) -> None:
        worker = ["-m", "benchmarks.rerank_worker"]
        if kind == "open_clip":
            worker = [str(ROOT / "benchmarks" / "rerank_worker.py")]
        self.kind = kind
        self.setting = Setting(0, 0, THREADS)
        self._process = subprocess.Popen(
            [python, *worker, kind, str(folder), str(pictures)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, cwd=ROOT if kind != "open_clip" else pictures,
        )  # fmt: skip
        self._read()

    def run(self, what: str, count: int, setting: Setting | None = None) -> dict[str, Any]:
        """One job: seconds, scores, memory."""
        chosen = self.setting if setting is None else setting
        job = {"what": what, "count": count, **chosen.__dict__}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return self._read()

    def tune(self, what: str, count: int) -> None:
        """Keep the fastest setting."""
        if self.kind == "salon":
            return
        settings = [Setting(*each) for each in product(BATCHES, (0, THREADS), {1, THREADS})]
        seconds = {each: self.run(what, count, each)["seconds"] for each in settings}
        self.setting = min(settings, key=lambda each: seconds[each])

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"the process of {self.kind} ended: run it by hand to see why")


def compare(name: str, folder: Path, options: argparse.Namespace, pictures: Path) -> None:
    """Print all figures for one model."""
    kinds = {"salon": sys.executable, "transformers": sys.executable}
    if options.open_clip_python is not None:
        kinds["open_clip"] = str(options.open_clip_python)
    sides = [Side(kind, python, folder, pictures) for kind, python in kinds.items()]
    gflops = sides[0].run("peak", 0)["gflops"]
    work = flops(folder)
    print(f"{name}: {work / 1e9:.2f} GFLOP a picture; peak {gflops:.0f} GFLOP/s, {THREADS} threads")
    for what in WHAT:
        for side in sides:
            side.run(what, min(64, options.pictures))
            side.tune(what, min(options.tune, options.pictures))
        runs: dict[str, list[dict[str, Any]]] = {side.kind: [] for side in sides}
        for _ in range(options.rounds):
            for side in sides:
                runs[side.kind].append(side.run(what, options.pictures))
        ours = [run["seconds"] for run in runs["salon"]]
        for side in sides:
            seconds = [run["seconds"] for run in runs[side.kind]]
            rate = options.pictures / median(seconds)
            ratio = median(theirs / own for theirs, own in zip(seconds, ours, strict=True))
            how = "" if side.kind == "salon" else f"  ours {ratio:.2f}x  {side.setting}"
            share = rate * work / gflops / 1e9
            memory = max(run["memory"] for run in runs[side.kind])
            print(
                f"  {what:8} {side.kind:13}{rate:7.1f} pictures/s  {share:4.0%} of peak  "
                f"{memory:6.0f} MB{how}"
            )
        difference = np.abs(
            np.subtract(runs["salon"][0]["scores"], runs["transformers"][0]["scores"])
        )
        print(
            f"  {what:8} scores differ by {difference.mean():.5f}, at most {difference.max():.5f}"
        )
    for side in sides:
        side.close()
    cold(folder, next(pictures.iterdir()), options.rounds)


def cold(folder: Path, file: Path, rounds: int) -> None:
    """Seconds from starting Python to the first score."""
    scripts = {"salon": OUR_SCRIPT, "transformers": TRANSFORMERS_SCRIPT}
    seconds: dict[str, list[float]] = {name: [] for name in scripts}
    for number in range(rounds + 1):
        for name, script in scripts.items():
            begin = time.perf_counter()
            command = [sys.executable, "-c", script, str(folder), str(file)]
            subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
            if number > 0:  # the first one warms the file cache
                seconds[name].append(time.perf_counter() - begin)
    ratio = median(t / o for o, t in zip(seconds["salon"], seconds["transformers"], strict=True))
    told = ", ".join(f"{name} {median(each):.2f} s" for name, each in seconds.items())
    print(f"  first score from a cold start: {told}; ours {ratio:.2f}x")


def flops(folder: Path) -> float:
    """Of the matrix products of one picture in the whole vision tower."""
    config = json.loads((folder / "config.json").read_text())
    vision = config["vision_config"]
    width, patch = vision["hidden_size"], vision["patch_size"]
    patches = (vision["image_size"] // patch) ** 2
    tokens = patches + 1
    layer = tokens * (4 * width**2 + 2 * width * vision["intermediate_size"])
    attention = 2 * tokens**2 * width
    layers = vision["num_hidden_layers"] * (layer + attention)
    return 2.0 * (layers + patches * 3 * patch**2 * width + width * config["projection_dim"])


def make_pictures(folder: Path, count: int, side: int) -> None:
    """JPEG files: smooth colours, edges and noise; no two alike."""
    folder.mkdir()
    for number in range(count):
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
        pixels = np.array(coarse.resize((side, side), Image.Resampling.BICUBIC)).astype(int)
        pixels += rng.integers(-12, 13, pixels.shape)
        top, left = rng.integers(0, side // 2, 2)
        pixels[top : top + side // 3, left : left + side // 4] = rng.integers(0, 256, 3)
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        image.save(folder / f"{number:04}.jpg", quality=90)


def make_vit_b_32(folder: Path) -> None:
    """Return the architecture of openai/clip-vit-base-patch32, with random weights and the shipped
    CLIP's tokenizer."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(SPECS[DEFAULT].folder)
    text = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=512)
    parser.add_argument("--side", type=int, default=512, help="pixels of the pictures (512)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each side (5)")
    parser.add_argument("--tune", type=int, default=128, help="pictures to try settings on (128)")
    parser.add_argument("--models", nargs="+", choices=("shipped", "vit-b-32"),
                        default=["shipped", "vit-b-32"])  # fmt: skip
    parser.add_argument("--open-clip-python", type=Path, help="of an environment with open_clip")
    parser.add_argument("--quick", action="store_true", help="only show that it runs")
    options = parser.parse_args(argv)
    if options.quick:
        options.pictures, options.rounds, options.tune = 32, 1, 16
    with tempfile.TemporaryDirectory() as place:
        pictures = Path(place) / "pictures"
        make_pictures(pictures, options.pictures, options.side)
        print(f"{options.pictures} pictures of {options.side} px, {options.rounds} rounds")
        for name in options.models:
            folder = SPECS[DEFAULT].folder
            if name == "vit-b-32":
                folder = Path(place) / name
                make_vit_b_32(folder)
            compare(name, folder, options, pictures)


if __name__ == "__main__":
    main()
