import ctypes
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipelines.runtime import cpu
from pipelines.runtime.cpu import CpuLinear, speed_up


@pytest.mark.parametrize("held_back", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "shape", [(24,), (1, 24), (2, 24), (2, 1, 24), (3, 24), (2, 5, 24), (0, 24)]
)
def test_linear_is_linear(
    shape: tuple[int, ...], bias: bool, held_back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "mkl_is_held_back", lambda: held_back)
    torch.manual_seed(0)
    layer = nn.Linear(24, 36, bias=bias)
    x = torch.randn(shape, requires_grad=True)
    wanted = layer(x)
    wanted.square().sum().backward()
    gradients = [x.grad, *(p.grad for p in layer.parameters())]
    x.grad = None
    layer.zero_grad()

    speed_up([layer])
    assert type(layer) is CpuLinear
    found = layer(x)
    assert found.shape == wanted.shape
    assert torch.allclose(found, wanted, atol=1e-5)
    found.square().sum().backward()
    for ours, theirs in zip(
        [x.grad, *(p.grad for p in layer.parameters())], gradients, strict=True
    ):
        assert ours is not None
        assert theirs is not None
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_autocast_computes_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "mkl_is_held_back", lambda: True)
    layer = nn.Linear(24, 36)
    speed_up([layer])
    for rows in (1, 9):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = layer(torch.randn(rows, 24))
        assert y.dtype == torch.bfloat16
        y.float().sum().backward()


def test_code_that_is_compiled_leaves_linear_to_the_compiler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu, "mkl_is_held_back", lambda: True)  # whose way cannot be compiled
    network = nn.Sequential(nn.Linear(8, 4))
    speed_up([network])
    x = torch.randn(5, 8)
    seen: list[str] = []

    def keep(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    compiled = torch.compile(network, backend=keep, fullgraph=True)
    torch.testing.assert_close(compiled(x), network(x))
    assert any("linear" in each for each in seen)
    assert not any("mkldnn" in each for each in seen)


def test_rows_that_do_not_lie_together() -> None:
    layer = nn.Linear(8, 6)
    speed_up([layer])
    for rows in (2, 7):
        x = torch.randn(8, rows).T
        assert torch.allclose(layer(x), functional.linear(x, layer.weight, layer.bias), atol=1e-6)


def test_only_plain_layers_in_float32_change() -> None:
    class Other(nn.Linear):
        pass

    network = nn.ModuleDict({"short": nn.Linear(2, 2, dtype=torch.bfloat16), "own": Other(2, 2)})
    keys = list(network.state_dict())
    speed_up([network])
    assert type(network["short"]) is nn.Linear
    assert type(network["own"]) is Other
    assert list(network.state_dict()) == keys


COUNT_FAULTS = """
import resource, torch
from pipelines.runtime.cpu import keep_freed_memory
if {keep}:
    keep_freed_memory()
def fill_and_free():
    torch.ones(10_000_000)  # 40 MB: more than glibc ever keeps by itself
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(16):  # until the heap has grown to what it needs
    fill_and_free()
before = faults()
for _ in range(8):
    fill_and_free()
print(faults() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="only glibc can be told")
def test_freed_memory_that_is_kept_is_not_asked_for_again() -> None:
    counts = [
        int(subprocess.check_output([sys.executable, "-c", COUNT_FAULTS.format(keep=keep)]))
        for keep in (False, True)
    ]
    assert counts[1] < counts[0] / 4
