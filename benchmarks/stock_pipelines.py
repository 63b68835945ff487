"""Every pipeline of the installed diffusers: drawn as it draws, or refused, and by which words.

`python -m benchmarks.stock_pipelines CHECKOUT [NAME …]`, a checkout of diffusers for the small
random parts in its tests (which take `requests_mock` and `parameterized`). Parts that they fetch
are made here instead. Each pipeline is saved, loaded from there by Salon, and both are asked for
the same image; it is equal where no value differs by more than 1 of 255.
"""

import argparse
import importlib
import inspect
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import TestCase, mock

import numpy as np
import torch

PATIENCE = 60.0  # seconds of the processor for one
STEPS, SIZE = 2, 64
SMALL: dict[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 4}
RELATED = "StableDiffusionPipeline"  # whose parts others take that have none in the tests
TESTS = Path(__file__).parents[1] / "tests"


def main() -> None:
    """Print a line for each, and how many there are of each kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path, help="a checkout of diffusers")
    parser.add_argument("names", nargs="*", help="of pipelines; all that draw from text")
    given = parser.parse_args()
    os.environ |= {"DIFFUSERS_VERBOSITY": "critical", "TRANSFORMERS_VERBOSITY": "critical"}
    sys.path[:0] = [str(given.checkout), str(TESTS), str(TESTS / "pipelines")]
    import diffusers

    found: dict[str, list[str]] = {}
    names = given.names or [name for name in dir(diffusers) if name.endswith("Pipeline")]
    signal.signal(signal.SIGVTALRM, _give_up)
    with TemporaryDirectory() as folder, _made_here(Path(folder)):
        for name in names:
            refused = _refused(name, Path(folder))
            result = refused or _compared(name, given.checkout, Path(folder))
            found.setdefault("refused before loading" if refused else result, []).append(name)
            if given.names or not refused:
                print(f"{name:42} {result}", flush=True)
    for result, each in sorted(found.items()):
        print(f"{len(each):4} {result}")


def _give_up(*_: object) -> None:
    raise TimeoutError("too slow")


def _refused(name: str, folder: Path) -> str:
    """Return why a folder of this pipeline is refused by its name alone; "" if it is not."""
    from pipelines.checkpoints.errors import WeightsError
    from pipelines.families import find
    from pipelines.stock.pipeline import _load

    place = folder / f"index-{name}"
    place.mkdir()
    index = {"_class_name": name, "scheduler": ["diffusers", "DDIMScheduler"]}
    (place / "model_index.json").write_text(json.dumps(index))
    try:
        _load(find(str(place)).folder, torch.float32)
    except WeightsError as error:
        return "" if "holds a" not in str(error) else str(error).partition("holds a ")[2]
    return ""


def _compared(name: str, checkout: Path, folder: Path) -> str:
    signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE)
    try:
        with torch.random.fork_rng(devices=[]):
            return _draw_both(name, checkout, folder / name)
    except (Exception, SystemExit) as error:  # what tests and parts of all kinds raise
        return f"{type(error).__name__}: {' '.join(str(error).split())[:110]}"
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _draw_both(name: str, checkout: Path, folder: Path) -> str:
    import diffusers

    from pipelines.families import find
    from pipelines.stock.pipeline import StockPipeline

    case = _case(name, checkout) or _case(RELATED, checkout)
    assert case is not None
    torch.manual_seed(0)
    parts = case.get_dummy_components()
    takes = inspect.signature(getattr(diffusers, name)).parameters
    if case.pipeline_class.__name__ != name:
        if not {part for part, of in takes.items() if of.default is of.empty} - {"self"} <= {
            *parts
        }:
            return "no small parts in the tests"
        parts = {part: value for part, value in parts.items() if part in takes}
        is_parallel = name == "StableDiffusionParadigmsPipeline"
        parts["scheduler"] = getattr(
            diffusers, "DDIMParallelScheduler" if is_parallel else "DDIMScheduler"
        )()
    stock = getattr(diffusers, name)(**parts)
    for part in stock.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()  # as it is when it is loaded
    stock.save_pretrained(folder)
    spec = find(str(folder))
    if spec.kind != "diffusers":
        return f"of a family of its own, {spec.kind}, and its tests"
    stock.set_progress_bar_config(disable=True)
    asked = {**_inputs(case), "num_inference_steps": STEPS}
    known = inspect.signature(stock.__call__).parameters
    sizes = {key: asked.get(key) or SIZE for key in ("width", "height") if key in known}
    steps = {key: asked[key] for key in ("num_inference_steps",) if key in known}
    chance = torch.Generator().manual_seed(7)
    made = stock(prompt="a panda", generator=chance, output_type="np", **sizes, **steps)
    expected = np.asarray(getattr(made, "images", made[0]))[0]
    ours = StockPipeline.from_pretrained(folder, device="cpu")
    [image] = ours("a panda", seeds=[7], **({"steps": STEPS} if steps else {}), **sizes)
    if not np.isfinite(expected).all():
        return "no image in both" if image is None else "differs: not finite in diffusers"
    apart = np.abs(np.asarray(image) - (expected * 255).round().astype(int)).max()
    return "equal" if apart <= 1 else f"differs by {apart} of 255"


def _inputs(case: Any) -> dict[str, Any]:
    try:
        return dict(case.get_dummy_inputs("cpu"))
    except TypeError:
        return dict(case.get_dummy_inputs())


def _case(name: str, checkout: Path) -> Any:
    """Return the case of the tests that makes small parts of a pipeline; None without one."""
    for path in sorted((checkout / "tests" / "pipelines").rglob("test_*.py")):
        if not re.search(rf"pipeline_class\s*=\s*{name}\b", path.read_text("utf-8")):
            continue
        module = importlib.import_module(".".join(path.relative_to(checkout).with_suffix("").parts))
        for each in vars(module).values():
            of = getattr(getattr(each, "pipeline_class", None), "__name__", "")
            if isinstance(each, type) and of == name and hasattr(each, "get_dummy_components"):
                tests = [test for test in dir(each) if test.startswith("test_")]
                return each(tests[0]) if issubclass(each, TestCase) else each()
    return None


@contextmanager
def _made_here(folder: Path) -> Iterator[None]:
    """Let tests have small parts that are made here where they would fetch some."""
    import transformers

    kinds = ("PreTrainedTokenizerBase", "PreTrainedModel", "AutoTokenizer", "AutoModel",
             "AutoProcessor", "AutoConfig")  # fmt: skip
    with ExitStack() as stack:
        for kind in kinds:
            original = getattr(transformers, kind).from_pretrained.__func__
            replaced = classmethod(_instead(original, folder))
            stack.enter_context(
                mock.patch.object(getattr(transformers, kind), "from_pretrained", replaced)
            )
        yield


def _instead(original: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    def from_pretrained(kind: Any, name: Any, *rest: Any, **more: Any) -> Any:
        if Path(name).exists():
            return original(kind, name, *rest, **more)
        return _part(kind.__name__, str(name).lower(), folder)

    return from_pretrained


def _part(kind: str, name: str, folder: Path) -> Any:
    """Make what tests fetch by a name, as a class."""
    import conftest
    import stock_parts
    import transformers

    words = stock_parts.t5()[0]
    t5 = transformers.T5Config(vocab_size=len(words), **SMALL)
    if "Config" in kind and "t5" in name:
        return t5
    if kind == "CLIPTokenizer":
        if not (folder / "clip").is_dir():
            conftest.write_tokenizer(folder / "clip")
        return transformers.CLIPTokenizer.from_pretrained(folder / "clip", model_max_length=77)
    if "Tokenizer" in kind or kind == "AutoProcessor":
        return words if "T5" in kind or "t5" in name else stock_parts.bytes_tokenizer()
    if "t5" in name:
        return transformers.T5EncoderModel(t5)
    if "bert" in name:
        return transformers.BertModel(
            transformers.BertConfig(
                vocab_size=300, hidden_size=32, intermediate_size=16, num_hidden_layers=1,
                num_attention_heads=2,
            )
        )  # fmt: skip
    if "qwen2vl" in name.replace("-", "") and "Processor" not in kind:
        text = {**stock_parts.SMALL, "rope_scaling": {"mrope_section": [1, 1, 2],
                "rope_type": "default", "type": "default"}}  # fmt: skip
        vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
                  "out_hidden_size": 16}  # fmt: skip
        config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
        return transformers.Qwen2_5_VLForConditionalGeneration(config)
    if "llama" in name:
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**stock_parts.SMALL))
    raise OSError(f"no {kind} is made here for {name}")


if __name__ == "__main__":
    main()
