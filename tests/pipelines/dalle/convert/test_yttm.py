"""The reader of YouTokenToMe's models, against what its own code makes of prompts."""

import json
from pathlib import Path

import pytest
from public_checkpoints import DATA

from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.loading import load_tokenizer
from pipelines.dalle.convert.rudalle import SPACES
from pipelines.dalle.convert.tokenizer import write_tokenizer
from pipelines.dalle.convert.yttm import SPACE, BpeModel, read_bpe


def test_what_a_file_says(tmp_path: Path) -> None:
    path = tmp_path / "bpe.model"
    path.write_text("3 2\n9601 6\n97 4\n98 5\n4 5 7\n6 7 8\n1 0 2 3\n")
    model = read_bpe(path)
    assert model.merges == [("a", "b"), ("▁", "ab")]
    assert model.tokens["▁ab"] == 8
    assert model.specials == (1, 0, 2, 3)


def test_tokens_of_the_reference(tmp_path: Path) -> None:
    """Spaces of all kinds, unknown characters in a row, rules that compete."""
    model = read_bpe(DATA / "bpe.model")
    assert isinstance(model, BpeModel)
    write_tokenizer(
        tmp_path / "tokenizer",
        model.tokens,
        model.merges,
        unknown="<UNK>",
        padding="<PAD>",
        begin=["<BOS>"],
        end="<EOS>",
        word_start=SPACE,
        spaces=SPACES,
        dropped=None,
        fuse_unknown=True,
        length=128,
    )
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    for row in json.loads((DATA / "bpe_tokens.json").read_text(encoding="utf-8")):
        assert tokenizer(row["prompt"]).input_ids == [2, *row["tokens"], 3], row["prompt"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("2 1\n9601 4\n97 5\n4 5 6\n1 0 2\n", "it ends early"),
        ("2 1\n9601 4\n97 5\n4 9 6\n1 0 2 3\n", "9"),
        ("2 1\n9601 4\n97 5\n4 5 6\n1 0 2 3 4\n", "more follows"),
        ("2 0\n9601 4\n97 4\n1 0 2 3\n", "not all different"),
        ("1 0\n97 4\n1 0 2 3\n", "not all different"),
        ("1 0\n-5 4\n1 0 2 3\n", "no YouTokenToMe model"),
        ("words", "no YouTokenToMe model"),
        ("рыжий", "no YouTokenToMe model"),
    ],
)
def test_files_that_are_none(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "bpe.model"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(WeightsError, match="no YouTokenToMe model") as error:
        read_bpe(path)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
