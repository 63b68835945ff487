"""From texts to the token ids that the text tower reads."""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from rerank.texts import check_text

PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class TextReader:
    """How a model takes text.

    start, end  ids around each text
    pad         id that fills the rest
    context     tokens of one text at most, start and end included
    fixed       every text is filled to the whole context (SigLIP reads its last position); else to
                the longest of its batch (CLIP reads the first end token, and sees nothing after it)
    lower       texts lose capitals first, as in SigLIP's training
    plain       and punctuation, as in that of its first version
    """

    tokenizer: PreTrainedTokenizerBase
    start: tuple[int, ...]
    end: tuple[int, ...]
    pad: int
    context: int
    fixed: bool = False
    lower: bool = False
    plain: bool = False

    def chunks(self, prompts: Sequence[str]) -> list[list[tuple[list[int], str]]]:
        """For each prompt, the ids, without start and end, and the text of each of its parts.

        One part, or more when the prompt exceeds the context; they break between words and fill the
        context. Raises ValueError for what is no text, or far too long.
        """
        for prompt in prompts:
            check_text(prompt)
        texts = [self._normalised(prompt) for prompt in prompts]
        encodings = self.tokenizer(texts, add_special_tokens=False, verbose=False).encodings
        return [
            self._parts(text, encoding.ids, encoding.word_ids, encoding.offsets)
            for text, encoding in zip(texts, encodings, strict=True)
        ]

    def _normalised(self, prompt: str) -> str:
        if self.lower:
            prompt = prompt.lower()
        if self.plain:
            prompt = re.sub(r"\s+", " ", prompt.translate(PUNCTUATION)).strip()
        return prompt

    def _parts(
        self,
        text: str,
        ids: list[int],
        words: list[int | None],
        offsets: list[tuple[int, int]],
    ) -> list[tuple[list[int], str]]:
        room = self.context - len(self.start) - len(self.end)
        parts = []
        begin = 0
        while len(ids) - begin > room:
            stop = begin + room
            while words[stop] == words[stop - 1] and stop > begin:
                stop -= 1
            if stop == begin:  # one word longer than the context
                stop = begin + room
            parts.append((ids[begin:stop], text[offsets[begin][0] : offsets[stop - 1][1]]))
            begin = stop
        rest = text[offsets[begin][0] :] if begin > 0 else text
        parts.append((ids[begin:], rest.strip()))
        return parts

    def rows(self, chunks: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return the ids of parts as rows of one length."""
        rows = [[*self.start, *ids, *self.end] for ids in chunks]
        width = self.context if self.fixed else max(map(len, rows))
        return [row + [self.pad] * (width - len(row)) for row in rows]
