"""The BPE models of YouTokenToMe, which ruDALL-E's tokenizer is one of.

The file is text: how many characters and rules there are; a line `code point, id` for each
character; a line `left id, right id, id` for each rule, the most urgent one first; and the ids of
<UNK>, <PAD>, <BOS> and <EOS>. Words are what is between spaces, each with ▁ before it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.loading import AGAIN

SPACE = "▁"
SPECIAL = ("<UNK>", "<PAD>", "<BOS>", "<EOS>")
LONGEST = 1000  # characters of a token
LARGEST_FILE = 2**26  # bytes; the one of ruDALL-E has 0.2 MB


@dataclass(frozen=True)
class BpeModel:
    """Tokens by their strings, and the pairs of them that are merged, the most urgent one first."""

    tokens: dict[str, int]
    merges: list[tuple[str, str]]

    @property
    def specials(self) -> tuple[int, int, int, int]:
        """The ids of <UNK>, <PAD>, <BOS> and <EOS>."""
        unknown, padding, begin, end = (self.tokens[name] for name in SPECIAL)
        return unknown, padding, begin, end


def read_bpe(path: Path) -> BpeModel:
    """Read a model file. Raises WeightsError if it is missing, damaged or of another kind."""
    if not path.is_file():
        raise WeightsError(f"{path} is missing: {AGAIN}")
    if path.stat().st_size > LARGEST_FILE:
        raise WeightsError(f"{path} is no YouTokenToMe model: it is too large for one")
    try:
        return _parse(int(word) for word in path.read_text(encoding="ascii").split())
    except StopIteration:
        raise WeightsError(f"{path} is no YouTokenToMe model: it ends early") from None
    except (ValueError, LookupError, OverflowError) as error:
        raise WeightsError(f"{path} is no YouTokenToMe model: {error}") from None


def _parse(numbers: Iterator[int]) -> BpeModel:
    characters, rules = next(numbers), next(numbers)
    strings: dict[int, str] = {}
    for _ in range(characters):
        code, token = next(numbers), next(numbers)
        strings[token] = chr(code)
    merges = []
    for _ in range(rules):
        left, right, token = next(numbers), next(numbers), next(numbers)
        merges.append((strings[left], strings[right]))
        strings[token] = strings[left] + strings[right]
        if len(strings[token]) > LONGEST:  # merges may double, again and again
            raise ValueError(f"a token of more than {LONGEST} characters")
    for name in SPECIAL:
        strings[next(numbers)] = name
    if next(numbers, None) is not None:
        raise ValueError("more follows its last line")
    tokens = {string: token for token, string in strings.items()}
    if len(tokens) != characters + rules + len(SPECIAL) or SPACE not in tokens:
        raise ValueError("its tokens are not all different, or ▁ is not one of them")
    return BpeModel(tokens, merges)
