from threading import Thread

import torch

from rerank.model.cores import each_core


def test_each_core_works_on_items_of_its_own() -> None:
    threads = torch.get_num_threads()
    found = list(each_core(range(9), lambda item: (item, torch.get_num_threads())))
    assert found == [(item, 1) for item in range(9)]
    assert torch.get_num_threads() == threads
    later: list[int] = []
    other = Thread(target=lambda: later.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert later == [threads]
