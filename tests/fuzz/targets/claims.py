"""Prompts as claims, and the vocabulary of a model folder that they are read by."""

from pathlib import Path

from fuzzing import Parser

from pipelines.checkpoints.errors import WeightsError
from rerank.claims.claims import split
from rerank.claims.vocabulary import ENGLISH, read_vocabulary
from rerank.model.specs import DEFAULT, SPECS

FOLDER = SPECS[DEFAULT].folder
PROMPT = "two small red foxes on the left of a blue ball, on a green background"
NOUN = b'{"name": "fox", "plural": "foxes", "synonyms": []}'
VOCABULARY = (
    b"""{"nouns": [%s], "shapes": [], "colours": [{"name": "red"}],
 "grounds": [{"name": "white", "synonyms": ["plain white"]}],
 "relations": {"on": ["on"]}, "places": {"left": ["on the left"]}, "counts": {"one": 1, "two": 2}}
"""
    % NOUN
)
SIGNS = (
    *("a ", "the ", "two ", "several ", "99 ", " of ", " and ", ", ", ". ", "&", "-", "’"),
    *("red ", "dark ", "small ", "fox ", "photo ", "riding ", " ground", " background"),
    *("on the left of ", "in front of ", "in the middle ", "to its left ", "that is ", "quickly "),
    *("pair of ", "a group of ", "in the shape of ", "on a ", "at "),
)


def _read(path: Path) -> list[str]:
    """Read a vocabulary, and a prompt by it."""
    (path.parent / "vocabulary.json").write_bytes(path.read_bytes())
    return split(PROMPT, read_vocabulary.__wrapped__(path.parent)).changed(8)


PARSERS = [
    *(
        Parser(
            name=name,
            read=read,
            refuses=(ValueError,),
            signs=SIGNS,
            examples=(PROMPT, "a photo of a cat riding a bicycle in front of a house that is red"),
        )
        for name, read in (
            ("the claims of a prompt", lambda prompt: split(prompt, ENGLISH).changed(8)),
            (
                "the claims of a prompt by the words of a model",
                lambda prompt: split(prompt, read_vocabulary(FOLDER)).changed(8),
            ),
        )
    ),
    Parser(
        name="the vocabulary of a model folder",
        read=_read,
        refuses=(WeightsError,),
        signs=(b"{", b"}", b"[", b"]", b'"', b":", b",", b"1", b"null", b'"name"', NOUN),
        examples=(VOCABULARY,),
        suffix=".json",
    ),
]
