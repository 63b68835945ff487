"""Prompts as tokens: how many, and what is beyond the context."""

from transformers.models.clip.tokenization_clip import CLIPTokenizer


def token_count(tokenizer: CLIPTokenizer, prompt: str) -> int:
    """How many tokens a prompt has, with the two that begin and end it, before any cut."""
    return len(tokenizer(prompt, verbose=False).input_ids)


def dropped_text(tokenizer: CLIPTokenizer, prompt: str, context: int) -> str:
    """The end of a prompt that is beyond the context and is not read; "" if all of it is."""
    encoded = tokenizer(prompt, return_offsets_mapping=True, verbose=False)
    if len(encoded.input_ids) <= context:
        return ""
    first_dropped, _ = encoded.offset_mapping[context - 1]
    return prompt[first_dropped:]
