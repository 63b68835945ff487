"""Tokenizers of public checkpoints as a tokenizer.json, which needs no code of theirs."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from pipelines.checkpoints.configs import read_config
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.loading import AGAIN, PLAIN_TOKENIZER
from pipelines.dalle.convert.recipe import refuse


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
    save_tokenizer(folder, tokenizer, padding=padding, length=length)


def save_tokenizer(folder: Path, tokenizer: Tokenizer, *, padding: str, length: int) -> None:
    """Write any tokenizer, with the token that fills prompts up and the context in tokens."""
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


def read_words(path: Path, needed: Collection[str], vocabulary: int) -> dict[str, int]:
    """Read the tokens of a vocab.json, for a network that reads `vocabulary` of them.

    Raises WeightsError if it is none, lacks a needed one, or is of another model.
    """
    words = read_config(path)
    if not all(isinstance(token, int) and token >= 0 for token in words.values()):
        raise WeightsError(f"{path} is no vocabulary: it must give each word a number")
    refuse(path, "is missing tokens", [word for word in needed if word not in words])
    if max(words.values()) >= vocabulary:
        raise WeightsError(
            f"{path} has tokens up to {max(words.values())}, the network reads {vocabulary}: they "
            "are not of one model"
        )
    return words


def read_merges(path: Path, words: Mapping[str, int]) -> list[tuple[str, str]]:
    """Read the pairs of a merges.txt, whose first line is a comment.

    Raises WeightsError if it is none, or if it makes what is not in the vocabulary.
    """
    if not path.is_file():
        raise WeightsError(f"{path} is missing: {AGAIN}")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[1:]
    pairs = [(left, right) for left, _, right in (line.partition(" ") for line in lines if line)]
    strange = [
        f"{left} {right}"
        for left, right in pairs
        if not {left, right, left + right} <= words.keys()
    ]
    refuse(path, "merges what is not in the vocabulary", strange)
    return pairs
