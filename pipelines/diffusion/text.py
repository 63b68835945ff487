"""Text conditioning of a UNet: weighted tokens in chunks, encoded by one or two
text encoders.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from pipelines.diffusion.networks import Reader
from pipelines.diffusion.prompt_weights import Fragment, parse, plain

REMEMBERED = 8  # encodings
COMMA = ",</w>"
MOST_MOVED = 20  # tokens behind a comma, which go to the next chunk together
COMFYUI = "embedding:"  # what ComfyUI puts in front of them
NO_WORDS: Mapping[str, tuple[tuple[int, ...], ...]] = {}


@dataclass(frozen=True)
class Encoding:
    """The output of the text encoders for one text."""

    hidden: torch.Tensor  # (1, T, D), D being the widths of all encoders together
    pooled: torch.Tensor | None  # (1, P), of the whole text; None for models without

    def zeros(self) -> "Encoding":
        """Return an encoding of the same size that is all zeros."""
        pooled = None if self.pooled is None else torch.zeros_like(self.pooled)
        return Encoding(torch.zeros_like(self.hidden), pooled)


@dataclass(frozen=True)
class Token:
    """A token id, its weight, and where in the plain text it begins."""

    id: int
    weight: float
    place: int


class Text:
    """All text encoders of a model.

    With `pooled`, as in SDXL, the UNet attends to the last layer but one without the final norm,
    and to one vector for the whole text; else to the last layer. With `long`, what is beyond the
    context is read in further chunks of that length, else it is dropped. `words` are those of
    textual inversion, with their tokens for each encoder.
    """

    def __init__(
        self,
        readers: Sequence[Reader],
        context: int,
        device: torch.device,
        *,
        pooled: bool,
        long: bool = False,
        words: Mapping[str, tuple[tuple[int, ...], ...]] = NO_WORDS,
    ) -> None:
        self.readers = tuple(readers)
        self.context = context
        self.device = device
        self.pooled = pooled
        self.long = long
        self.words = words
        self._remembered: dict[tuple[str, str, int], Encoding] = {}

    def token_count(self, prompt: str, syntax: str = "a1111") -> int:
        """Return the number of tokens of a prompt, with the two that begin and end it, uncut."""
        return sum(map(len, self._chunks(0, prompt, syntax))) + 2

    def dropped(self, prompt: str, syntax: str = "a1111") -> str:
        """Return the end of a prompt that is not read; "" if all of it is."""
        _, *others = self._chunks(0, prompt, syntax)
        if self.long or not others:
            return ""
        unread = [token for chunk in others for token in chunk]
        return plain(prompt, syntax)[unread[0].place :] if unread else ""

    def check_clip_skip(self, clip_skip: int) -> None:
        """Raise ValueError unless the encoders have so many layers."""
        layers = min(reader.encoder.config.num_hidden_layers for reader in self.readers)
        most = layers - 1 if self.pooled else layers
        if not 1 <= clip_skip <= most:
            raise ValueError(f"clip_skip is {clip_skip}; this model takes 1 to {most}")

    @torch.inference_mode()
    def encode(self, prompt: str, clip_skip: int = 1, syntax: str = "a1111") -> Encoding:
        """Encode a prompt with all text encoders; the last few prompts are cached."""
        key = (prompt, syntax, clip_skip)
        if key in self._remembered:
            self._remembered[key] = self._remembered.pop(key)  # now the latest
            return self._remembered[key]
        chunks = [self._chunks(i, prompt, syntax) for i in range(len(self.readers))]
        longest = max(map(len, chunks)) if self.long else 1
        parts = [
            self._read(reader, (own + [[]] * longest)[:longest], clip_skip)
            for reader, own in zip(self.readers, chunks, strict=True)
        ]
        hidden = torch.cat([part.hidden for part in parts], dim=-1)
        encoding = Encoding(hidden, parts[-1].pooled)
        self._remembered[key] = encoding
        if len(self._remembered) > REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        return encoding

    def stretched(self, encoding: Encoding, length: int, clip_skip: int) -> Encoding:
        """Pad an encoding to `length` positions with encodings of the empty prompt."""
        missing = (length - encoding.hidden.shape[1]) // self.context
        if missing == 0:
            return encoding
        silence = self.encode("", clip_skip).hidden
        return replace(encoding, hidden=torch.cat([encoding.hidden, *[silence] * missing], dim=1))

    def _read(self, reader: Reader, chunks: list[list[Token]], clip_skip: int) -> Encoding:
        """Encode chunks of tokens with one encoder; the pooled vector is that of the first."""
        tokenizer, encoder = reader.tokenizer, reader.encoder
        rows = []
        for chunk in chunks:
            padding = [tokenizer.pad_token_id] * (self.context - 2 - len(chunk))
            ids = [token.id for token in chunk]
            rows.append([tokenizer.bos_token_id, *ids, tokenizer.eos_token_id, *padding])
        out = encoder(torch.tensor(rows, device=self.device), output_hidden_states=True)
        hidden = torch.stack(
            [
                _weighed(states, [token.weight for token in chunk])
                for states, chunk in zip(self._layer(encoder, out, clip_skip), chunks, strict=True)
            ]
        )
        pooled = None
        if self.pooled and hasattr(encoder, "text_projection"):
            end = len(chunks[0]) + 1  # the encoder itself would look for the highest id
            pooled = encoder.text_projection(out.last_hidden_state[:1, end])
        return Encoding(hidden.flatten(0, 1)[None], pooled)

    def _layer(self, encoder: Any, out: Any, clip_skip: int) -> torch.Tensor:
        """Return the hidden states (n, T, D) that the UNet attends to."""
        if self.pooled:
            return out.hidden_states[-clip_skip - 1]
        if clip_skip == 1:
            return out.last_hidden_state
        return encoder.final_layer_norm(out.hidden_states[-clip_skip])

    def _chunks(self, reader: int, prompt: str, syntax: str) -> list[list[Token]]:
        """Split a prompt's tokens for one encoder into chunks that it can read, at least one.

        As in AUTOMATIC1111's web UI: where all chunks are read, what follows a comma near the end
        of one goes to the next with what belongs to it, a learned word is not torn, and a break at
        the end adds no chunk.
        """
        room = self.context - 2
        chunks: list[list[Token]] = [[]]
        comma = self.readers[reader].tokenizer.get_vocab().get(COMMA)
        last_comma: int | None = None  # where it is in the last chunk
        place = 0
        for fragment in parse(prompt, syntax):
            if fragment.breaks:
                chunks.append([])
                last_comma, place = None, place + 1
            for tokens in self._tokens(reader, fragment, place):
                left, is_comma = room - len(chunks[-1]), tokens[0].id == comma
                moved: list[Token] = []
                near = last_comma is not None and room - last_comma <= MOST_MOVED
                if last_comma is not None and near and left == 0 and self.long and not is_comma:
                    moved = chunks[-1][last_comma + 1 :]
                    del chunks[-1][last_comma + 1 :]
                if len(tokens) > left:
                    chunks.append(moved)
                    last_comma = None
                if is_comma:
                    last_comma = len(chunks[-1])
                chunks[-1] += tokens
            place += len(fragment.text)
        return chunks if chunks[-1] or len(chunks) == 1 else chunks[:-1]

    def _tokens(self, reader: int, fragment: Fragment, place: int) -> Iterator[list[Token]]:
        """Yield the tokens of a fragment: one by one, those of a learned word together."""
        tokenizer, weight, room = self.readers[reader].tokenizer, fragment.weight, self.context - 2
        for start, text in self._split_at_words(fragment.text):
            learned = self.words.get(text.lower().removeprefix(COMFYUI))
            if learned is not None:
                ids = learned[reader]
                for i in range(0, len(ids), room):
                    yield [Token(each, weight, place + start) for each in ids[i : i + room]]
                continue
            encoded = tokenizer(
                text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
            )
            for i, (offset, _) in zip(encoded.input_ids, encoded.offset_mapping, strict=True):
                yield [Token(i, weight, place + start + offset)]

    def _split_at_words(self, text: str) -> Iterator[tuple[int, str]]:
        """Split a text at the words of textual inversion, with where each part begins.

        As in other tools, capitals make no difference, and `embedding:` may stand in front.
        """
        if not self.words:
            yield 0, text
            return
        longest_first = sorted(self.words, key=len, reverse=True)
        pattern = rf"(?<!\w)((?:{COMFYUI})?(?:{'|'.join(map(re.escape, longest_first))}))(?!\w)"
        start = 0
        for part in re.split(pattern, text, flags=re.IGNORECASE):
            yield start, part
            start += len(part)


def _weighed(hidden: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Scale the states (T, D) of a chunk by the weights of its tokens, keeping their mean."""
    if all(weight == 1 for weight in weights):
        return hidden
    factors = torch.ones(len(hidden), 1, dtype=torch.float32)
    factors[1 : len(weights) + 1, 0] = torch.tensor(weights)  # the first marks the beginning
    scaled = hidden.float() * factors.to(hidden.device)
    return (scaled * (hidden.float().mean() / scaled.mean())).to(hidden.dtype)
