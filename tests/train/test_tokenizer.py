import json
from pathlib import Path

import pytest
from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

from train.tokenizer import CONTEXT, END, START, caption_samples, save_tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return train_tokenizer()


def test_every_byte_has_both_forms(tokenizer: CLIPTokenizer) -> None:
    """CLIP's unknown token is its end token: an unknown byte would end the prompt."""
    vocabulary = tokenizer.get_vocab()
    for symbol in pre_tokenizers.ByteLevel.alphabet():
        assert symbol in vocabulary
        assert f"{symbol}</w>" in vocabulary
    strange = tokenizer("an 🥑 façade, 好 \x7f")["input_ids"]
    assert strange.count(tokenizer.eos_token_id) == 1


def test_layout(tokenizer: CLIPTokenizer) -> None:
    number = len(tokenizer)
    assert 1000 <= number <= 2000
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (number - 2, number - 1)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert (tokenizer.bos_token, tokenizer.eos_token) == (START, END)
    assert tokenizer.eos_token_id != 2


def test_captions_fit_the_context(tokenizer: CLIPTokenizer) -> None:
    captions = caption_samples(seed=1, number=3000)
    lengths = [len(ids) for ids in tokenizer(captions)["input_ids"]]
    assert max(lengths) <= CONTEXT
    assert tokenizer.decode(tokenizer(captions[0])["input_ids"], skip_special_tokens=True)


def test_old_and_new_files_agree(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    save_tokenizer(tokenizer, tmp_path)
    assert json.loads((tmp_path / "vocab.json").read_text()) == tokenizer.get_vocab()
    captions = caption_samples(seed=2, number=300)
    expected = tokenizer(captions)["input_ids"]
    assert CLIPTokenizer.from_pretrained(tmp_path)(captions)["input_ids"] == expected
    (tmp_path / "tokenizer.json").unlink()
    assert CLIPTokenizer.from_pretrained(tmp_path)(captions)["input_ids"] == expected
