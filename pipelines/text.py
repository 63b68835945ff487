"""Prompts as the numbers that a UNet listens to: tokens in chunks, read by one or two encoders."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipelines.weights import Reader

REMEMBERED = 8  # encodings


@dataclass(frozen=True)
class Encoding:
    """What the text encoders say of one text."""

    hidden: torch.Tensor  # (1, T, D), D being the widths of all encoders together
    pooled: torch.Tensor | None  # (1, P), of the whole text; None for models without

    def zeros(self) -> "Encoding":
        """An encoding of the same size that says nothing."""
        pooled = None if self.pooled is None else torch.zeros_like(self.pooled)
        return Encoding(torch.zeros_like(self.hidden), pooled)


@dataclass(frozen=True)
class Token:
    """A number that an encoder reads, and where in the text it begins."""

    id: int
    place: int


class Text:
    """All text encoders of a model.

    With `pooled`, as in SDXL, the UNet listens to the last layer but one without the final norm,
    and to one vector for the whole text; else to the last layer.
    """

    def __init__(self, readers: Sequence[Reader], context: int, *, pooled: bool) -> None:
        self.readers = tuple(readers)
        self.context = context
        self.pooled = pooled
        self._remembered: dict[str, Encoding] = {}

    def tokens(self, reader: Reader, text: str) -> list[Token]:
        """A text in the tokens of one encoder, without the two that begin and end a prompt."""
        encoded = reader.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        places = (start for start, _ in encoded.offset_mapping)
        return [Token(*pair) for pair in zip(encoded.input_ids, places, strict=True)]

    def token_count(self, text: str) -> int:
        """How many tokens a text has, with the two that begin and end it, before any cut."""
        return len(self.tokens(self.readers[0], text)) + 2

    def dropped(self, text: str) -> str:
        """The end of a text that is beyond the context and is not read; "" if all of it is."""
        rest = self.tokens(self.readers[0], text)[self.context - 2 :]
        return text[rest[0].place :] if rest else ""

    @torch.inference_mode()
    def encode(self, text: str) -> Encoding:
        """What the encoders say of a text; the last few are remembered."""
        if text in self._remembered:
            self._remembered[text] = self._remembered.pop(text)  # now the latest
            return self._remembered[text]
        parts = [self._read(reader, text) for reader in self.readers]
        hidden = torch.cat([hidden for hidden, _ in parts], dim=-1)
        encoding = Encoding(hidden, parts[-1][1] if self.pooled else None)
        self._remembered[text] = encoding
        if len(self._remembered) > REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        return encoding

    def _read(self, reader: Reader, text: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What one encoder says: hidden states (1, T, D) and the pooled vector (1, P), if any."""
        tokenizer, encoder = reader.tokenizer, reader.encoder
        read = [token.id for token in self.tokens(reader, text)][: self.context - 2]
        padding = [tokenizer.pad_token_id] * (self.context - 2 - len(read))
        ids = [tokenizer.bos_token_id, *read, tokenizer.eos_token_id, *padding]
        out = encoder(torch.tensor([ids], device=encoder.device), output_hidden_states=True)
        if not self.pooled:
            return out.last_hidden_state, None
        projection = getattr(encoder, "text_projection", None)
        end = len(read) + 1  # the encoder itself would look for the highest id
        pooled = None if projection is None else projection(out.last_hidden_state[:, end])
        return out.hidden_states[-2], pooled
