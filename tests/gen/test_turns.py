"""Threads of one process that draw on the CPU."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gen import Engine, generate
from gen.turns import Turns
from pipelines.drafts import Draft


def test_turns_go_round_and_never_overlap() -> None:
    turns, inside, taken = Turns(), threading.Lock(), []
    all_there = threading.Barrier(3)

    def work(name: str) -> None:
        all_there.wait(timeout=60)
        for _ in range(50):
            with turns:
                assert inside.acquire(blocking=False), "two at once"
                taken.append(name)
                inside.release()

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, "abc"))
    assert sorted(taken) == sorted("abc" * 50)


def test_who_has_had_a_turn_waits_behind_those_that_wait() -> None:
    turns, order, begun = Turns(), [], threading.Event()

    def other() -> None:
        begun.set()
        with turns:
            order.append("other")

    with turns:
        thread = threading.Thread(target=other)
        thread.start()
        begun.wait(timeout=60)
        while not turns._next.locked():  # until it waits
            pass
    with turns:
        order.append("again")
    thread.join()
    assert order == ["other", "again"]


def test_after_an_error_the_turn_goes_on() -> None:
    turns = Turns()
    with pytest.raises(KeyboardInterrupt), turns:
        raise KeyboardInterrupt
    with turns:
        pass


def test_two_threads_that_draw_step_one_after_the_other_and_draw_the_same(
    tiny_diffusion_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"model": str(tiny_diffusion_folder), "candidates": 2, "steps": 3}

    def draw(seed: int) -> list[bytes]:
        engine = Engine("cpu", reranker="none")
        images = [each.image for each in generate("a fox", seed=seed, engine=engine, **asked)]
        return [image.tobytes() for image in images if image is not None]

    alone = [draw(1), draw(2)]
    inside, step = threading.Lock(), Draft.step

    def counted(self: Draft, count: int = 1) -> None:
        assert inside.acquire(blocking=False), "two steps at once"
        try:
            step(self, count)
        finally:
            inside.release()

    monkeypatch.setattr(Draft, "step", counted)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(draw, [1, 2])) == alone
