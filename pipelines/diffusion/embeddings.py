"""Words learned by textual inversion (Gal et al., arXiv 2208.01618): what a file holds.

Files of diffusers hold one tensor for each word, whose key is the word. Those that were made by
AUTOMATIC1111's web UI, and those for the two text encoders of SDXL, hold one word, which is called
like the file. Loads no torch.
"""

from dataclasses import dataclass
from pathlib import Path

from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.headers import Tensor, check_suffix, read_header

A1111_KEY = "emb_params"
SDXL_KEYS = ("clip_l", "clip_g")
MAX_WORDS = 1000  # in a file
MAX_VECTORS = 75  # of a word: as many tokens as CLIP reads at once


@dataclass(frozen=True)
class Word:
    """A word, as people write it, and its vectors for each text encoder."""

    text: str
    tensors: dict[str, Tensor]  # by key of the file, in the order of the encoders

    @property
    def shape(self) -> tuple[int, int]:
        """How many vectors it has for the first encoder, and how long they are."""
        *count, length = next(iter(self.tensors.values())).shape
        return (count[0] if count else 1), length


def read_words(path: Path) -> list[Word]:
    """Read which words a file holds. Raises WeightsError for what is no such file."""
    check_suffix(path)
    header = read_header(path)
    if set(header) == set(SDXL_KEYS):
        words = [Word(path.stem, {key: header[key] for key in SDXL_KEYS})]
    else:
        words = [
            Word(path.stem if key == A1111_KEY else key, {key: tensor})
            for key, tensor in header.items()
        ]
    if not words or len(words) > MAX_WORDS or not all(map(_is_word, words)):
        raise WeightsError(f"{path} holds no words: its keys are {', '.join(list(header)[:3])}")
    return words


def _is_word(word: Word) -> bool:
    """Return whether each tensor is one vector, or a few."""
    shapes = [tensor.shape for tensor in word.tensors.values()]
    return bool(word.text.strip()) and all(
        len(shape) == 1 or (len(shape) == 2 and 1 <= shape[0] <= MAX_VECTORS) for shape in shapes
    )
