"""What events come to."""

from typing import Any

import pytest

from gen.run_folder.events import Event, SavedImage, from_json
from gen.run_folder.fold import PromptHistory, fold, fold_what_fits
from gen.settings.request import Request


def prompt(number: int = 1, top_k: int = 1) -> dict[str, Any]:
    request = {"prompt": "a panda", "seed": 1, "candidates": 3, "top_k": top_k}
    return {"event": "prompt", "number": number, "key": str(number), "request": request}


def saved(seed: int) -> dict[str, Any]:
    return {"event": "picture", "number": 1, "seed": seed, "file": f"candidates/0001-{seed}.png"}


def ranked(*seeds: int, kept: int = 99) -> dict[str, Any]:
    entries = [
        {**saved(seed), "rank": rank, "to": f"0001-r{rank}-{seed}.png" if rank <= kept else None}
        for rank, seed in enumerate(seeds, start=1)
    ]
    return {"event": "ranked", "number": 1, "whole": True, "pictures": entries}


PLACED = {"event": "placed", "number": 1}
DELETED = {"event": "deleted", "files": {"1": {"1": "candidates/0001-1.png"}}}
RESTORED = DELETED | {"event": "restored"}


def folded(*lines: dict[str, Any]) -> PromptHistory:
    return fold(event for line in lines if (event := from_json(line)) is not None).prompts[1]


def seeds(images: list[SavedImage]) -> list[int]:
    return [image.seed for image in images]


def test_images_stand_best_first_then_as_they_were_made() -> None:
    found = folded(prompt(), saved(1), saved(2), ranked(2, 1), PLACED, saved(3))
    assert seeds(found.images) == [2, 1, 3]
    assert seeds(found.best) == [2]
    assert seeds(found.rest) == [1, 3]
    assert found.images[0].file == "0001-r1-2.png"
    assert found.is_placed


def test_a_ranking_that_was_not_carried_out_is_known() -> None:
    found = folded(prompt(), saved(1), saved(2), ranked(2, 1))
    assert not found.is_placed
    assert found.ranking is not None
    assert [each.image.file for each in found.ranking.placements] == [
        "candidates/0001-2.png",
        "candidates/0001-1.png",
    ]


def test_what_was_dropped_is_no_image_until_it_is_made_again() -> None:
    lines = [prompt(), saved(1), saved(2), ranked(2, 1, kept=1), PLACED]
    found = folded(*lines)
    assert seeds(found.images) == [2]
    assert found.dropped.keys() == {1}
    again = folded(*lines, saved(1))
    assert seeds(again.images) == [2, 1]
    assert again.dropped == {}


def test_a_failed_candidate_has_no_image() -> None:
    failed = {"event": "failed", "number": 1, "seed": 1, "failed": "not finite"}
    assert seeds(folded(prompt(), saved(1), saved(2), failed).images) == [2]


def test_scores_parts_and_matches_come_to_their_images() -> None:
    judged = {"event": "judged", "number": 1, "scores": {"1": 0.5}, "parts": {"1": {"clip": 0.3}}}
    matched = {"event": "matched", "number": 1, "matches": {"1": 0.75}}
    [image] = folded(prompt(), saved(1), judged, matched).images
    assert (image.score, image.scores, image.match) == (0.5, {"clip": 0.3}, 0.75)
    [image] = folded(prompt(), saved(1), matched, ranked(1)).images
    assert (image.rank, image.match) == (1, 0.75)


def test_one_that_is_deleted_while_its_prompt_is_drawn_costs_the_others_nothing() -> None:
    judged = {"event": "judged", "number": 1, "scores": {"1": 0.5, "2": 0.25}}
    lines = [prompt(), saved(1), saved(2), DELETED, judged, ranked(1, 2), PLACED]
    found = folded(*lines)
    assert seeds(found.images) == [2]
    assert found.find(2).rank == 2  # type: ignore[union-attr]
    assert found.find(1) is None
    assert seeds(folded(*lines, RESTORED).images) == [2, 1]


def test_one_that_was_made_again_stays_when_the_old_one_is_restored() -> None:
    found = folded(prompt(), saved(1), ranked(1), DELETED, saved(1), RESTORED)
    assert found.images == [SavedImage(1, "candidates/0001-1.png")]


@pytest.mark.parametrize(
    "line",
    [
        {"event": "picture", "number": 2, "seed": 1, "file": "candidates/0002-1.png"},
        {"event": "judged", "number": 1, "scores": {"9": 0.5}},
        {"event": "matched", "number": 1, "matches": {"9": 0.5}},
        {"event": "picture", "number": 1},
        {"event": "prompt", "number": 2, "key": "2", "request": {"prompt": ""}},
    ],
)
def test_what_cannot_be_is_an_error(line: dict[str, Any]) -> None:
    lines: list[Event | None] = [from_json(each) for each in (prompt(), saved(1), line)]
    with pytest.raises((KeyError, ValueError)):
        fold(lines)


def test_a_request_that_is_known_is_not_read_again_unless_its_line_was_edited() -> None:
    known = Request("a panda", seed=1, candidates=3, top_k=1)
    began, other, wrong = (from_json(prompt(top_k=top_k)) for top_k in (1, 2, 9))
    assert fold_what_fits([began], known).prompts[1].request is known
    assert fold_what_fits([other], known).prompts[1].request == known.replace(top_k=2)
    assert not fold_what_fits([wrong], known).prompts
