"""Where the networks run: device, dtype, attention kernels, out-of-memory errors."""

import importlib.util
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
TORCHS_OWN_CACHE = os.path.join(tempfile.gettempdir(), "torchinductor_")  # and the user's name
ATTENTION = ("auto", "xformers", "sdpa")


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """Choose a device by name; None or "auto" is the first of cuda, mps and cpu that is available.

    Raises ValueError with what there is for a device that this machine lacks.
    """
    there = ["cpu"]
    if torch.backends.mps.is_available():
        there.insert(0, "mps")
    there[:0] = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if device is None or device == "auto":
        return torch.device(there[0])
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = None
    if chosen is not None and chosen.type == "cuda" and chosen.index is None:
        chosen = torch.device("cuda", 0)
    if chosen is None or str(chosen) not in there:
        raise ValueError(f"no device {str(device)!r} here; choose from auto, {', '.join(there)}")
    return chosen


def choose_dtype(device: torch.device, dtype: str | torch.dtype | None = None) -> torch.dtype:
    """Choose the dtype of the networks; None is half precision on cuda and float32 elsewhere.

    Half precision on a CPU is up to hundreds of times slower than float32, so asking for it warns
    and gives float32. Raises ValueError with the choices for an unknown name.
    """
    if dtype is None:
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    chosen = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in DTYPES.values():
        raise ValueError(f"no dtype {str(dtype)!r}; choose from {', '.join(DTYPES)}")
    if device.type == "cpu" and chosen != torch.float32:
        name = str(chosen).removeprefix("torch.")
        warnings.warn(
            f"{name} is far slower than float32 on a CPU; using float32 instead", stacklevel=2
        )
        return torch.float32
    return chosen


def set_attention(
    networks: Iterable[Any],
    choice: str | None,
    device: torch.device,
    dtype: torch.dtype,
) -> str:
    """Switch diffusers networks to the chosen attention and return what will really run.

    "auto" (or None) is xformers on cuda where it is installed, else PyTorch's
    scaled_dot_product_attention, which diffusers uses by itself. A network with a head size that
    xformers has no kernel for keeps the latter, with a warning. The answer is "xformers", "sdpa"
    or "xformers+sdpa". Raises ValueError for an unknown choice, or xformers where it cannot run.
    """
    choice = "auto" if choice is None else choice
    if choice not in ATTENTION:
        raise ValueError(f"no attention {choice!r}; choose from {', '.join(ATTENTION)}")
    possible = device.type == "cuda" and importlib.util.find_spec("xformers") is not None
    if choice == "xformers" and not possible:
        raise ValueError(
            "attention 'xformers' needs a CUDA device and pip install 'salon[gpu]'; choose 'sdpa'"
        )
    if choice == "sdpa" or not possible:
        return "sdpa"
    running = set()
    for network in networks:
        sizes = _head_sizes(network)
        if all(_xformers_runs(size, device, dtype) for size in sizes):
            network.enable_xformers_memory_efficient_attention()
            running.add("xformers")
        else:
            warnings.warn(
                f"xformers has no kernel for head sizes {sorted(sizes)} of "
                f"{type(network).__name__} in {dtype}; it uses sdpa",
                stacklevel=2,
            )
            running.add("sdpa")
    return "+".join(sorted(running, reverse=True))


def compile_networks(networks: Iterable[torch.nn.Module], device: torch.device) -> None:
    """Let torch.compile translate networks when they first run, and again for each new size.

    What it makes is kept in the user's cache for later processes. Raises ValueError on a CPU
    without the C++ compiler that it needs there.
    """
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise ValueError(f"compiling needs a C++ compiler, and {compiler!r} is not installed")
    _keep_compiled_code()
    for network in networks:
        network.compile()


def _keep_compiled_code() -> None:
    """Have torch keep compiled code where it outlives a restart, and where nobody else can write.

    Its own place is a folder of temporary files that everybody can name. Whoever has set
    TORCHINDUCTOR_CACHE_DIR, or has no home, stays with what there is.
    """
    chosen = os.environ.get("TORCHINDUCTOR_CACHE_DIR", TORCHS_OWN_CACHE)  # which torch puts there
    if not chosen.startswith(TORCHS_OWN_CACHE):
        return
    with suppress(OSError, RuntimeError):
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(cache) / "salon" / "compiled"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


def _head_sizes(network: torch.nn.Module) -> set[int]:
    from diffusers.models.attention_processor import Attention

    return {m.inner_dim // m.heads for m in network.modules() if isinstance(m, Attention)}


def _xformers_runs(head_size: int, device: torch.device, dtype: torch.dtype) -> bool:
    from xformers.ops import memory_efficient_attention

    x = torch.zeros(1, 2, 1, head_size, device=device, dtype=dtype)
    try:
        memory_efficient_attention(x, x, x)
    except (NotImplementedError, ValueError, RuntimeError):
        return False
    return True


# Not every allocator raises a type of its own: these are what the others say. oneDNN says that it
# cannot create a primitive; where it has none, that is about a primitive's descriptor.
_OUT_OF_MEMORY = re.compile(
    "can't allocate memory|not enough memory|out of memory|CUBLAS_STATUS_ALLOC_FAILED"
    "|could not create a primitive(?! descriptor)"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a smaller batch might avoid this error: device or host memory ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None
