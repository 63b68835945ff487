"""Models without weights that keep the real ones' contracts, for testing what is built on them.

A fake picture is a pure function of prompt and seed; a fake score is a pure function of a picture.
"""

import hashlib
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

import gen.models
import rerank.model.specs
import rerank.reranker  # now: it takes over the default's name when it is imported
from gen.events import Watch
from pipelines import families
from pipelines.checkpoints import specs
from pipelines.drafts import to_image, to_pixels
from pipelines.loading import LoadOptions

SETTINGS = ("negative_prompt", "width", "height", "steps", "guidance", "sampler", "schedule")


def spec(name: str, folder: Path, settings: tuple[str, ...] = SETTINGS) -> specs.Spec:
    """A model that takes these settings; its weights are one small file, so that it has a hash."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.safetensors").write_bytes(name.encode())
    defaults = {
        "width": 64,
        "height": 64,
        "steps": 4,
        "guidance": 3.0,
        "sampler": "euler",
        "schedule": "default",
    }
    return specs.Spec(
        name=name,
        folder=folder,
        kind="latent_diffusion",
        settings=settings,
        defaults={key: value for key, value in defaults.items() if key in settings},
        context=32,
        size_multiple=16,
        max_size=256,
        licence="none",
        draws="noise",
    )


def picture(prompt: str, seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    """What the fake pipeline draws: 16 tiles of colour that only prompt and seed decide."""
    digest = hashlib.sha512(f"{prompt}|{seed}".encode()).digest()
    return Image.frombytes("RGB", (4, 4), digest[:48]).resize(size, Image.Resampling.NEAREST)


def score(image: Any) -> float:
    """What the fake jury says: how bright the first tile is."""
    if isinstance(image, torch.Tensor):  # of a search, (3, H, W)
        image = to_image(image)
    return sum(image.convert("RGB").getpixel((1, 1))) / 765  # type: ignore[arg-type]


class FakeDraft:
    """Candidates in the making."""

    def __init__(self, pipeline: "FakePipeline", prompt: str, seeds: Sequence[int], **facts: Any):
        self.pipeline, self.prompt, self.facts = pipeline, prompt, facts
        self.seeds = tuple(seeds)
        self.total, self.done = facts["steps"], 0
        self.failed: dict[int, str] = {}
        self.log_likelihoods: list[float] | None = None
        self.closed = False
        self.unit = "step"
        self.enlarge: Callable[[torch.Tensor], torch.Tensor] | None = None
        self._images: list[Image.Image | None] | None = None

    def step(self, count: int = 1) -> None:
        assert not self.closed
        assert self.done < self.total
        if len(self.seeds) > self.pipeline.room_in_step:
            raise MemoryError
        time.sleep(self.pipeline.seconds_per_step)
        self.done = min(self.total, self.done + count)
        self.pipeline.steps += 1
        self.pipeline.evaluations += count * len(self.seeds)
        self.pipeline.on_step(self)

    def preview(
        self, indices: Sequence[int] | None = None, exact: bool = False
    ) -> list[Image.Image | None] | None:
        if self.done == 0:
            return None
        self.pipeline.previews += 1
        time.sleep(self.pipeline.seconds_per_preview)
        rough = [picture(self.prompt, seed, self.size) for seed in self.seeds]
        if not exact:  # cheap ones have no colours
            rough = [image.convert("L").convert("RGB") for image in rough]
        return rough if indices is None else [rough[index] for index in indices]

    def split(self) -> tuple["FakeDraft", "FakeDraft"]:
        assert len(self.seeds) > 1
        middle = len(self.seeds) // 2
        halves = []
        for seeds in (self.seeds[:middle], self.seeds[middle:]):
            half = FakeDraft(self.pipeline, self.prompt, seeds, **self.facts)
            half.done, half.enlarge = self.done, self.enlarge
            halves.append(half)
        return halves[0], halves[1]

    def completed(self) -> list[torch.Tensor | None]:
        assert self.done > 0
        self.pipeline.looks += list(self.seeds)
        images = [picture(self.prompt, seed, self.size) for seed in self.seeds]
        pixels = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]
        pairs = zip(self.seeds, pixels, strict=True)
        return [None if seed in self.pipeline.broken_seeds else p for seed, p in pairs]

    def keep(self, indices: Sequence[int]) -> None:
        assert sorted(set(indices)) == list(indices) != []
        self.seeds = tuple(self.seeds[i] for i in indices)

    def branch(self, indices: Sequence[int], seeds: Sequence[int]) -> None:
        assert len(indices) == len(set(seeds))
        assert max(indices) < len(self.seeds)
        self.seeds = tuple(seeds)

    def join(self, other: "FakeDraft") -> None:
        assert other.done == self.done
        self.seeds += other.seeds
        other.close()

    def images(self) -> list[Image.Image | None]:
        assert self.done == self.total
        if self._images is not None:
            return self._images
        self.pipeline.drawn += self.seeds
        self.failed = {s: "not finite" for s in self.seeds if s in self.pipeline.broken_seeds}
        pictures = [picture(self.prompt, seed, self.size) for seed in self.seeds]
        if self.enlarge is not None:
            pictures = [to_image(self.enlarge(to_pixels(each)[None])[0]) for each in pictures]
        self.pipeline.pictures += [weakref.ref(image) for image in pictures]
        self._images = [
            None if seed in self.failed else image
            for seed, image in zip(self.seeds, pictures, strict=True)
        ]
        return self._images

    def pixels(self) -> list[Image.Image]:
        return [image for image in self.images() if image is not None]

    @property
    def size(self) -> tuple[int, int]:
        return self.facts["width"], self.facts["height"]

    def close(self) -> None:
        self.closed = True
        self._images = None

    def __enter__(self) -> "FakeDraft":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FakePipeline:
    """Draws at once, or as slowly and with as little memory as a test wants."""

    device, dtype, attention = "cpu", "float32", "sdpa"

    def __init__(self) -> None:
        self.room_in_begin = self.room_in_step = 10_000  # candidates
        self.seconds_per_step = self.seconds_per_preview = 0.0
        self.broken_seeds: set[int] = set()
        self.on_step: Callable[[FakeDraft], None] = lambda draft: None
        self.steps = self.previews = self.evaluations = 0
        self.drawn: tuple[int, ...] = ()  # seeds, in the order of making
        self.looks: list[int] = []  # seeds, whenever a search looked at them
        self.batches: list[int] = []  # sizes, as begun
        self.settings: list[dict[str, Any]] = []
        self.pictures: list[weakref.ref[Image.Image]] = []

    def begin(self, prompt: str, *, seeds: Sequence[int], **settings: Any) -> FakeDraft:
        if len(seeds) > self.room_in_begin:
            raise MemoryError
        self.batches.append(len(seeds))
        self.settings.append(settings)
        facts = {"steps": 4, "width": 64, "height": 64} | settings
        return FakeDraft(self, prompt, seeds, **facts)

    @property
    def pictures_in_memory(self) -> int:
        return sum(reference() is not None for reference in self.pictures)

    def dropped_text(self, prompt: str) -> str:
        return " ".join(prompt.split()[30:])

    def token_count(self, prompt: str) -> int:
        return len(prompt.split())


class FakeJury:
    """Scores pictures by their brightness."""

    def __init__(self) -> None:
        self.judged = 0
        self.nan_for: Callable[[float], bool] = lambda value: False

    def prepare(self, image: Image.Image) -> Image.Image:
        return image

    def encode(self, images: Iterable[Any], skip_bad: bool = False) -> list[Image.Image]:
        return [Image.open(image) if isinstance(image, Path) else image for image in images]

    def calibrated(self, prompt: str, images: Iterable[Image.Image]) -> list[SimpleNamespace]:
        return [SimpleNamespace(probability=score(image), percentile=99.0) for image in images]

    def check(self, prompt: str, images: Iterable[Image.Image]) -> list[SimpleNamespace]:
        """Every word of the prompt is a claim; the first one holds."""
        claims = [
            SimpleNamespace(claim=SimpleNamespace(text=word, kind="object"), holds=place == 0)
            for place, word in enumerate(prompt.split())
        ]
        return [SimpleNamespace(results=claims, corrected=prompt) for _ in images]

    def score(self, prompt: str, images: Iterable[Image.Image]) -> list[float]:
        values = [score(image) for image in images]
        self.judged += len(values)
        return [float("nan") if self.nan_for(value) else value for value in values]


class Studio:
    """The fakes that stand in for the real models, put where the engine looks for them.

    `set_attribute` and `set_item` are monkeypatch's, or the plain functions in a process that ends
    with the test.
    """

    def __init__(
        self, folder: Path, set_attribute: Callable[..., None], set_item: Callable[..., None]
    ) -> None:
        self.pipelines = {"fake": FakePipeline(), "other": FakePipeline()}
        self.jury = FakeJury()
        self.loads: list[str] = []
        self.folder = folder
        narrow = ("width", "height", "temperature")
        models = (spec("fake", folder / "fake"), spec("other", folder / "other", narrow))
        for model in models:
            set_item(families.shipped(), model.name, model)
            set_item(specs.SHIPPED, model.name, model.folder)
        jury = rerank.model.specs.Spec("fake-jury", folder / "jury")
        set_item(rerank.model.specs.SPECS, jury.name, jury)
        set_attribute(families, "DEFAULT_MODEL", "fake")
        set_attribute(rerank.model.specs, "DEFAULT", "fake-jury")
        (folder / "jury").mkdir(exist_ok=True)
        set_attribute(gen.models, "load_pipeline", self._load_pipeline)
        set_attribute(gen.models, "load_scorer", self._load_jury)

    @property
    def pipeline(self) -> FakePipeline:
        """The default model's."""
        return self.pipelines["fake"]

    def _load_pipeline(self, model: specs.Spec, options: LoadOptions, watch: Watch) -> FakePipeline:
        self.loads.append(model.name)
        return self.pipelines[model.name]

    def _load_jury(self, models: gen.models.Models) -> FakeJury:
        self.loads.append("jury")
        return self.jury
