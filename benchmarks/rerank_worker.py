"""One side of benchmarks/rerank.py, in a process of its own: reads jobs, a JSON object a line, and
answers each with its seconds and the peak memory. Run by open_clip's own Python as well, so it
imports nothing of Salon unless it is to measure Salon.
"""

import importlib.util
import json
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL import Image

PROMPT = "a red fox"

Prepare = Callable[[Any], torch.Tensor]


class Salon:
    """Ours, as it is installed."""

    def __init__(self, folder: Path) -> None:
        from rerank import Reranker

        self.jury = Reranker.load(folder, "cpu")

    def score(self, pictures: Any, batch: int, decoders: int) -> list[float]:
        """Return the scores; batch and threads are its own."""
        return self.jury.score(PROMPT, pictures)


class Peer:
    """A stock model: pictures are prepared one by one, in threads if that is faster."""

    prepare: Prepare
    encode: Callable[[torch.Tensor], torch.Tensor]
    text: torch.Tensor

    @torch.inference_mode()
    def score(self, pictures: Any, batch: int, decoders: int) -> list[float]:
        """Return the scores at a batch size and a number of threads that prepare."""
        features = [
            torch.nn.functional.normalize(self.encode(torch.stack(part)), dim=-1)
            for part in _parts(_mapped(self.prepare, pictures, decoders), batch)
        ]
        return (torch.cat(features) @ self.text).tolist()


class Transformers(Peer):
    """CLIPModel with its PIL image processor."""

    def __init__(self, folder: Path) -> None:
        from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

        model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
        processor = CLIPImageProcessorPil.from_pretrained(folder)
        tokens = CLIPTokenizer.from_pretrained(folder)(PROMPT, return_tensors="pt")
        with torch.inference_mode():
            text = model.get_text_features(**tokens).pooler_output[0]
        self.text = torch.nn.functional.normalize(text, dim=-1)
        self.encode = lambda pixels: model.get_image_features(pixels).pooler_output

        def prepare(picture: Any) -> torch.Tensor:
            if isinstance(picture, str):
                picture = Image.open(picture)
            return processor(picture, return_tensors="pt")["pixel_values"][0]

        self.prepare = prepare


class OpenClip(Peer):
    """open_clip's CLIP of the same sizes, random weights, with its transform."""

    def __init__(self, folder: Path) -> None:
        _define_operators_of_torchvision()
        import open_clip
        from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

        config = json.loads((folder / "config.json").read_text())
        text, vision = config["text_config"], config["vision_config"]
        model = CLIP(
            config["projection_dim"],
            CLIPVisionCfg(
                layers=vision["num_hidden_layers"],
                width=vision["hidden_size"],
                head_width=vision["hidden_size"] // vision["num_attention_heads"],
                patch_size=vision["patch_size"],
                image_size=vision["image_size"],
            ),
            CLIPTextCfg(
                context_length=text["max_position_embeddings"],
                vocab_size=text["vocab_size"],
                width=text["hidden_size"],
                heads=text["num_attention_heads"],
                layers=text["num_hidden_layers"],
            ),
            quick_gelu=vision["hidden_act"] == "quick_gelu",
        ).eval()
        transform = open_clip.image_transform(vision["image_size"], is_train=False)
        from torchvision.transforms.functional import to_pil_image

        ids = torch.zeros(1, text["max_position_embeddings"], dtype=torch.long)
        with torch.inference_mode():
            self.text = torch.nn.functional.normalize(model.encode_text(ids)[0], dim=-1)
        self.encode = model.encode_image

        def prepare(picture: Any) -> torch.Tensor:
            if isinstance(picture, str):
                return transform(Image.open(picture))
            return transform(to_pil_image(picture))

        self.prepare = prepare


def _define_operators_of_torchvision() -> None:
    """Without a CUDA build of torch, torchvision cannot load its compiled operators, and then fails
    to import; its transforms need none of them. So they are declared, and never called."""
    import contextlib

    folder = Path(next(iter(importlib.util.find_spec("torchvision").submodule_search_locations)))
    text = (folder / "_meta_registrations.py").read_text()
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in set(re.findall(r'(?:@register_meta\("|torchvision::)(\w+)', text)):
        with contextlib.suppress(RuntimeError):  # it is there
            library.define(f"{name}(Tensor x) -> Tensor")
    _define_operators_of_torchvision.library = library  # type: ignore[attr-defined]


def _mapped(work: Prepare, items: Any, threads: int) -> Iterator[torch.Tensor]:
    if threads == 0:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(work, items)


def _parts(items: Iterator[torch.Tensor], size: int) -> Iterator[list[torch.Tensor]]:
    part: list[torch.Tensor] = []
    for item in items:
        part.append(item)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def peak(threads: int) -> float:
    """GFLOP/s of a large matrix product, the best of ten."""
    a, b = torch.randn(2, 1024, 1024)
    seconds = min(_timed(lambda: a @ b)[0] for _ in range(10))
    return 2 * 1024**3 / seconds / 1e9


def _timed(job: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = job()
    return time.perf_counter() - begin, result


def answer(side: Any, job: dict[str, Any], files: Sequence[str], tensors: torch.Tensor) -> Any:
    """Do one job."""
    torch.set_num_threads(job["threads"])
    if job["what"] == "peak":
        return {"gflops": peak(job["threads"])}
    pictures = list(files) if job["what"] == "files" else tensors
    pictures = pictures[: job["count"]]
    seconds, scores = _timed(lambda: side.score(pictures, job["batch"], job["decoders"]))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "scores": scores, "memory": memory}


def main() -> None:
    """KIND MODEL_FOLDER PICTURES_FOLDER, then jobs on standard input."""
    kind, folder, pictures = sys.argv[1:]
    side = {"salon": Salon, "transformers": Transformers, "open_clip": OpenClip}[kind](Path(folder))
    files = sorted(map(str, Path(pictures).iterdir()))
    import numpy as np

    arrays = np.stack([np.array(Image.open(file).convert("RGB")) for file in files])
    tensors = torch.from_numpy(arrays).permute(0, 3, 1, 2).contiguous()
    del arrays
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(side, json.loads(line), files, tensors)), flush=True)


if __name__ == "__main__":
    main()
