import ctypes
import subprocess
import sys
import warnings

import pytest
import torch

from pipelines.devices import choose_device, choose_dtype, is_out_of_memory, set_attention

CPU = torch.device("cpu")


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


COUNT_FAULTS = """
import resource, torch
from pipelines.devices import keep_freed_memory
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


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="only glibc can be told")
def test_freed_memory_that_is_kept_is_not_asked_for_again() -> None:
    counts = [
        int(subprocess.check_output([sys.executable, "-c", COUNT_FAULTS.format(keep=keep)]))
        for keep in (False, True)
    ]
    assert counts[1] < counts[0] / 4


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
    assert not is_out_of_memory(ValueError("not enough memory"))
    assert not is_out_of_memory(KeyboardInterrupt())
