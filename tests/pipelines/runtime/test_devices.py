import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import torch

from pipelines.runtime.devices import (
    choose_device,
    choose_dtype,
    compile_networks,
    is_out_of_memory,
    set_attention,
)

CPU = torch.device("cpu")
KEPT = "TORCHINDUCTOR_CACHE_DIR"


def test_auto_takes_what_there_is() -> None:
    chosen = choose_device("auto")
    assert chosen == choose_device(None)
    assert (chosen.type == "cuda") == torch.cuda.is_available()
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "xpu:0"])
def test_missing_device_lists_what_there_is(name: str) -> None:
    with pytest.raises(ValueError, match=f"no device '{name}' here; choose from auto, .*cpu"):
        choose_device(name)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", torch.float16])
@pytest.mark.fault("half precision on a CPU")
def test_half_precision_on_a_cpu_warns_and_is_float32(dtype: str | torch.dtype) -> None:
    with pytest.warns(UserWarning, match="far slower than float32 on a CPU"):
        assert choose_dtype(CPU, dtype) == torch.float32


def test_float32_on_a_cpu_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_dtype(CPU) == torch.float32
        assert choose_dtype(CPU, "float32") == torch.float32


@pytest.mark.parametrize("dtype", ["fp8", torch.float64])
def test_unknown_number_format_lists_the_choices(dtype: str | torch.dtype) -> None:
    with pytest.raises(ValueError, match="choose from float32, float16, bfloat16"):
        choose_dtype(CPU, dtype)


def test_attention_on_a_cpu_is_sdpa() -> None:
    for choice in (None, "auto", "sdpa"):
        assert set_attention([], choice, CPU, torch.float32) == "sdpa"
    with pytest.raises(ValueError, match="'xformers' needs a CUDA device"):
        set_attention([], "xformers", CPU, torch.float32)
    with pytest.raises(ValueError, match="choose from auto, xformers, sdpa"):
        set_attention([], "flash", CPU, torch.float32)


def test_out_of_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as real:
        torch.empty(2**60)
    assert is_out_of_memory(real.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(RuntimeError("could not create a primitive descriptor for a pool"))
    assert not is_out_of_memory(ValueError("not enough memory"))
    assert not is_out_of_memory(KeyboardInterrupt())


def test_compiled_code_is_kept_where_the_user_alone_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", sys.executable)  # is there, and is not called
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(KEPT, "elsewhere")
    compile_networks([], CPU)
    assert os.environ[KEPT] == "elsewhere"
    assert not [*tmp_path.iterdir()]
    monkeypatch.setenv(KEPT, f"{tempfile.gettempdir()}/torchinductor_somebody")
    compile_networks([], CPU)
    kept = tmp_path / "salon" / "compiled"
    assert os.environ[KEPT] == str(kept)
    assert kept.stat().st_mode & 0o077 == 0
    monkeypatch.delenv(KEPT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path(__file__)))  # where there can be no folder
    compile_networks([], CPU)
    assert KEPT not in os.environ


COMPILING = """
import torch
from torch._dynamo.utils import counters  # it chooses torch's own place
from pipelines.runtime.devices import compile_networks

class Network(torch.nn.Module):
    def forward(self, x):
        return torch.sin(x) + 1

network = Network()
compile_networks([network], torch.device("cpu"))
with torch.no_grad():
    network(torch.ones(2, 4))
print(counters["aot_autograd"]["autograd_cache_hit"], counters["inductor"]["fxgraph_cache_hit"])
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_a_later_process_finds_what_was_compiled(tmp_path: Path) -> None:
    own = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    own.pop(KEPT, None)
    hits = [
        sum(map(int, subprocess.check_output([sys.executable, "-c", COMPILING], env=own).split()))
        for _ in range(2)
    ]
    assert hits[0] == 0
    assert hits[1] > 0
