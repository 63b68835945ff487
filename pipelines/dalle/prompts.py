"""Prompts as tokens: how many, and what is beyond the context."""

from transformers import PreTrainedTokenizerFast


def token_count(tokenizer: PreTrainedTokenizerFast, prompt: str) -> int:
    """Return how many tokens a prompt has, with those that begin and end it, before any cut."""
    return len(tokenizer(prompt, verbose=False).input_ids)


def dropped_text(tokenizer: PreTrainedTokenizerFast, prompt: str, context: int) -> str:
    """Return the end of a prompt that is beyond the context and is not read; "" if all of it is."""
    encoded = tokenizer(
        prompt, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False
    )
    if len(encoded.input_ids) <= context:
        return ""
    ends = encoded.special_tokens_mask[::-1].index(0)  # tokens that end every prompt
    first_dropped, _ = encoded.offset_mapping[context - ends]
    return prompt[first_dropped:].lstrip()  # some tokens begin with the space before a word
