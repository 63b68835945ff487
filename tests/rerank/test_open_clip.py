"""OpenCLIP's checkpoints: the cosines that open_clip 3 itself computed from the same weights."""

import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rerank import Reranker, WeightsError
from rerank.model import open_clip
from rerank.model.towers import image_features, text_features
from rerank.model.weights import load_model

VOCABULARY = 600
LAYER = {
    "ln_1.weight": ("w",), "ln_1.bias": ("w",),
    "attn.in_proj_weight": ("3w", "w"), "attn.in_proj_bias": ("3w",),
    "attn.out_proj.weight": ("w", "w"), "attn.out_proj.bias": ("w",),
    "ln_2.weight": ("w",), "ln_2.bias": ("w",),
    "mlp.c_fc.weight": ("4w", "w"), "mlp.c_fc.bias": ("4w",),
    "mlp.c_proj.weight": ("w", "4w"), "mlp.c_proj.bias": ("w",),
}  # fmt: skip
SHAPES: dict[str, tuple[int, ...]] = {
    "positional_embedding": (16, 24),
    "text_projection": (24, 12),
    "logit_scale": (),
    "visual.class_embedding": (128,),
    "visual.positional_embedding": (17, 128),
    "visual.proj": (128, 12),
    "visual.conv1.weight": (128, 3, 8, 8),
    "visual.ln_pre.weight": (128,),
    "visual.ln_pre.bias": (128,),
    "visual.ln_post.weight": (128,),
    "visual.ln_post.bias": (128,),
    "token_embedding.weight": (VOCABULARY, 24),
    "ln_final.weight": (24,),
    "ln_final.bias": (24,),
} | {
    f"{tower}.{number}.{name}": tuple(width * int(size.rstrip("w") or 1) for size in sizes)
    for tower, width in (("visual.transformer.resblocks", 128), ("transformer.resblocks", 24))
    for number in range(2)
    for name, sizes in LAYER.items()
}
EXPECTED = {  # texts by images, of the weights and inputs below
    False: [[-0.2282104641, -0.2543829978], [-0.1438647062, -0.1713156551]],
    True: [[-0.2229674160, -0.2483306527], [-0.1403036118, -0.1671990722]],
}


def weights() -> dict[str, torch.Tensor]:
    """Numbers that follow from the names."""
    made = {}
    for name, shape in SHAPES.items():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        made[name] = torch.randn(shape, generator=generator) * (0.2 if shape else 1)
    return made


def write(folder: Path, quick_gelu: bool = False, **changes: Any) -> Path:
    config = {
        "model_cfg": {
            "embed_dim": 12,
            "vision_cfg": {"image_size": 32, "layers": 2, "width": 128, "patch_size": 8},
            "text_cfg": {
                "context_length": 16,
                "vocab_size": VOCABULARY,
                "width": 24,
                "heads": 3,
                "layers": 2,
            },
            "quick_gelu": quick_gelu,
            **changes,
        },
        "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]},
    }
    folder.mkdir(exist_ok=True)
    (folder / open_clip.CONFIG).write_text(json.dumps(config))
    save_file(weights(), folder / open_clip.WEIGHTS)
    return folder


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_equal_to_open_clip(quick_gelu: bool, tmp_path: Path) -> None:
    model = load_model(write(tmp_path / "model", quick_gelu))
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([[597, 5, 9, 599] + [0] * 12, [597, 80, 7, 3, 2, 11, 599] + [0] * 9])
    with torch.no_grad():
        cosines = text_features(model, ids) @ image_features(model, pixels).T
    expected = torch.tensor(EXPECTED[quick_gelu])
    torch.testing.assert_close(cosines, expected, atol=1e-5, rtol=0)


def test_a_folder_judges(tiny_clip_folder: Path, tmp_path: Path) -> None:
    """As they are on the hub, with transformers' tokenizer files beside."""
    folder = write(tmp_path / "model")
    with pytest.raises(WeightsError, match=r"no tokenizer\.json"):
        Reranker.load(folder)
    for path in tiny_clip_folder.glob("*token*"):
        shutil.copy(path, folder)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(tiny_clip_folder / name, folder)
    highest = max(json.loads((folder / "vocab.json").read_text()).values())
    if highest >= VOCABULARY:
        pytest.fail(f"the tiny tokenizer has grown to {highest}")
    reranker = Reranker.load(folder, "cpu")
    images = torch.randint(0, 256, (3, 3, 40, 50), dtype=torch.uint8)
    scores = reranker.score("a panda", images)
    assert len(set(scores)) == 3
    assert reranker.image_size == 32
    assert reranker.context == 16
    assert reranker._preprocessing.mean == (0.5, 0.4, 0.3)


def test_transformers_format_comes_first(damaged: Path, reranker: Reranker) -> None:
    (damaged / open_clip.CONFIG).write_text("{}")
    images = torch.randint(0, 256, (3, 3, 40, 50), dtype=torch.uint8)
    found = Reranker.load(damaged, "cpu").score("a panda", images)
    assert found == pytest.approx(reranker.score("a panda", images), abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"custom_text": True}, "custom_text"),
        ({"text_cfg": {"hf_model_name": "roberta"}}, "hf_model_name"),
        ({"vision_cfg": {"layers": [3, 4, 6, 3], "image_size": 32, "width": 64}}, "residual"),
        ({"vision_cfg": {"layers": 2}}, "not a configuration of OpenCLIP"),
        ({"vision_cfg": None}, "not a configuration of OpenCLIP"),
    ],
)
def test_other_architectures_are_refused(
    changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=reason) as error:
        load_model(write(tmp_path / "model", **changes))
    assert "\n" not in str(error.value)


def test_every_key_is_accounted_for(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    state = weights()
    save_file({**state, "attn_mask": torch.zeros(16, 16)}, folder / open_clip.WEIGHTS)
    load_model(folder)
    save_file({**state, "visual.surprise": torch.zeros(1)}, folder / open_clip.WEIGHTS)
    with pytest.raises(WeightsError, match=r"1 weights are not the model's: visual\.surprise"):
        load_model(folder)
    del state["visual.proj"]
    save_file(state, folder / open_clip.WEIGHTS)
    with pytest.raises(WeightsError, match=r"1 weights are missing: visual_projection"):
        load_model(folder)
