import json
import random
from collections import Counter
from pathlib import Path

import pytest

from train.world import measure, words
from train.world.captions import REQUESTS, Speaker
from train.world.facts import describe
from train.world.prompts import (
    FREE_COUNT,
    FREE_SINGLE,
    FREE_TWO,
    TAGS,
    from_row,
    make_prompts,
    read_prompts,
    to_row,
)
from train.world.scene import draw_scene


def test_the_file_is_what_the_program_makes() -> None:
    prompts = read_prompts()
    assert prompts == make_prompts()
    assert Counter(prompt.tag for prompt in prompts) == TAGS
    assert sum(prompt.wording == "free" for prompt in prompts) >= 240
    assert sum(prompt.held_out for prompt in prompts) > 100


def test_rows_are_read_as_they_are_written(tmp_path: Path) -> None:
    for prompt in make_prompts()[:60]:
        assert from_row(json.loads(json.dumps(to_row(prompt)))) == prompt


@pytest.mark.parametrize("changed", [{"style": "oil"}, {"include": [{"class": "x", "count": 1}]}])
def test_a_row_of_another_world_is_an_error(changed: dict) -> None:
    with pytest.raises(ValueError, match="there is no"):
        from_row(to_row(make_prompts()[0]) | changed)


def test_no_grammar_of_training_makes_the_free_wordings() -> None:
    forms = {form.format(ax="a panda", x="panda", xs="pandas", n="3") for form in FREE_SINGLE}
    assert not forms & {request.format("a panda") for request in REQUESTS}
    table = words.load()
    speaker, rng = Speaker(table.unknown, table.adjectives, table.verbs), random.Random(0)
    free = {prompt.text for prompt in read_prompts() if prompt.wording == "free"}
    for _ in range(3000):
        assert speaker.phrase(describe(draw_scene(rng), rng), rng) not in free
    assert len(FREE_SINGLE) + len(FREE_COUNT) + len(FREE_TWO) > 50


def test_groups_of_a_prompt_are_those_of_the_report() -> None:
    for prompt in read_prompts():
        assert measure.groups_of(prompt) <= set(measure.GROUPS)


def test_a_quiz_has_one_true_caption_of_sixteen(
    few: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "FIRST", few)
    rng = random.Random(0)
    quiz = next(each for each in (measure.quiz(rng, False) for _ in range(50)) if each)
    assert len(quiz.captions) == 16
    assert len(quiz.changed) == 15
    assert quiz.picture.shape == (1, 3, 64, 64)
