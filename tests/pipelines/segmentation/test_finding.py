"""Masks by words, points and boxes: what is written is read, and the networks are transformers'."""

import json
import shutil
import zlib
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
from pipelines.segmentation.network import MaskConfig, MaskNetwork, runs_of

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


def test_masks_are_put_together() -> None:
    finder = Finder({}, CPU)
    finder._named = _Halves()  # type: ignore[assignment]
    found = np.asarray(finder.find(photo(), asked.read("the panda", None, "40,0,50,10 - 0,0,5,5")))
    wanted = np.zeros((45, 60), bool)
    wanted[:, :30] = wanted[:10, 40:50] = True
    wanted[:5, :5] = False
    assert np.array_equal(found == 255, wanted)
    assert np.array_equal(found == 0, ~wanted)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = MaskConfig(side=16, widths=(8, 8), features=4, runs=64, run_width=16)
    folder = tmp_path_factory.mktemp("masks")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_network(MaskNetwork(config).half(), config, folder)
    return folder


def test_our_small_network_needs_nothing_but_its_folder(small: Path) -> None:
    assert models.find([str(small)])["named"] == small
    ours = Small(small, CPU)
    chances = ours.chances(photo(), ["a panda", "the balloon"])
    assert chances.shape == (2, 45, 60)
    assert 0 <= chances.min() <= chances.max() <= 1
    assert np.abs(chances[0] - chances[1]).max() > 0
    assert np.abs(ours.chances(photo(), ["the balloon"])[0] - chances[1]).max() < 1e-5
    assert ours.chances(photo(), ["!"]).shape == (1, 45, 60)  # without a letter


class _Known(torch.nn.Module):
    """Finds a panda at the left, a hat right beside it, and takes all else for background."""

    config = MaskConfig(side=40)

    def forward(self, images: torch.Tensor, names: list[str]) -> torch.Tensor:
        maps = {name: torch.full(images.shape[-2:], -1.0) for name in names}
        for name, map_ in maps.items():
            if name == "the background":
                map_[:] = 1
            columns = {"the panda": [(8, 16)], "the hat": [(16, 24)]}
            for left, right in columns.get(name, [(8, 16), (16, 24)]):
                map_[8:24, left:right] = -1 if name == "the background" else 1
        return torch.stack([maps[name] for name in names])[None]


def test_there_is_room_around_what_is_found_but_not_where_others_are(small: Path) -> None:
    ours = Small(small, CPU)
    ours.network = _Known()  # type: ignore[assignment]
    ours.read_size = lambda size: size  # type: ignore[method-assign]
    finder = Finder({}, CPU)
    finder._named = ours
    found = np.asarray(finder.find(photo(40, 40), asked.read("the panda", None, None))) > 0
    wanted = np.zeros((40, 40), bool)
    wanted[4:28, 4:20] = True
    wanted[8:24, 16:20] = False  # the hat
    assert np.array_equal(found, wanted)
    tight = asked.read("the panda - the background", None, None)
    wanted[:] = False
    wanted[8:24, 8:16] = True
    assert np.array_equal(np.asarray(finder.find(photo(40, 40), tight)) > 0, wanted)


@pytest.mark.parametrize(
    ("size", "read"),
    [((64, 64), (16, 16)), ((60, 45), (20, 16)), ((128, 32), (64, 16)), ((1, 900), (16, 128))],
)
def test_it_reads_things_as_large_as_it_knows_them(
    small: Path, size: tuple[int, int], read: tuple[int, int]
) -> None:
    ours = Small(small, CPU)
    assert ours.read_size(size) == read
    assert ours.chances(photo(*size), ["a hat"]).shape == (1, size[1], size[0])


def test_words_are_their_runs_of_letters() -> None:
    pieces = ["<cat>", "<ca", "cat", "at>", "<cat", "cat>", "<cat>"]
    rows = [zlib.crc32(piece.encode()) % 1000 for piece in pieces]
    assert runs_of("Cat!", 1000) == rows
    assert {*runs_of("a cat", 1000)} > {*runs_of("cat", 1000)}
    assert runs_of("", 1000) == []
    shared = {*runs_of("panda", 10**6)} & {*runs_of("pandas", 10**6)}
    assert len(shared) > 5


def test_a_name_is_read_alike_among_others(small: Path) -> None:
    network = Small(small, CPU).network
    with torch.inference_mode():
        together, bias = network.read_names(["a panda", "!", "the red balloon"])
        alone, own = network.read_names(["the red balloon"])
    assert torch.allclose(together[2], alone[0], atol=1e-6)
    assert torch.allclose(bias[2], own[0], atol=1e-6)


def test_a_config_that_is_none_is_refused(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "masks")
    entries = json.loads((small / "config.json").read_text())
    for wrong in ({"widths": "many"}, {"depth": 3}, {"widths": [7]}):
        (tmp_path / "masks" / "config.json").write_text(json.dumps({**entries, **wrong}))
        with pytest.raises(WeightsError):
            Small(tmp_path / "masks", CPU)


def test_the_shipped_size_is_below_two_and_a_half_megabytes() -> None:
    with torch.device("meta"):
        network = MaskNetwork(MaskConfig())
    assert sum(value.numel() for value in network.parameters()) * 2 <= 2_500_000
