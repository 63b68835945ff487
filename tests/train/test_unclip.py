"""Prior and decoder learn on what ships, and the folder of both draws; its figures are printed."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from diffusers import PriorTransformer

from pipelines.checkpoints import places
from pipelines.checkpoints.errors import WeightsError
from pipelines.checkpoints.hashes import spec_hash
from pipelines.families import find
from pipelines.unclip.pipeline import Unclip
from train import unclip, unclip_quality
from train.cli import main
from train.evaluate import STICKERS
from train.shipping import MODELS, RERANKERS, ship
from train.stickers.held_out import is_held_out
from train.stickers.source import source

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.pool.CHUNK", 8)
    monkeypatch.setattr(unclip, "MEASURED", 16)


def test_what_is_learned_from_and_what_is_measured_by() -> None:
    rng = random.Random(0)
    learned, measured = source(0.5), STICKERS.source()
    scenes = [learned.draw(rng) for _ in range(200)]
    assert not any(is_held_out(scene.things) for scene in scenes)
    assert any(is_held_out(measured.draw(rng).things) for _ in range(200))
    assert learned.render(scenes[:2]).shape == (2, 3, 64, 64)
    said = learned.captions(scenes, rng, drop=0.5)
    assert 60 < said.count("") < 140


def test_the_judge_reads_scenes_from_images() -> None:
    rng, stickers = random.Random(1), STICKERS.source()
    scenes = [stickers.draw(rng) for _ in range(6)]
    same, moved = unclip_quality.kept_things(STICKERS, scenes, stickers.render(scenes))
    assert same == [True] * 6
    assert not any(moved)
    others = stickers.render([*scenes[1:], scenes[0]])
    assert not all(unclip_quality.kept_things(STICKERS, scenes, others)[0])


@pytest.fixture
def fresh_accelerator() -> Iterator[None]:
    """Each training of a process must have the precision of the first."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.mark.usefixtures("fresh_accelerator")
def test_both_are_trained_by_commands_and_ship(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for network in ("prior", "unclip-decoder"):
        words = [network, "--run", str(run), "--threads", "1", "--steps", "1"]
        assert main(words) == 0
    models = tmp_path / "models"
    for name in ("stickers", "stickers-unclip", "stickers-upsampler"):
        shutil.copytree(MODELS / name, models / name)
    facts = models / "stickers-unclip" / places.FACTS
    facts.write_text(facts.read_text().replace("../../../rerank/checkpoints", str(RERANKERS)))
    [folder] = ship(run, models, only="stickers-unclip")
    assert sorted(path.parent.name for path in folder.rglob("*.safetensors")) == [
        "image_tokens",
        "prior",
    ]
    shipped = find("stickers-unclip")
    assert spec_hash(find(str(folder))) != spec_hash(shipped)
    pipeline = Unclip.from_pretrained(folder, device="cpu")
    with pipeline.begin("a panda", seeds=[1, 2], steps=2, prior_steps=2) as draft:
        draft.step(draft.total)
        assert draft.pixels().shape == (2, 3, 64, 64)


def test_what_ships_is_small_and_shares_the_rest() -> None:
    spec = find("stickers-unclip")
    prior = PriorTransformer.from_pretrained(spec.folder / "prior")
    assert sum(each.numel() for each in prior.parameters()) <= 3_000_000
    size = sum(path.stat().st_size for path in spec.folder.rglob("*.safetensors"))
    assert size <= 16_000_000
    unet = find("stickers").folder / "unet"
    assert spec.part("unet").samefile(unet)


def test_a_part_elsewhere_must_ship(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(MODELS / "stickers-unclip", tmp_path / "model"))
    with pytest.raises(WeightsError, match="there is no such folder"):
        find(str(folder))
