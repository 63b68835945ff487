"""Score pictures against text with CLIP (Radford et al. 2021, arXiv:2103.00020)."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch
from torch.nn.functional import normalize
from transformers import CLIPModel, CLIPTokenizer

from rerank.preprocessing import Picture, Preprocessing, read_preprocessing
from rerank.specs import DEFAULT, find
from rerank.weights import load_clip, load_tokenizer

BATCH = 32  # pictures or texts in one forward pass
CACHED_TEXTS = 4096
# Cosines this close are equal: copies of one picture differ by 1e-7 with their place in the batch.
TIE = 1e-6

Item = TypeVar("Item")


@dataclass(frozen=True)
class Ranked:
    """The place of a picture in the list that was judged, and its score."""

    index: int
    score: float


class Reranker:
    """A CLIP model that judges pictures.

    Pictures are PIL images, paths, NumPy arrays (H, W, 3) uint8 and tensors (3, H, W) uint8 on any
    device, in any iterable, which is read a batch at a time; or one tensor (B, 3, H, W) uint8.
    Texts of any length are scored; see `chunks` for those that are longer than the model's context.

    Attributes: `name` of the model, `folder` it came from, `device`, `image_size` in pixels a side,
    `context` in tokens, start and end included.
    """

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: CLIPTokenizer,
        preprocessing: Preprocessing,
        *,
        name: str,
        folder: Path,
        device: torch.device,
    ) -> None:
        self.name = name
        self.folder = folder
        self.device = device
        self.image_size: int = model.config.vision_config.image_size
        self.context: int = model.config.text_config.max_position_embeddings
        self._model = model.to(device)
        self._tokenizer = tokenizer
        self._preprocessing = preprocessing
        self._texts: dict[str, torch.Tensor] = {}  # text → (D,) features; the oldest leave first

    @classmethod
    def load(
        cls, name_or_folder: str | Path | None = None, device: str | torch.device | None = None
    ) -> "Reranker":
        """The model of that name, of a `transformers.CLIPModel` folder, or the shipped one.

        Runs in fp32 on `device`, by default on CUDA where there is one, else on the CPU. Raises
        WeightsError when the weights are missing, damaged or do not fit, ValueError for a device
        that is not there.
        """
        spec = find(DEFAULT if name_or_folder is None else name_or_folder)
        chosen = _pick_device(device)
        model = load_clip(spec.folder)
        return cls(
            model,
            load_tokenizer(spec.folder, model),
            read_preprocessing(spec.folder, model.config.vision_config.image_size),
            name=spec.name,
            folder=spec.folder,
            device=chosen,
        )

    def score(self, prompt: str, images: Iterable[Picture] | torch.Tensor) -> list[float]:
        """The cosine of each picture with the prompt, in [-1, 1].

        nan where the model gave no finite number. Raises BadImageError, which names it, for a
        picture that cannot be read.
        """
        return self.similarity([prompt], images)[0].tolist()

    def logits(self, prompt: str, images: Iterable[Picture] | torch.Tensor) -> list[float]:
        """The scores on the scale that the model was trained with: cosine x exp(logit_scale)."""
        scale = self._model.logit_scale.exp().item()
        return [scale * score for score in self.score(prompt, images)]

    def top_k(self, prompt: str, images: Iterable[Picture] | torch.Tensor, k: int) -> list[Ranked]:
        """The k best pictures, best first; of equals the first comes first.

        Fewer when there are fewer, or when the score of some is not finite. Raises ValueError when
        k < 1, and BadImageError.
        """
        if k < 1:
            raise ValueError(f"k is {k}; at least 1 picture must be asked for")
        return rank(self.score(prompt, images))[:k]

    def similarity(
        self, prompts: Sequence[str], images: Iterable[Picture] | torch.Tensor
    ) -> torch.Tensor:
        """The cosines of P prompts with N pictures: (P, N) fp32 on the CPU, nan as in `score`."""
        cosines = self.text_features(prompts) @ self.image_features(images).T
        return cosines.clamp(-1, 1).cpu()  # rounding can carry them a little over 1

    @torch.no_grad()
    def text_features(self, prompts: Sequence[str]) -> torch.Tensor:
        """(P, D) fp32 of length 1 on the device; remembered for the next call."""
        if isinstance(prompts, str):
            raise ValueError("prompts are a list of texts, not one text")
        if not prompts:
            return self._no_features()
        unknown = (prompt for prompt in dict.fromkeys(prompts) if prompt not in self._texts)
        for batch in _batched(unknown):
            self._texts.update(zip(batch, self._encode_texts(batch), strict=True))
        features = torch.stack([self._texts[prompt] for prompt in prompts])
        while len(self._texts) > CACHED_TEXTS:
            del self._texts[next(iter(self._texts))]
        return features

    @torch.no_grad()
    def image_features(self, images: Iterable[Picture] | torch.Tensor) -> torch.Tensor:
        """(N, D) fp32 of length 1 on the device; not finite where the model failed."""
        features = [self._encode_pictures(batch) for batch in self._prepared_batches(images)]
        return torch.cat(features) if features else self._no_features()

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
        return [text for _, text in self._chunks(prompt)]

    def _no_features(self) -> torch.Tensor:
        return torch.empty(0, self._model.config.projection_dim, device=self.device)

    def _prepared_batches(self, images: Iterable[Picture] | torch.Tensor) -> Iterator[torch.Tensor]:
        """(up to BATCH, 3, H, W) uint8 at the model's size, on the device."""
        if isinstance(images, torch.Tensor):
            for start in range(0, len(images), BATCH):
                yield self._preprocessing.prepare_batch(images[start : start + BATCH], self.device)
        elif isinstance(images, str | bytes) or not isinstance(images, Iterable):
            raise ValueError(f"images are a list of pictures, not one {type(images).__name__}")
        else:
            for batch in _batched(images):
                yield torch.stack([self.prepare(image).to(self.device) for image in batch])

    def _encode_pictures(self, pictures: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) uint8, prepared → (B, D)."""
        pixels = self._preprocessing.normalise(pictures)
        return normalize(self._model.get_image_features(pixels).pooler_output, dim=-1, eps=0)

    def _encode_texts(self, prompts: Sequence[str]) -> torch.Tensor:
        """P prompts → (P, D)."""
        start, end = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        rows, counts = [], []
        for prompt in prompts:
            chunks = self._chunks(prompt)
            rows += [[start, *ids, end] for ids, _ in chunks]
            counts.append(len(chunks))
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        # Filled up with the end token: the model reads the feature at the first one, and its
        # attention is causal, so that what follows is never seen.
        width = max(map(len, rows))
        ids = torch.tensor([row + [end] * (width - len(row)) for row in rows], device=self.device)
        features = normalize(self._model.get_text_features(ids).pooler_output, dim=-1, eps=0)
        sums = [part.sum(0) for part in (features * lengths[:, None]).split(counts)]
        return normalize(torch.stack(sums), dim=-1, eps=0)

    def _chunks(self, prompt: str) -> list[tuple[list[int], str]]:
        """The token ids, without start and end, and the text of each part of the prompt."""
        encoding = self._tokenizer(
            prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        ids, words, offsets = encoding.input_ids, encoding.word_ids(), encoding.offset_mapping
        room = self.context - 2
        chunks = []
        begin = 0
        while len(ids) - begin > room:
            stop = begin + room
            while words[stop] == words[stop - 1] and stop > begin:
                stop -= 1
            if stop == begin:  # one word longer than the context
                stop = begin + room
            chunks.append((ids[begin:stop], prompt[offsets[begin][0] : offsets[stop - 1][1]]))
            begin = stop
        rest = prompt[offsets[begin][0] :] if begin > 0 else prompt
        chunks.append((ids[begin:], rest.strip()))
        return chunks


def rank(scores: Sequence[float]) -> list[Ranked]:
    """All finite scores, best first; of equals (within a millionth) the first comes first."""
    finite = [Ranked(index, score) for index, score in enumerate(scores) if math.isfinite(score)]
    ties: list[list[Ranked]] = []
    for ranked in sorted(finite, key=lambda ranked: -ranked.score):
        if ties and ties[-1][0].score - ranked.score <= TIE:
            ties[-1].append(ranked)
        else:
            ties.append([ranked])
    return [ranked for tie in ties for ranked in sorted(tie, key=lambda ranked: ranked.index)]


def _pick_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"no device {str(device)!r} here: use cpu, or cuda with a GPU") from error
    return chosen


def _batched(items: Iterable[Item]) -> Iterator[list[Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, BATCH)):
        yield batch
