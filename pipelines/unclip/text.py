"""What prior and decoder read of a prompt: its states, and its place among images."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.pipelines.kandinsky.text_encoder import MultilingualCLIP

REMEMBERED = 8  # texts


@dataclass(frozen=True)
class Read:
    """One text as a text encoder of CLIP reads it."""

    hidden: torch.Tensor  # (1, T, W), the states of its last layer
    embedding: torch.Tensor | None  # (1, D), in the space of images too; None where it has none
    present: torch.Tensor  # (1, T) bool, False where a text is filled up


class Reader:
    """A tokenizer and the text encoder that reads its tokens."""

    def __init__(self, tokenizer: Any, encoder: Any, context: int, device: torch.device) -> None:
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.context = context
        self.device = device
        self._remembered: dict[str, Read] = {}

    @torch.inference_mode()
    def read(self, text: str) -> Read:
        """Read one text, filled up to the context; the last few are cached."""
        if text in self._remembered:
            self._remembered[text] = self._remembered.pop(text)  # now the latest
            return self._remembered[text]
        encoded = self.tokenizer(
            text,
            padding="max_length",
            max_length=self.context,
            truncation=True,
            return_tensors="pt",
        ).to(self.device)
        present = encoded.attention_mask
        if isinstance(self.encoder, MultilingualCLIP):
            embedding, hidden = self.encoder(encoded.input_ids, present)
        else:
            out = self.encoder(encoded.input_ids)
            embedding, hidden = getattr(out, "text_embeds", None), out.last_hidden_state
        read = Read(hidden, embedding, present.bool())
        self._remembered[text] = read
        if len(self._remembered) > REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        return read

    def token_count(self, text: str) -> int:
        """Return how many tokens a text has, with those that begin and end it, before any cut."""
        return len(self.tokenizer(text, verbose=False).input_ids)

    def dropped(self, text: str) -> str:
        """Return the end of a text that is not read; "" if all of it is."""
        if self.token_count(text) <= self.context:
            return ""
        encoded = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        start, _ = encoded.offset_mapping[self.context - 2]
        return text[start:]


def embedding_of(text: Read) -> torch.Tensor:
    """Return the embedding (1, D) of a text whose encoder makes one."""
    assert text.embedding is not None, "loading has checked which encoder reads for whom"
    return text.embedding
