"""Score pictures against text with CLIP (Radford et al., arXiv 2103.00020) or SigLIP (Zhai et al.,
arXiv 2303.15343)."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TypeAlias

import torch
from torch.nn.functional import normalize
from transformers import SiglipModel

from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.hashes import files_hash
from pipelines.runtime.cpu import speed_up
from pipelines.runtime.devices import is_out_of_memory
from rerank.calibration import calibration
from rerank.calibration.calibration import Calibrated, Calibration
from rerank.claims.checking import Checked, check
from rerank.claims.claims import Claims, split
from rerank.claims.vocabulary import read_vocabulary
from rerank.diversity import pick
from rerank.model import towers
from rerank.model.cores import each_core
from rerank.model.preprocessing import BadImageError, Picture, Preprocessing, read_preprocessing
from rerank.model.specs import DEFAULT, find
from rerank.model.texts import TextReader
from rerank.model.weights import Model, load_model, load_text_reader
from rerank.pictures import Encoded, Images, ahead, list_pictures
from rerank.ranking import Ranked, Ranking, rank

CPU_BATCH = 16  # pictures or texts in one pass: what a core's cache holds
GPU_BATCH = 256
CACHED_TEXTS = 4096

Progress = Callable[[int], None]  # told how many pictures are done

# A batch: of a tensor as it came, (B, 3, H, W); or pictures at the model's size, or their errors.
Prepared: TypeAlias = torch.Tensor | list[torch.Tensor | Exception]


class Reranker:
    """A CLIP or SigLIP model that judges pictures.

    Pictures are PIL images, paths, bytes of files, NumPy arrays (H, W, 3) uint8 and tensors
    (3, H, W), uint8 or floats in [0, 1], on any device. They come in any iterable, which is read
    once and a little ahead, so that it may be a stream of any length; as one tensor (B, 3, H, W);
    as a folder, whose pictures are taken sorted by name; or as what `encode` made of them. Texts of
    any length are scored; see `chunks` for those that are longer than the model's context.

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
        calibration_file: Path | None = None,
    ) -> None:
        self.name = name
        self.folder = folder
        self.device = device
        self.image_size: int = model.config.vision_config.image_size
        self.context = reader.context
        self._model = model.to(device)
        if device.type == "cpu":
            speed_up([model])
        self._reader = reader
        self._preprocessing = preprocessing
        self._batch = CPU_BATCH if device.type == "cpu" else GPU_BATCH
        self._calibration_file = (
            folder / calibration.FILE if calibration_file is None else calibration_file
        )
        self._texts: dict[str, torch.Tensor] = {}  # text → (D,) features; the oldest leave first

    @classmethod
    def load(
        cls,
        name_or_folder: str | Path | None = None,
        device: str | torch.device | None = None,
        *,
        exact: bool = False,
        processor: str | Path | None = None,
        calibration: str | Path | None = None,
    ) -> "Reranker":
        """The model of that name, of a folder in transformers' format, or the shipped one.

        Runs in fp32 on `device`, by default on CUDA where there is one, else on the CPU. `exact`
        resizes pictures bit for bit as transformers' PIL image processors. `processor` names
        another folder for tokenizer and preprocessing, for models that come without (PickScore's is
        known); `calibration` another file than the model's own calibration.json, read when first
        needed. Warns of a licence that forbids commercial use.
        Raises WeightsError when the weights are missing, damaged or do not fit, ValueError for a
        device that is not there.
        """
        spec = find(DEFAULT if name_or_folder is None else name_or_folder)
        if spec.forbids_commerce:
            warnings.warn(
                f"the licence of {spec.name}, {spec.licence}, forbids commercial use", stacklevel=2
            )
        chosen = _pick_device(device)
        model = load_model(spec.folder)
        processor = spec.processor if processor is None else processor
        folder = spec.folder if processor is None else find(processor).folder
        size = model.config.vision_config.image_size
        return cls(
            model,
            load_text_reader(folder, model),
            read_preprocessing(folder, size, exact=exact),
            name=spec.name,
            folder=spec.folder,
            device=chosen,
            calibration_file=None if calibration is None else Path(calibration),
        )

    # ---- scores

    def score(
        self,
        prompt: str,
        images: Images,
        *,
        templates: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> list[float]:
        """The cosine of each picture with the prompt, in [-1, 1].

        `templates`, such as "a photo of {}.", make the mean of the prompt in each of them. nan
        where the model gave no finite number. Raises BadImageError, which names it, for a picture
        that cannot be read.
        """
        return self.similarity([prompt], images, templates=templates, progress=progress)[0].tolist()

    def logits(self, prompt: str, images: Images) -> list[float]:
        """The scores on the scale that the model was trained with: cosine x scale + bias.

        CLIP has no bias; the sigmoid of SigLIP's logit is its own probability of a match.
        """
        return [self.scale * score + self.bias for score in self.score(prompt, images)]

    def similarity(
        self,
        prompts: Sequence[str],
        images: Images,
        *,
        templates: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> torch.Tensor:
        """The cosines of P prompts with N pictures: (P, N) fp32 on the CPU, nan as in `score`."""
        texts = self.text_features(prompts, templates)
        cosines = texts @ self.encode(images, progress=progress).features.T
        return cosines.clamp(-1, 1).cpu()  # rounding can carry them a little over 1

    def classify(
        self,
        images: Images,
        labels: Sequence[str],
        *,
        templates: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> list[dict[str, float]]:
        """Zero-shot probabilities of the labels for each picture, the likeliest first.

        The softmax of the logits, as in the article (§3.1): they sum to 1, so that one of the
        labels is assumed to be right.
        """
        if len(set(labels)) != len(labels) or not labels:
            raise ValueError("labels are different texts, at least one")
        cosines = self.similarity(labels, images, templates=templates, progress=progress)
        rows = (self.scale * cosines).softmax(0).T.tolist()
        return [
            dict(sorted(zip(labels, row, strict=True), key=lambda pair: -pair[1])) for row in rows
        ]

    def top_k(
        self,
        prompt: str,
        images: Images,
        k: int,
        *,
        diversity: float = 0.0,
        calibrate: bool = False,
        templates: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Ranking:
        """The k best pictures, best first; of equals the first comes first.

        `diversity` in [0, 1] trades score for variety (maximal marginal relevance) and groups
        near-duplicates; `calibrate` adds what the scores mean (see `calibrated`). Fewer when there
        are fewer, or when the score of some is not finite. Raises ValueError when k < 1, and
        BadImageError.
        """
        if k < 1:
            raise ValueError(f"k is {k}; at least 1 picture must be asked for")
        if not 0 <= diversity <= 1:
            raise ValueError(f"diversity is {diversity}; it lies in [0, 1]")
        encoded = self.encode(images, progress=progress)
        scores = self.score(prompt, encoded, templates=templates)
        ranked = rank(scores)
        if diversity > 0:
            order = [each.index for each in ranked]
            chosen = pick(order, scores, encoded.features, k, diversity)
            ranked = [Ranked(index, scores[index], alike=alike) for index, alike in chosen]
        none_matches = None
        if calibrate:
            meanings = self.calibrated(prompt, encoded)
            none_matches = not any(
                each.probability >= calibration.NONE_MATCHES for each in meanings
            )
            ranked = [
                replace(
                    each,
                    percentile=meanings[each.index].percentile,
                    probability=meanings[each.index].probability,
                )
                for each in ranked[:k]
            ]
        return Ranking(
            ranked[:k],
            chunks=len(self.chunks(prompt)),
            none_matches=none_matches,
            failed=encoded.failed,
        )

    # ---- what scores mean

    def calibrated(self, prompt: str, images: Images) -> list[Calibrated]:
        """What the score of each picture means: a percentile and the probability of a match.

        The score is placed among those of the same picture with unrelated captions and with the
        prompt's changed versions. Raises WeightsError when the model has no calibration.json.
        """
        encoded = self.encode(images)
        captions = [caption for caption in self.calibration.captions if caption != prompt]
        changed = self.claims(prompt).changed(calibration.CHANGES)
        table = self.similarity([prompt, *captions, *changed], encoded)
        unrelated, versions = table[1 : 1 + len(captions)], table[1 + len(captions) :]
        return self.calibration.read(table[0], unrelated, versions, self.scale)

    @cached_property
    def calibration(self) -> Calibration:
        """What scores mean. Raises WeightsError: no such file, or one for other weights."""
        path = self._calibration_file
        found = calibration.read(path)
        if found.weights != files_hash(self.folder):
            raise WeightsError(
                f"{path}: was made for other weights; `rerank calibrate` makes it again"
            )
        return found

    def claims(self, prompt: str) -> Claims:
        """The prompt taken apart into claims, by the words of the model's vocabulary.json where it
        has one, else by plain English; `.unparsed` says what was not understood."""
        return split(prompt, read_vocabulary(self.folder))

    def check(self, prompt: str, images: Images) -> list[Checked]:
        """For each picture, whether each claim of the prompt holds in it, and the prompt mended
        until it fits the picture best, one claim at a time."""
        features = self.encode(images).features
        claims = self.claims(prompt)
        return [
            check(claims, self.claims, lambda texts, row=row: self.text_features(texts) @ row)  # type: ignore[misc]
            for row in features
        ]

    # ---- features

    @property
    def encoder(self) -> "Reranker":
        """Itself: as a member of a Panel, it scores its own features."""
        return self

    @property
    def scale(self) -> float:
        """What cosines are multiplied with to be logits."""
        return self._model.logit_scale.exp().item()

    @property
    def bias(self) -> float:
        """What is then added; 0 for CLIP."""
        return self._model.logit_bias.item() if isinstance(self._model, SiglipModel) else 0.0

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
        """The pictures as the model sees them: every other method takes the result in their place,
        so that they are read once and judged many times.

        Files are decoded by threads, a little ahead; `progress` is told the number of pictures
        done, now and then. A picture that cannot be read raises BadImageError; `skip_bad` notes it
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

    def prepare(self, image: Picture) -> torch.Tensor:
        """One picture as (3, H, W) uint8 at the model's size, which every method here accepts.

        For reading pictures one by one, so that a bad one (BadImageError) does not stop the others.
        """
        return self._preprocessing.prepare(image, self.device)

    def chunks(self, prompt: str) -> list[str]:
        """The parts of the prompt that are scored: one, or more when it exceeds the context.

        Parts break between words and fill the context. The feature of a long prompt is the mean
        of its parts' features, weighted by their number of tokens.
        """
        [parts] = self._reader.chunks([prompt])
        return [text for _, text in parts]

    @property
    def _width(self) -> int:
        """D."""
        config = self._model.config
        # SigLIP's pictures keep the width of their tower.
        return getattr(config, "projection_dim", None) or config.vision_config.hidden_size

    def _no_features(self) -> torch.Tensor:
        return torch.empty(0, self._width, device=self.device)

    def _prepared_batches(self, images: Images) -> Iterator[Prepared]:
        if isinstance(images, torch.Tensor):
            for start in range(0, len(images), self._batch):
                yield images[start : start + self._batch]
            return
        if isinstance(images, str | os.PathLike):
            images = list_pictures(images)
        if isinstance(images, bytes) or not isinstance(images, Iterable):
            raise ValueError(f"images are a list of pictures, not one {type(images).__name__}")
        prepared = ahead(images, self.prepare, BadImageError)
        while batch := list(islice(prepared, self._batch)):
            yield batch

    def _encoded_batches(
        self, batches: Iterator[Prepared]
    ) -> Iterator[tuple[torch.Tensor, dict[int, Exception]]]:
        """The features (B, D) of each batch, and what is wrong with which of its pictures."""
        begun = list(islice(batches, 2))
        if self.device.type == "cpu" and len(begun) == 2:  # one alone is for all cores together
            return each_core(chain(begun, batches), self._encode_batch)
        return map(self._encode_batch, chain(begun, batches))

    @torch.no_grad()
    def _encode_batch(self, batch: Prepared) -> tuple[torch.Tensor, dict[int, Exception]]:
        """Of pictures with an error in their place the features are nan."""
        if isinstance(batch, torch.Tensor):
            pictures = self._preprocessing.prepare_batch(batch, self.device)
            return self._encode_pictures(pictures), {}
        bad = {i: each for i, each in enumerate(batch) if isinstance(each, Exception)}
        good = {i: each for i, each in enumerate(batch) if isinstance(each, torch.Tensor)}
        rows = self._no_features().new_full((len(batch), self._width), torch.nan)
        if good:
            stacked = torch.stack([each.to(self.device) for each in good.values()])
            rows[list(good)] = self._encode_pictures(stacked)
        return rows, bad

    def _encode_pictures(self, pictures: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) uint8, prepared → (B, D); from now on fewer at once when memory is short."""
        rows: list[torch.Tensor] = []
        start = 0
        while start < len(pictures):
            part = pictures[start : start + self._batch]
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


def _pick_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"no device {str(device)!r} here: use cpu, or cuda with a GPU") from error
    return chosen
