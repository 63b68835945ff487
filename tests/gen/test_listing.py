"""What `generate --list-models` shows."""

from pathlib import Path

import pytest
from huggingface_hub import constants

import pipelines.checkpoints.known_models
import rerank.model.known_models
import rerank.model.specs
from gen.listing import WIDTH, listing
from pipelines import families
from pipelines.checkpoints import specs


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def states() -> dict[str, str]:
    """What is told of each name. Only names begin a line, and end in brackets."""
    lines = [line for line in listing() if not line.startswith(" ") and line.endswith(")")]
    return dict(line.removesuffix(")").rsplit(" (", 1) for line in lines)


def fetched(cache: Path, name: str, *, whole: bool) -> None:
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    if whole:
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0" * 40)


def test_every_model_is_there_with_what_is_here(cache: Path) -> None:
    fetched(cache, "stabilityai/stable-diffusion-xl-base-1.0", whole=True)
    fetched(cache, "yuvalkirstain/PickScore_v1", whole=True)
    fetched(cache, "stabilityai/sdxl-turbo", whole=False)
    told = states()
    known = [
        families.shipped(),
        pipelines.checkpoints.known_models.PUBLIC,
        rerank.model.specs.SPECS,
        rerank.model.known_models.PUBLIC,
    ]
    assert list(told) == [name for table in known for name in table]
    here = {name for name, state in told.items() if state == "here, in the hub's cache"}
    assert here == {"stabilityai/stable-diffusion-xl-base-1.0", "yuvalkirstain/PickScore_v1"}
    assert told["stickers"] == told["stickers-clip"] == "here, it ships"
    assert told["stabilityai/sdxl-turbo"] == "not here: --pull it"
    assert told["DALL·E mini"] == "download it by hand"
    assert told["LAION's aesthetic predictor"] == "download it by hand, for rerank --aesthetic"


def test_it_can_be_read_in_a_narrow_terminal(cache: Path) -> None:
    lines = list(listing())
    assert max(map(len, lines)) <= WIDTH == 80
    by_name, by_hand, rerankers = (
        next(place for place, line in enumerate(lines) if line.startswith(f"To {what}"))
        for what in ("draw with, by -m NAME", "draw with, by -m FOLDER", "rank with")
    )
    assert by_name < by_hand < lines.index("minDALL-E (download it by hand)") < rerankers
    start = lines.index("black-forest-labs/FLUX.1-dev (not here: --pull it)")
    assert lines[start + 1 : start + 4] == [
        "    nearly anything, 1024x1024",
        "    flux-1-dev-non-commercial-license; no commercial use of the weights",
        "    33.7 GB in half precision",
    ]


def test_weights_that_should_ship_and_do_not(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = families.shipped()["stickers"]
    elsewhere = specs.Spec(**{**vars(spec), "folder": tmp_path / "gone"})
    monkeypatch.setattr(families, "shipped", lambda: {"stickers": elsewhere})
    assert states()["stickers"] == "its weights are not here: install Salon again"
