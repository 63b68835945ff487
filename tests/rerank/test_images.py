import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rerank import Reranker
from rerank.images import AHEAD, ahead, list_images


def test_folders(tmp_path: Path) -> None:
    names = ["b.png", "a.JPG", "c.txt", ".hidden.png", "inner/d.webp", ".rerank/e.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in list_images(tmp_path)] == ["a.JPG", "b.png"]
    deep = [str(path.relative_to(tmp_path)) for path in list_images(tmp_path, deep=True)]
    assert deep == ["a.JPG", "b.png", "inner/d.webp"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images"):
        list_images(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"c\.txt: not a folder"):
        list_images(tmp_path / "c.txt")


def test_results_keep_their_order_and_errors_their_place() -> None:
    def work(number: int) -> int:
        time.sleep(0.001 * (number % 3))
        if number % 10 == 4:
            raise ValueError(str(number))
        return number

    found = list(ahead(range(200), work, ValueError))
    assert [str(each) for each in found] == [str(number) for number in range(200)]
    bad = [number for number, each in enumerate(found) if isinstance(each, ValueError)]
    assert bad == list(range(4, 200, 10))


def test_other_errors_are_raised() -> None:
    def work(number: int) -> int:
        raise KeyError(number)

    with pytest.raises(KeyError):
        list(ahead(range(3), work, ValueError))


def test_a_stream_is_read_only_a_little_ahead() -> None:
    read = 0

    def stream() -> Iterator[int]:
        nonlocal read
        for number in range(100_000):
            read += 1
            yield number

    results = ahead(stream(), lambda number: number, ValueError)
    for expected in range(1000):
        assert next(results) == expected
        assert read <= expected + 1 + AHEAD
    results.close()  # type: ignore[attr-defined]
    assert not [each for each in threading.enumerate() if each.name.startswith("decode")]


def test_few_images_of_a_long_stream_are_alive(reranker: Reranker) -> None:
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    most = 0

    def stream() -> Iterator[torch.Tensor]:
        nonlocal most
        for _ in range(600):
            image = torch.zeros(3, 64, 64, dtype=torch.uint8)
            alive.add(image)
            most = max(most, len(alive))
            yield image

    done: list[int] = []
    assert len(reranker.encode(stream(), progress=done.append)) == 600
    assert done == sorted(done)
    assert done[-1] == 600
    assert most <= 2 * AHEAD
