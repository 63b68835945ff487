"""How many candidates are drawn at once."""

import gc
import resource
import weakref

import pytest

from gen.memory import BatchSize, collect_garbage, free_on_host

GB = 1e9


def test_small_pictures_go_together_and_large_ones_do_not() -> None:
    assert BatchSize(64 * 64).choose(100, 8 * GB) == 16
    assert BatchSize(1024 * 1024).choose(100, 8 * GB) == 1
    assert BatchSize(64 * 64).choose(3, 8 * GB) == 3
    assert BatchSize(64 * 64).choose(3, 0) == 1


def test_the_first_pictures_may_come_early() -> None:
    sizes = BatchSize(64 * 64, early=True)
    assert [sizes.choose(100, 8 * GB) for _ in range(3)] == [4, 16, 16]
    assert BatchSize(64 * 64, early=True).choose(3, 8 * GB) == 3
    assert BatchSize(64 * 64, fixed=6, early=True).choose(100, 8 * GB) == 6


def test_it_learns_from_what_a_micro_batch_took() -> None:
    sizes = BatchSize(512 * 512)
    assert sizes.choose(100, 20 * GB) == 4
    sizes.learn(4, 1 * GB)  # less than was guessed, but not believed at once
    assert sizes.choose(100, 20 * GB) == 9
    sizes.learn(9, 45 * GB)
    assert sizes.choose(100, 20 * GB) == 2


def test_what_the_user_wants_holds_until_memory_is_short() -> None:
    sizes = BatchSize(1024 * 1024, fixed=40)
    assert sizes.choose(100, 1 * GB) == 40
    sizes.halve(40)
    assert sizes.choose(100, 1 * GB) == 20


@pytest.mark.fault("memory runs out")
def test_free_memory_respects_the_address_space_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert free_on_host() > 1e6
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1000, 1000))
    assert free_on_host() == 0


class Knot:
    """What only the collector frees: it refers to itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.mark.parametrize("frozen", [False, True])
def test_what_was_let_go_of_is_freed_also_where_it_was_frozen(frozen: bool) -> None:
    knot = Knot()
    gone = weakref.ref(knot)
    gc.unfreeze()
    if frozen:
        gc.freeze()
    del knot
    collect_garbage()
    assert gone() is None
    assert (gc.get_freeze_count() > 0) == frozen
    gc.unfreeze()
