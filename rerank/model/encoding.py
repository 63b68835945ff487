"""Features of images and texts: how a CLIP or SigLIP model is run on many of either."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TypeAlias

import torch
from torch.nn.functional import normalize

from pipelines.images import BadImageError
from pipelines.runtime.cpu import speed_up
from pipelines.runtime.devices import is_out_of_memory
from rerank.images import Encoded, Images, ahead, list_images
from rerank.model import towers
from rerank.model.cores import each_core
from rerank.model.preprocessing import ImageLike, Preprocessing
from rerank.model.texts import TextReader
from rerank.model.weights import Model, image_size

CPU_BATCH = 16  # images or texts in one pass: what a core's cache holds
GPU_BATCH = 256
CACHED_TEXTS = 4096

Progress = Callable[[int], None]  # told how many images are done

# A batch: of a tensor as it came, (B, 3, H, W); or images at the model's size, or their errors.
Prepared: TypeAlias = torch.Tensor | list[torch.Tensor | Exception]


class Encoder:
    """A model that turns images and texts into vectors of length 1.

    Attributes: `name` of the model, `folder` it came from, `device`, `image_size` in pixels a side,
    `context` in tokens, start and end included.
    """

    def __init__(
        self,
        model: Model,
        reader: TextReader,
        preprocessing: Preprocessing,
        *,
        name: str,
        folder: Path,
        device: torch.device,
    ) -> None:
        self.name = name
        self.folder = folder
        self.image_size = image_size(model)
        self.context = reader.context
        self._model = model
        self.to(device)
        if device.type == "cpu":
            speed_up([model])
        self._reader = reader
        self._preprocessing = preprocessing

    def to(self, device: torch.device) -> None:
        """Run on another device from now on."""
        self.device = device
        self._model.to(device)
        self._batch = CPU_BATCH if device.type == "cpu" else GPU_BATCH
        self._texts: dict[str, torch.Tensor] = {}  # text → (D,) features; the oldest leave first

    @torch.no_grad()
    def text_features(self, prompts: Sequence[str], templates: Sequence[str] = ()) -> torch.Tensor:
        """(P, D) fp32 of length 1 on the device; remembered for the next call.

        With templates: of each prompt, the mean over all of them, of length 1 again.
        """
        if isinstance(prompts, str) or isinstance(templates, str):
            raise ValueError("prompts, and templates, are a list of texts, not one text")
        if not prompts:
            return self._no_features()
        if templates:
            if unfit := [template for template in templates if template.count("{}") != 1]:
                raise ValueError(f"template {unfit[0]!r} has not one {{}} for the prompt")
            texts = [t.replace("{}", prompt) for prompt in prompts for t in templates]
            means = self.text_features(texts).unflatten(0, (len(prompts), len(templates))).mean(1)
            return normalize(means, dim=-1, eps=0)
        unknown = iter([p for p in dict.fromkeys(prompts) if p not in self._texts])
        while batch := list(islice(unknown, self._batch)):
            self._texts.update(zip(batch, self._encode_texts(batch), strict=True))
        features = torch.stack([self._texts[prompt] for prompt in prompts])
        while len(self._texts) > CACHED_TEXTS:
            del self._texts[next(iter(self._texts))]
        return features

    def image_features(self, images: Images) -> torch.Tensor:
        """(N, D) fp32 of length 1 on the device; not finite where the model failed."""
        return self.encode(images).features

    @torch.no_grad()
    def encode(
        self, images: Images, *, progress: Progress | None = None, skip_bad: bool = False
    ) -> Encoded:
        """Encode images as the model sees them: every other method takes the result in their place,
        so that they are read once and scored many times.

        Files are decoded by threads, a little ahead; `progress` is told the number of images
        done, now and then. An image that cannot be read raises BadImageError; `skip_bad` notes it
        in `.failed` instead, and its scores are nan.
        """
        if isinstance(images, Encoded):
            return images
        features, failed, done = [self._no_features()], dict[int, str](), 0
        for rows, bad in self._encoded_batches(self._prepared_batches(images)):
            if bad and not skip_bad:
                raise next(iter(bad.values()))
            failed |= {done + index: str(error) for index, error in bad.items()}
            features.append(rows)
            done += len(rows)
            if progress is not None:
                progress(done)
        return Encoded(torch.cat(features), failed)

    def prepare(self, image: ImageLike) -> torch.Tensor:
        """One image as (3, H, W) uint8 at the model's size, which every method here accepts.

        For reading images one by one, so that a bad one (BadImageError) does not stop the others.
        """
        return self._preprocessing.prepare(image, self.device)

    def chunks(self, prompt: str) -> list[str]:
        """Return the parts of the prompt that are scored: one, or more when it exceeds the context.

        Parts break between words and fill the context. The feature of a long prompt is the mean
        of its parts' features, weighted by their number of tokens.
        """
        [parts] = self._reader.chunks([prompt])
        return [text for _, text in parts]

    @property
    def width(self) -> int:
        """D, of the features."""
        config = self._model.config
        # SigLIP's images keep the width of their tower.
        return getattr(config, "projection_dim", None) or config.vision_config.hidden_size

    def _no_features(self) -> torch.Tensor:
        return torch.empty(0, self.width, device=self.device)

    def _prepared_batches(self, images: Images) -> Iterator[Prepared]:
        if isinstance(images, torch.Tensor):
            for start in range(0, len(images), self._batch):
                yield images[start : start + self._batch]
            return
        if isinstance(images, str | os.PathLike):
            images = list_images(images)
        if isinstance(images, bytes) or not isinstance(images, Iterable):
            raise ValueError(f"images are a list of images, not one {type(images).__name__}")
        prepared = ahead(images, self.prepare, BadImageError)
        while batch := list(islice(prepared, self._batch)):
            yield batch

    def _encoded_batches(
        self, batches: Iterator[Prepared]
    ) -> Iterator[tuple[torch.Tensor, dict[int, Exception]]]:
        """Return the features (B, D) of each batch, and what is wrong with which of its images."""
        begun = list(islice(batches, 2))
        if self.device.type == "cpu" and len(begun) == 2:  # one alone is for all cores together
            return each_core(chain(begun, batches), self._encode_batch)
        return map(self._encode_batch, chain(begun, batches))

    @torch.no_grad()
    def _encode_batch(self, batch: Prepared) -> tuple[torch.Tensor, dict[int, Exception]]:
        """Of images with an error in their place the features are nan."""
        if isinstance(batch, torch.Tensor):
            images = self._preprocessing.prepare_batch(batch, self.device)
            return self._encode_images(images), {}
        bad = {i: each for i, each in enumerate(batch) if isinstance(each, Exception)}
        good = {i: each for i, each in enumerate(batch) if isinstance(each, torch.Tensor)}
        rows = self._no_features().new_full((len(batch), self.width), torch.nan)
        shapes: dict[torch.Size, list[int]] = {}  # one, but for models that read images of any
        for i, each in good.items():
            shapes.setdefault(each.shape, []).append(i)
        for alike in shapes.values():
            stacked = torch.stack([good[i].to(self.device) for i in alike])
            rows[alike] = self._encode_images(stacked)
        return rows, bad

    def _encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) uint8, prepared → (B, D); from now on fewer at once when memory is short."""
        rows: list[torch.Tensor] = []
        start = 0
        while start < len(images):
            part = images[start : start + self._batch]
            try:
                pixels = self._preprocessing.normalise(part)
                rows.append(towers.image_features(self._model, pixels))
            except RuntimeError as error:
                if len(part) == 1 or not is_out_of_memory(error):
                    raise
                self._batch = min(self._batch, len(part) // 2)  # another core may know better
            else:
                start += len(part)
        return torch.cat(rows)

    def _encode_texts(self, prompts: Sequence[str]) -> torch.Tensor:
        """P prompts → (P, D)."""
        chunks = [[ids for ids, _ in parts] for parts in self._reader.chunks(prompts)]
        flat = [ids for parts in chunks for ids in parts]
        rows = torch.tensor(self._reader.rows(flat), device=self.device)
        around = len(self._reader.start) + len(self._reader.end)
        lengths = torch.tensor([[len(ids) + around] for ids in flat], device=self.device)
        features = towers.text_features(self._model, rows) * lengths
        sums = [part.sum(0) for part in features.split([len(parts) for parts in chunks])]
        return normalize(torch.stack(sums), dim=-1, eps=0)
