"""Tokenizers of public checkpoints as a tokenizer.json, which needs no code of theirs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from pipelines.weights import PLAIN_TOKENIZER


def write_tokenizer(
    folder: Path,
    tokens: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    *,
    unknown: str,
    padding: str,
    begin: Sequence[str],
    end: str,
    word_start: str,
    spaces: str,
    dropped: str | None,
    fuse_unknown: bool,
    length: int,
) -> None:
    """Write a byte-pair tokenizer of lower-cased words.

    begin, end : the tokens around each prompt.
    word_start : what stands before each word.
    spaces, dropped : the characters between words, and those that are left out, as regular
        expressions.
    fuse_unknown : whether unknown characters in a row are one token.
    length : the context in tokens.
    """
    tokenizer = Tokenizer(
        models.BPE(
            dict(tokens), list(merges), unk_token=unknown, fuse_unk=fuse_unknown, dropout=None
        )
    )
    steps: list[normalizers.Normalizer] = [normalizers.Lowercase()]
    if dropped is not None:
        steps.append(normalizers.Replace(Regex(dropped), ""))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(spaces), "removed"),
            pre_tokenizers.Metaspace(word_start, prepend_scheme="always", split=False),
        ]
    )
    around = {name: tokens[name] for name in (*begin, end)}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*begin, "$A", end], special_tokens=list(around.items())
    )
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": PLAIN_TOKENIZER,
        "model_max_length": length,
        "pad_token": padding,
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,  # what a prompt says is text, whatever it looks like
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
