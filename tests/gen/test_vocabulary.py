"""Words that a model was never shown."""

import json
from pathlib import Path

import pytest

from gen.settings.vocabulary import unknown_words


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    path = tmp_path / "vocabulary.json"
    words = ["a", "panda", "t-rex", "red", "balloon", "of", "left", "to", "the", "Well", "done"]
    path.write_text(json.dumps({"words": words, "nouns": [{"singular": "panda"}]}))
    return path


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("A panda, to the left of a RED balloon!", []),
        ("a t-rex; a well-done panda", []),
        ("the panda's balloon", []),
        ("an armchair in red, an armchair", ["an", "armchair", "in"]),
        ("3 熊貓 🐼 panda_balloon", ["3", "熊貓"]),
    ],
)
def test_the_words_are_named_once_in_order(
    vocabulary: Path, prompt: str, unknown: list[str]
) -> None:
    assert unknown_words(prompt, vocabulary) == unknown


@pytest.mark.parametrize("text", ["", "[]", '{"nouns": []}', '{"words": []}', '{"words": 3}'])
def test_a_folder_without_a_word_list_does_without(tmp_path: Path, text: str) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_text(text)
    assert unknown_words("an armchair", path) == []
    assert unknown_words("an armchair", tmp_path / "none.json") == []
    assert unknown_words("an armchair", None) == []
