"""The manifest's lines are a file format: each reads as its event, and is written as it stands."""

import json
from pathlib import Path

import pytest

import gen
from gen.run_folder.events import (
    CandidateFailed,
    Damaged,
    ImageSaved,
    ImagesRanked,
    ImagesScored,
    RunBegan,
    from_json,
    to_json,
)

# As the first versions wrote them.
LINES = [
    '{"event": "run", "fingerprint": "072fcb0753e6af67", "seed": "1152921504606846983"}',
    '{"event": "prompt", "number": 1, "key": "ed7b", "request": {"prompt": "a panda", "seed": 5}}',
    '{"event": "picture", "number": 1, "seed": 5, "model": "fake",'
    ' "file": "candidates/0001-5.png", "unfinished": "step 1 of 4"}',
    '{"event": "picture", "number": 1, "log_likelihood": -3.5, "seed": "9007199254740992",'
    ' "model": "fake", "file": "candidates/0001-9007199254740992.png"}',
    '{"event": "failed", "number": 1, "seed": 7, "model": "fake", "failed": "not finite"}',
    '{"event": "judged", "number": 1, "scores": {"5": 0.25, "9007199254740992": 0.5}}',
    '{"event": "ranked", "number": 1, "whole": true, "pictures": [{"rank": 1, "score": 0.5,'
    ' "seed": 6, "model": "fake", "file": "candidates/0001-6.jpg", "to": "0001-6-r1.jpg"},'
    ' {"rank": 2, "seed": 5, "model": "fake", "file": "candidates/0001-5.jpg", "to": null}]}',
    '{"event": "placed", "number": 1}',
    '{"event": "end", "fingerprint": "072fcb0753e6af67"}',
    '{"event": "matched", "number": 1, "matches": {"5": 0.75}}',
    '{"event": "compared", "comparison": 1, "across": {"name": "guidance", "values": [1.0, 3.0]},'
    ' "down": {"name": "steps", "values": [5]}, "numbers": [1, 2]}',
    '{"event": "deleted", "files": {"2": {"6": "0002-6-r1.png"}}}',
    '{"event": "restored", "files": {"2": {"6": "0002-6-r1.png"}}}',
    '{"event": "emptied"}',
]
LINES_WITH_PARTS = [
    '{"event": "judged", "number": 1, "scores": {"5": 0.25}, "parts": {"5": {"clip": 0.3}}}',
    '{"event": "ranked", "number": 1, "whole": true, "pictures": [{"rank": 1, "score": 0.5,'
    ' "scores": {"clip": 0.3, "aesthetic": 5.5}, "seed": 6, "file": "candidates/0001-6.png",'
    ' "to": "0001-6-r1.png"}]}',
]


@pytest.mark.parametrize("line", LINES + LINES_WITH_PARTS)
def test_a_line_is_written_as_it_was_read(line: str) -> None:
    event = from_json(json.loads(line))
    assert event is not None
    assert not isinstance(event, Damaged)
    assert json.dumps(to_json(event)) == line


def test_what_lines_say() -> None:
    run, _, saved, _, failed, scored, ranked, *_ = [from_json(json.loads(line)) for line in LINES]
    assert run == RunBegan("072fcb0753e6af67", 1152921504606846983)
    assert isinstance(saved, ImageSaved)
    assert (saved.image.seed, saved.image.unfinished) == (5, "step 1 of 4")
    assert saved.image.scores == {}
    assert failed == CandidateFailed(1, 7, "not finite", "fake")
    assert scored == ImagesScored(1, {5: 0.25, 2**53: 0.5})
    assert isinstance(ranked, ImagesRanked)
    assert [each.to for each in ranked.placements] == ["0001-6-r1.jpg", None]


def test_an_event_of_a_newer_version_is_none_of_ours() -> None:
    assert from_json({"event": "painted", "number": 1, "colour": "red"}) is None


def test_more_keys_of_a_newer_version_change_nothing() -> None:
    for line in LINES:
        values = json.loads(line)
        assert from_json(values | {"mood": "calm"}) == from_json(values)


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("{}", None),
        ('{"number": 3}', 3),
        ('{"event": "picture", "number": 3}', 3),
        ('{"event": "picture", "number": [], "seed": 1, "file": "0001-1.png"}', None),
        ('{"event": "picture", "number": 1, "seed": 1, "file": "../0001-1.png"}', 1),
        ('{"event": "picture", "number": 1, "seed": 1, "file": 3}', 1),
        ('{"event": "picture", "number": 1, "seed": Infinity, "file": "0001-1.png"}', 1),
        ('{"event": "judged", "number": 1, "scores": 4}', 1),
        ('{"event": "judged", "number": 1, "scores": {"1": 0.5}, "parts": {"1": 3}}', 1),
        ('{"event": "ranked", "number": 1, "whole": true, "pictures": [3]}', 1),
        ('{"event": "compared", "comparison": 1, "numbers": []}', None),
        ('{"event": "deleted", "files": {"1": 5}}', None),
    ],
)
def test_a_damaged_line_says_which_prompt_it_was_about(line: str, number: int | None) -> None:
    event = from_json(json.loads(line))
    assert isinstance(event, Damaged)
    assert event.number == number


def test_nothing_else_knows_how_the_lines_look() -> None:
    root = Path(gen.__file__).parents[1]
    files = [path for part in ("gen", "ui") for path in (root / part).rglob("*.py")]
    knowing = {path for path in files if '"event"' in path.read_text(encoding="utf-8")}
    assert {path.parent.name for path in knowing} == {"run_folder"}
    assert {path.name for path in knowing} == {"events.py", "choices.py", "searched.py"}
