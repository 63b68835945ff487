"""Masks by words, points and boxes: what is written is read, and the networks are transformers'."""

import json
from pathlib import Path
from typing import Any

import mask_models
import numpy as np
import pytest
import torch
from mask_models import LOOK
from PIL import Image
from transformers.models.clipseg import CLIPSegForImageSegmentation
from transformers.models.sam import SamModel

from gen import InputError
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.loading import save_network
from pipelines.segmentation import asked, models
from pipelines.segmentation.asked import Asked, Frame, Point, Words
from pipelines.segmentation.clicked import Sam
from pipelines.segmentation.finding import Finder
from pipelines.segmentation.named import ClipSeg, Small, normalized
from pipelines.segmentation.network import MaskConfig, MaskNetwork

CPU = torch.device("cpu")


def photo(width: int = 60, height: int = 45) -> Image.Image:
    colours = np.random.default_rng(3).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def clipseg(tmp_path_factory: pytest.TempPathFactory, make_tokenizer: Any) -> Path:
    return mask_models.write_clipseg(tmp_path_factory.mktemp("clipseg"), make_tokenizer)


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mask_models.write_sam(tmp_path_factory.mktemp("sam"))


def test_parts_are_joined_by_plus_and_minus() -> None:
    read = asked.read("the panda + a well-known ball - the hat", "4,5 - 6,7", "1,2,3,4")
    assert read == Asked(
        (Words("the panda"), Words("a well-known ball"), Words("the hat", adds=False)),
        (Point(4, 5), Point(6, 7, adds=False)),
        (Frame((1, 2, 3, 4)),),
    )


@pytest.mark.parametrize(
    ("text", "point", "box", "reason"),
    [
        ("", None, None, "mask_text"),
        ("a + ", None, None, "mask_text a +"),
        ("- the hat", None, None, "only takes away"),
        (None, "4;5", None, "mask_point 4;5: must be x,y"),
        (None, "4,5,6", None, "must be x,y"),
        (None, "-4,5", None, "must be x,y"),
        (None, None, "1,2,3", "mask_box 1,2,3: must be left,top,right,bottom"),
        (None, None, "5,2,3,4", "mask_box 5,2,3,4: is empty"),
        (" + ".join(["a"] * 65), None, None, "up to 64 parts"),
    ],
)
def test_what_is_not_clear_is_said(
    text: str | None, point: str | None, box: str | None, reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        asked.read(text, point, box)


def test_clipseg_finds_what_transformers_finds(clipseg: Path) -> None:
    ours = ClipSeg(clipseg, CPU)
    names = ["a panda", "the red balloon"]
    theirs = CLIPSegForImageSegmentation.from_pretrained(clipseg).eval()
    tokens = ours.tokenizer(names, padding=True, return_tensors="pt")
    small = photo().resize((32, 32), Image.Resampling.BILINEAR)
    pixels = normalized(small, LOOK).expand(2, -1, -1, -1)
    with torch.inference_mode():
        logits = theirs(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            pixel_values=pixels,
        ).logits
    wanted = torch.nn.functional.interpolate(
        logits.sigmoid()[:, None], (45, 60), mode="bilinear", align_corners=False
    )[:, 0]
    chances = ours.chances(photo(), names)
    assert chances.shape == (2, 45, 60)
    assert np.abs(chances - wanted.numpy()).max() < 1e-5
    assert np.abs(chances[0] - chances[1]).max() > 1e-6
    assert np.abs(ours.chances(photo(), names[1:])[0] - chances[1]).max() < 1e-5


@pytest.mark.parametrize("kind", ["points", "box"])
def test_sam_finds_what_transformers_finds(sam: Path, kind: str) -> None:
    ours = Sam(sam, CPU)
    theirs = SamModel.from_pretrained(sam).eval()
    image = photo(60, 45).resize((64, 48), Image.Resampling.BILINEAR)
    pixels = torch.nn.functional.pad(normalized(image, LOOK), (0, 0, 0, 16))
    points = (Point(30, 15), Point(6, 30, adds=False))
    box = (6, 6, 45, 30)
    with torch.inference_mode():
        made = theirs(
            pixel_values=pixels,
            input_points=torch.tensor([[[[32.0, 16.0], [6.4, 32.0]]]])
            if kind == "points"
            else None,
            input_labels=torch.tensor([[[1, 0]]]) if kind == "points" else None,
            input_boxes=None if kind == "points" else torch.tensor([[[6.4, 6.4, 48.0, 32.0]]]),
        )
    best = made.iou_scores[0, 0].argmax()
    large = torch.nn.functional.interpolate(
        made.pred_masks[0, 0, best][None, None], (64, 64), mode="bilinear"
    )
    wanted = (
        torch.nn.functional.interpolate(large[..., :48, :64], (45, 60), mode="bilinear")[0, 0] > 0
    )
    found = ours.mask(photo(), points) if kind == "points" else ours.mask(photo(), (), box)
    assert found.shape == (45, 60)
    assert (found != wanted.numpy()).mean() < 0.01


def test_networks_are_told_by_their_folders(clipseg: Path, sam: Path, tmp_path: Path) -> None:
    assert models.find([str(clipseg), str(sam)]) == {"named": clipseg, "clicked": sam}
    with pytest.raises(WeightsError, match="no such folder"):
        models.find([str(tmp_path / "gone")])
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(WeightsError, match="holds a bert; what finds things is one of clipseg"):
        models.find([str(tmp_path)])


def test_a_damaged_network_is_refused(clipseg: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(clipseg, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="incomplete"):
        ClipSeg(tmp_path / "cut", CPU)


class _Halves:
    """Says that the left half is anything, and the right half a hat."""

    def chances(self, image: Image.Image, names: list[str]) -> np.ndarray:
        maps = np.zeros((len(names), image.height, image.width), np.float32)
        for each, name in zip(maps, names, strict=True):
            each[:, image.width // 2 :] = name == "the hat"
            each[:, : image.width // 2] = name != "the hat"
        return maps


def test_masks_are_put_together(tmp_path: Path) -> None:
    finder = Finder({}, tmp_path, CPU)
    finder._named = _Halves()  # type: ignore[assignment]
    found = np.asarray(finder.find(photo(), asked.read("the panda", None, "40,0,50,10 - 0,0,5,5")))
    wanted = np.zeros((45, 60), bool)
    wanted[:, :30] = wanted[:10, 40:50] = True
    wanted[:5, :5] = False
    assert np.array_equal(found == 255, wanted)
    assert np.array_equal(found == 0, ~wanted)


def test_our_small_network_reads_with_the_models_text_encoder(
    tiny_diffusion_folder: Path, tmp_path: Path
) -> None:
    config = MaskConfig(side=16, text=32, widths=(8, 8))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_network(MaskNetwork(config).half(), config, tmp_path / "masks")
    assert models.find([str(tmp_path / "masks")])["named"] == tmp_path / "masks"
    small = Small(tmp_path / "masks", CPU, tiny_diffusion_folder)
    chances = small.chances(photo(), ["a panda", "the balloon"])
    assert chances.shape == (2, 45, 60)
    assert 0 <= chances.min() <= chances.max() <= 1
    assert np.abs(chances[0] - chances[1]).max() > 0
    assert np.abs(small.chances(photo(), ["the balloon"])[0] - chances[1]).max() < 1e-5
    entries = json.loads((tmp_path / "masks" / "config.json").read_text())
    (tmp_path / "masks" / "config.json").write_text(json.dumps({**entries, "text_encoder": "x"}))
    with pytest.raises(WeightsError, match="knows another text encoder"):
        Small(tmp_path / "masks", CPU, tiny_diffusion_folder)


def test_the_shipped_size_is_below_four_megabytes() -> None:
    with torch.device("meta"):
        network = MaskNetwork(MaskConfig())
    assert sum(value.numel() for value in network.parameters()) * 2 <= 4_000_000
