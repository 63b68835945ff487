from collections.abc import Sequence

import torch

from rerank.claims.checking import Checked, check
from rerank.claims.claims import split
from rerank.claims.vocabulary import ENGLISH


def checked(prompt: str, truth: str) -> Checked:
    """The verdicts of a judge that counts how many words a text has in common with the truth."""

    def judge(texts: Sequence[str]) -> torch.Tensor:
        words = truth.split()
        return torch.tensor(
            [sum(a == b for a, b in zip(text.split(), words, strict=False)) for text in texts]
        ).float()

    return check(split(prompt, ENGLISH), lambda text: split(text, ENGLISH), judge)


def holding(prompt: str, truth: str) -> set[str]:
    return {v.claim.text for v in checked(prompt, truth).results if v.holds}


def test_a_prompt_that_fits_holds() -> None:
    found = checked("a red dog and a blue car", "a red dog and a blue car")
    assert all(verdict.holds for verdict in found.results)
    assert len(found.results) == 4
    assert found.corrected == "a red dog and a blue car"


def test_several_wrong_facts_are_corrected_one_after_the_other() -> None:
    found = checked("a red dog and a blue car", "a green dog and a blue tree")
    assert found.corrected == "a green dog and a blue tree"
    assert {v.claim.text for v in found.results if v.holds} == {"dog"}


def test_what_is_told_of_a_thing_falls_with_it() -> None:
    assert holding("three red dogs", "three red cars") == set()
    assert holding("a dog and a red car", "a tree and a red car") == {"car", "red car"}


def test_no_claims() -> None:
    found = checked("of the", "a dog")
    assert (found.results, found.corrected) == ((), "of the")


def test_no_numbers_mend_nothing() -> None:
    found = check(
        split("a dog", ENGLISH),
        lambda text: split(text, ENGLISH),
        lambda texts: torch.full((len(texts),), torch.nan),
    )
    assert found.corrected == "a dog"
