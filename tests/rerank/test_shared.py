"""What pipelines and rerank had twice and now share: both must behave alike."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import gen.models
import pipelines
import rerank
from pipelines.families import find
from pipelines.runtime.devices import is_out_of_memory
from rerank import Reranker, WeightsError
from rerank.model import towers

CODE = {"auto_map": {"AutoModel": "evil.Model"}}
PHRASES = (
    "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
    "DefaultCPUAllocator: not enough memory",
    "CUDA out of memory. Tried to allocate 9.00 GiB",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)",
    "could not create a primitive",  # of oneDNN, under a limit of memory
)


def edit(path: Path, setting: dict[str, Any]) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **setting}))


def test_one_class_of_errors() -> None:
    assert rerank.WeightsError is pipelines.WeightsError is gen.models.WeightsError


@pytest.mark.parametrize(
    "setting", [CODE, {"text_config_of": {"deep": CODE}}, {"parts": [1, [{"deep": CODE}]]}]
)
def test_code_is_refused_at_any_depth(
    setting: dict[str, Any], damaged: Path, tiny_diffusion_folder: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny_diffusion_folder, tmp_path / "model"))
    edit(model / "vae" / "config.json", setting)
    with pytest.raises(WeightsError, match="sets 'auto_map', which would run code"):
        find(str(model))
    for file in ("config.json", "preprocessor_config.json"):
        kept = (damaged / file).read_text()
        edit(damaged / file, setting)
        with pytest.raises(WeightsError, match="sets 'auto_map', which would run code"):
            Reranker.load(damaged, "cpu")
        (damaged / file).write_text(kept)


@pytest.mark.parametrize("phrase", PHRASES)
def test_running_out_of_memory_is_known_by_each_phrase(
    phrase: str, tiny_clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_out_of_memory(RuntimeError(phrase))
    images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    reranker, encode = Reranker.load(tiny_clip_folder, "cpu"), towers.image_features
    expected = reranker.score("a panda", images)

    def short_of_memory(model: Any, pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > 1:
            raise RuntimeError(phrase)
        return encode(model, pixels)

    monkeypatch.setattr(towers, "image_features", short_of_memory)
    assert reranker.score("a panda", images) == pytest.approx(expected, abs=1e-6)
