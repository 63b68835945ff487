"""How a calibration is made: from images whose captions are known to be right or wrong."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pipelines.checkpoints.configs import parse_json
from pipelines.checkpoints.hashes import files_hash
from rerank.calibration.calibration import (
    CAPTIONS,
    CHANGES,
    Calibration,
    Logistic,
    bounded,
    evidence,
    expected_error,
    fit,
)
from rerank.images import Encoded
from rerank.reranker import Reranker

HELD_OUT = 5  # every fifth image is not learned from, and measures the error
LEAST = 40  # pairs, right and wrong ones together


@dataclass(frozen=True)
class Pair:
    """An image, by its index, with a caption that matches it or does not."""

    image: int
    caption: str
    matches: bool


@dataclass(frozen=True)
class Quality:
    """What a calibration is worth on the pairs that it did not learn from: how many, the expected
    calibration error, and how often a probability is on the right side of one half."""

    pairs: int
    error: float
    right: float


def make(
    reranker: Reranker,
    images: Encoded,
    pairs: Sequence[Pair],
    captions: Sequence[str],
    progress: Callable[[int], None] | None = None,
) -> tuple[Calibration, Quality]:
    """Learn a calibration from pairs, with up to CAPTIONS unrelated captions.

    Raises ValueError where there are too few pairs, or none that match or none that do not.
    """
    kept = list(dict.fromkeys(captions))[:CAPTIONS]
    learned = [pair for pair in pairs if pair.image % HELD_OUT != 0]
    if len(pairs) < LEAST or len({pair.matches for pair in learned}) < 2:
        raise ValueError(f"a calibration takes {LEAST} pairs or more, right ones and wrong ones")
    table = reranker.similarity(kept, images)  # (C, N)
    rows, plain_rows = [], []
    for done, pair in enumerate(pairs, start=1):
        image = Encoded(images.features[pair.image : pair.image + 1])
        changed = reranker.claims(pair.caption).changed(CHANGES)
        scores = reranker.similarity([pair.caption, *changed], image)
        others = [row for row, caption in enumerate(kept) if caption != pair.caption]
        unrelated = table[others, pair.image : pair.image + 1]
        rows.append(evidence(scores[0], unrelated, scores[1:], reranker.scale)[0])
        plain_rows.append(evidence(scores[0], unrelated, scores[1:1], reranker.scale)[0])
        if progress is not None:
            progress(done)
    matches = torch.tensor([pair.matches for pair in pairs])
    learned_from = torch.tensor([pair.image % HELD_OUT != 0 for pair in pairs])
    has_changes = torch.tensor([len(row) > len(plain_rows[0]) for row in rows])
    if (has_changes & learned_from).sum() < LEAST / 2:
        raise ValueError("too few captions tell anything that could be changed, such as an object")
    full = torch.stack([row for row, has in zip(rows, has_changes, strict=True) if has])
    plain = torch.stack(plain_rows)
    calibration = Calibration(
        weights=files_hash(reranker.folder),
        captions=tuple(kept),
        changed=_fit(full[learned_from[has_changes]], matches[has_changes & learned_from]),
        plain=_fit(plain[learned_from], matches[learned_from]),
    )
    probabilities = calibration.changed(full[~learned_from[has_changes]]).tolist()
    truths = matches[has_changes & ~learned_from].tolist()
    return calibration, quality(probabilities, truths)


def _fit(rows: torch.Tensor, matches: torch.Tensor) -> Logistic:
    return bounded(fit(rows, matches), rows, matches)


def quality(probabilities: Sequence[float], matches: Sequence[bool]) -> Quality:
    """Return what probabilities are worth; not a number without any."""
    if not matches:
        return Quality(0, float("nan"), float("nan"))
    right = [(p >= 0.5) == truth for p, truth in zip(probabilities, matches, strict=True)]
    error = expected_error(probabilities, matches)
    return Quality(len(matches), error, sum(right) / len(right))


def read_captions(path: Path) -> list[tuple[Path, str, bool]]:
    """Read the rows of a JSONL file: {"file": …, "caption": …}, with "matches": false where the
    caption is wrong. Files are relative to its folder. Raises ValueError, naming the line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 at byte {error.start + 1}: save it as UTF-8"
        ) from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
            file, caption = path.parent / str(row["file"]), str(row["caption"])
            rows.append((file, caption, bool(row.get("matches", True))))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f'{path}:{number}: not like {{"file": "a.png", "caption": "a fox"}}'
            ) from error
    return rows


def with_wrong_ones(reranker: Reranker, pairs: Sequence[Pair], seed: int = 0) -> list[Pair]:
    """Return the pairs, and for each that matches two that do not: the caption of another image,
    and its own with one fact changed."""
    rng = random.Random(seed)
    captions = list(dict.fromkeys(pair.caption for pair in pairs if pair.matches))
    wrong = []
    for pair in (pair for pair in pairs if pair.matches):
        others = [caption for caption in captions if caption != pair.caption]
        if others:
            wrong.append(Pair(pair.image, rng.choice(others), False))
        if changed := reranker.claims(pair.caption).changed(1):
            wrong.append(Pair(pair.image, rng.choice(changed), False))
    return [*pairs, *wrong]
