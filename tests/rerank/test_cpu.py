from threading import Thread

import pytest
import torch
from torch import nn

from rerank.model import cpu


@pytest.mark.parametrize("shape", [(1, 24), (5, 24), (2, 3, 24)])
def test_linear_is_linear(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "mkl_is_held_back", lambda: True)
    layer, x = nn.Linear(24, 36), torch.randn(shape)
    wanted = layer(x)
    cpu.speed_up(layer)
    assert type(layer) is cpu.OneDnnLinear
    assert torch.allclose(layer(x), wanted, atol=1e-6)


def test_where_mkl_is_at_home_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "mkl_is_held_back", lambda: False)
    layer = nn.Linear(2, 2)
    cpu.speed_up(layer)
    assert type(layer) is nn.Linear


def test_each_core_works_on_items_of_its_own() -> None:
    threads = torch.get_num_threads()
    found = list(cpu.each_core(range(9), lambda item: (item, torch.get_num_threads())))
    assert found == [(item, 1) for item in range(9)]
    assert torch.get_num_threads() == threads
    later: list[int] = []
    other = Thread(target=lambda: later.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert later == [threads]
