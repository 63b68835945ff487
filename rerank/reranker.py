"""Score images against text with CLIP (Radford et al., arXiv 2103.00020) or SigLIP (Zhai et al.,
arXiv 2303.15343)."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from transformers import Siglip2Model, SiglipModel

from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.hashes import files_hash
from rerank.calibration import calibration
from rerank.calibration.calibration import Calibrated, Calibration
from rerank.claims.checking import Checked, check
from rerank.claims.claims import Claims, split
from rerank.claims.vocabulary import read_vocabulary
from rerank.diversity import pick
from rerank.images import Images
from rerank.model.encoding import Encoder, Progress
from rerank.model.preprocessing import Preprocessing, read_preprocessing
from rerank.model.specs import DEFAULT, find
from rerank.model.texts import TextReader
from rerank.model.weights import Model, image_size, load_model, load_text_reader
from rerank.ranking import Ranked, Ranking, rank


class Reranker(Encoder):
    """A CLIP or SigLIP model that scores images.

    Images are PIL images, paths, bytes of files, NumPy arrays (H, W, 3) uint8 and tensors
    (3, H, W), uint8 or floats in [0, 1], on any device. They come in any iterable, which is read
    once and a little ahead, so that it may be a stream of any length; as one tensor (B, 3, H, W);
    as a folder, whose images are taken sorted by name; or as what `encode` made of them. Texts of
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
        super().__init__(model, reader, preprocessing, name=name, folder=folder, device=device)
        self._calibration_file = (
            folder / calibration.FILE if calibration_file is None else calibration_file
        )

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
        """Return the model of that name, of a folder in transformers' format, or the shipped one.

        Runs in fp32 on `device`, by default on CUDA where there is one, else on the CPU. `exact`
        resizes images bit for bit as transformers' PIL image processors. `processor` names
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
        size, naflex = image_size(model), isinstance(model, Siglip2Model)
        return cls(
            model,
            load_text_reader(folder, model),
            read_preprocessing(folder, size, exact=exact, naflex=naflex),
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
        """Return the cosine of each image with the prompt, in [-1, 1].

        `templates`, such as "a photo of {}.", make the mean of the prompt in each of them. nan
        where the model gave no finite number. Raises BadImageError, which names it, for an image
        that cannot be read.
        """
        return self.similarity([prompt], images, templates=templates, progress=progress)[0].tolist()

    def logits(self, prompt: str, images: Images) -> list[float]:
        """Return the scores on the scale that the model was trained with: cosine x scale + bias.

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
        """Return the cosines of P prompts with N images: (P, N) fp32 on the CPU, nan as in
        `score`."""
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
        """Zero-shot probabilities of the labels for each image, the likeliest first.

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
        """Return the k best images, best first; of equals the first comes first.

        `diversity` in [0, 1] trades score for variety (maximal marginal relevance) and groups
        near-duplicates; `calibrate` adds what the scores mean (see `calibrated`). Fewer when there
        are fewer, or when the score of some is not finite. Raises ValueError when k < 1, and
        BadImageError.
        """
        if k < 1:
            raise ValueError(f"k is {k}; at least 1 image must be asked for")
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
        """Return what the score of each image means: a percentile and the probability of a match.

        The score is placed among those of the same image with unrelated captions and with the
        prompt's changed versions. Raises WeightsError when the model has no calibration.json.
        """
        encoded = self.encode(images)
        if not len(encoded.features):
            return []
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
        """Return the prompt taken apart into claims, by the words of the model's vocabulary.json
        where it has one, else by plain English; `.unparsed` says what was not understood."""
        return split(prompt, read_vocabulary(self.folder))

    def check(self, prompt: str, images: Images) -> list[Checked]:
        """For each image, whether each claim of the prompt holds in it, and the prompt corrected
        until it fits the image best, one claim at a time."""
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
        return (
            self._model.logit_bias.item()
            if isinstance(self._model, SiglipModel | Siglip2Model)
            else 0.0
        )


def _pick_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"no device {str(device)!r} here: use cpu, or cuda with a GPU") from error
    return chosen
