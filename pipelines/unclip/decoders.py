"""How an embedding, and the text beside it, enter the UNet: one class for each way."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
    StableUnCLIPImageNormalizer,
)
from torch.nn import functional

from pipelines.unclip.image_tokens import ImageTokens
from pipelines.unclip.text import Read, embedding_of


@dataclass(frozen=True)
class Texts:
    """What the decoder reads: the prompt, and what guidance leads away from."""

    prompt: Read
    negative: Read

    def rows(self, number: int, *, guided: bool) -> list[Read]:
        """Return a text for each row of the UNet's batch, the negative ones first."""
        return [self.negative] * number * guided + [self.prompt] * number


class TakesEmbeddings:
    """What decoders have in common that take embeddings as they are."""

    def prepare(
        self, embeddings: torch.Tensor, generators: Sequence[torch.Generator]
    ) -> torch.Tensor:
        """Return embeddings (N, D) as they are."""
        return embeddings


class ProjectedDecoder(TakesEmbeddings):
    """Karlo's: the embedding is added to the timestep's, and is four tokens before the text's.

    Ramesh et al., §2.1. What guidance compares with has been learned.
    """

    def __init__(self, text_proj: UnCLIPTextProjModel) -> None:
        self.text_proj = text_proj

    def inputs(self, told: torch.Tensor, texts: Texts | None, *, guided: bool) -> dict[str, Any]:
        """Return what the UNet takes beside latents and timestep, for N or 2N rows."""
        assert texts is not None
        rows = texts.rows(len(told), guided=guided)
        hidden, added = self.text_proj(
            image_embeddings=told.to(rows[0].hidden.dtype),
            prompt_embeds=torch.cat([embedding_of(row) for row in rows]),
            text_encoder_hidden_states=torch.cat([row.hidden for row in rows]),
            do_classifier_free_guidance=guided,
        )
        tokens = self.text_proj.clip_extra_context_tokens
        present = functional.pad(torch.cat([row.present for row in rows]), (tokens, 0), value=True)
        return {"encoder_hidden_states": hidden, "class_labels": added, "attention_mask": present}


class ProjectingDecoder(TakesEmbeddings):
    """Kandinsky's: the UNet projects the embedding, and the text if it reads one, itself.

    `negative` (1, D) is what guidance compares with: the embedding of an image of nothing.
    """

    def __init__(self, negative: torch.Tensor, *, adds_text: bool) -> None:
        self.negative = negative
        self.adds_text = adds_text  # whether the text's embedding is added to the timestep's

    def inputs(self, told: torch.Tensor, texts: Texts | None, *, guided: bool) -> dict[str, Any]:
        """Return what the UNet takes beside latents and timestep, for N or 2N rows."""
        dtype = self.negative.dtype
        images = told.to(dtype)
        if guided:
            images = torch.cat([self.negative.expand(len(told), -1), images])
        added: dict[str, torch.Tensor] = {"image_embeds": images}
        if texts is None:
            return {"encoder_hidden_states": None, "added_cond_kwargs": added}
        rows = texts.rows(len(told), guided=guided)
        if self.adds_text:
            added["text_embeds"] = torch.cat([embedding_of(row) for row in rows])
        hidden = torch.cat([row.hidden for row in rows])
        return {"encoder_hidden_states": hidden, "added_cond_kwargs": added}


class TokensDecoder(TakesEmbeddings):
    """Ours: the embedding is tokens before the text's, and the UNet draws by text alone as well.

    Ramesh et al., §2.1. Guidance compares with no image.
    """

    def __init__(self, image_tokens: ImageTokens) -> None:
        self.image_tokens = image_tokens

    def inputs(self, told: torch.Tensor, texts: Texts | None, *, guided: bool) -> dict[str, Any]:
        """Return what the UNet takes beside latents and timestep, for N or 2N rows."""
        assert texts is not None
        hidden = torch.cat([row.hidden for row in texts.rows(len(told), guided=guided)])
        images = torch.cat([torch.zeros_like(told), told]) if guided else told
        tokens = self.image_tokens(images.to(hidden.dtype))
        return {"encoder_hidden_states": torch.cat([tokens, hidden], dim=1)}

    def inputs_apart(self, told: torch.Tensor, texts: Texts) -> dict[str, Any]:
        """Return what the UNet takes for 3N rows: without either, by the prompt, and by both.

        The first two have no tokens of an image, not those of no image: so the UNet draws as well
        by text as if there were no embeddings.
        """
        N = len(told)
        read = [*texts.rows(N, guided=True), *texts.rows(N, guided=False)]
        hidden = torch.cat([row.hidden for row in read])
        tokens = self.image_tokens(told.to(hidden.dtype))
        tokens = torch.cat([tokens.new_zeros(2 * N, *tokens.shape[1:]), tokens])
        both = torch.cat([tokens, hidden], dim=1)
        present = both.new_ones(both.shape[:2], dtype=torch.bool)
        present[: 2 * N, : tokens.shape[1]] = False
        return {"encoder_hidden_states": both, "encoder_attention_mask": present}


class ClassDecoder:
    """Stable unCLIP's: a noised embedding, with how noisy it is, takes the place of a class."""

    def __init__(self, normalizer: StableUnCLIPImageNormalizer, noising: Any) -> None:
        self.normalizer = normalizer
        self.noising = noising  # a scheduler

    def prepare(
        self, embeddings: torch.Tensor, generators: Sequence[torch.Generator]
    ) -> torch.Tensor:
        """Return embeddings (N, D) at noise level 0, with the embedding of the level, (N, 2D)."""
        N, D = embeddings.shape
        noise = torch.cat([torch.randn(1, D, generator=g) for g in generators])
        levels = torch.zeros(N, dtype=torch.long, device=embeddings.device)
        scaled = self.normalizer.scale(embeddings)
        noised = self.noising.add_noise(scaled, noise.to(embeddings.device), levels)
        level = get_timestep_embedding(levels, D, flip_sin_to_cos=True, downscale_freq_shift=0)
        return torch.cat([self.normalizer.unscale(noised), level], dim=1)

    def inputs(self, told: torch.Tensor, texts: Texts | None, *, guided: bool) -> dict[str, Any]:
        """Return what the UNet takes beside latents and timestep, for N or 2N rows."""
        assert texts is not None
        rows = texts.rows(len(told), guided=guided)
        hidden = torch.cat([row.hidden for row in rows])
        images = torch.cat([torch.zeros_like(told), told]) if guided else told
        return {"encoder_hidden_states": hidden, "class_labels": images.to(hidden.dtype)}


Decoder = ProjectedDecoder | ProjectingDecoder | TokensDecoder | ClassDecoder


def guide(output: torch.Tensor, channels: int, guidance: float) -> torch.Tensor:
    """Return a UNet's output (2N, C', h, w), negative rows first, guided: (N, C', h, w).

    The variance, which some UNets predict in further channels, is that of the prompt (Nichol et
    al., arXiv 2112.10741).
    """
    without, with_text = output.chunk(2)
    first, told = without[:, :channels], with_text[:, :channels]
    return torch.cat([first + guidance * (told - first), with_text[:, channels:]], dim=1)
