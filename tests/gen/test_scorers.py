"""What scores: several rerankers together, an aesthetic head, and whatever a user brings along."""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fake_models
import pytest
import torch
from fake_models import Studio
from PIL import Image
from safetensors.torch import save_file

import gen.models
from gen import Engine, InputError, Request, Result, generate, metadata
from gen.cli import main
from gen.engine import Outcome
from gen.events import Cancel, Event, Finished
from gen.plan import resolve
from gen.run_folder.folder import RunFolder
from rerank import Panel, Reranker

LOAD_SCORER = gen.models.load_scorer  # before the fakes take its place
SEEDS = range(7, 13)
REQUEST = Request("a panda", candidates=len(SEEDS), top_k=2, seed=7)


@pytest.fixture
def clips(
    studio: Studio, tiny_clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Two CLIP folders, and an engine that loads them while its pipelines stay fakes."""
    monkeypatch.setattr(gen.models, "load_scorer", LOAD_SCORER)
    first, second = tmp_path / "first", tmp_path / "second"
    shutil.copytree(tiny_clip_folder, first)
    shutil.copytree(tiny_clip_folder, second)
    return [str(first), str(second)]


@pytest.fixture
def head(clips: list[str], tmp_path: Path) -> Path:
    """An aesthetic head on the features of the first."""
    width = Reranker.load(clips[0]).image_features([]).shape[1]
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(1, width, generator=generator)
    save_file({"0.weight": weight, "0.bias": torch.zeros(1)}, tmp_path / "taste.safetensors")
    return tmp_path / "taste.safetensors"


def standardised(values: Sequence[float]) -> list[float]:
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    return [(value - mean) / spread for value in values]


def combined(engine: Engine, weights: dict[str, float], prompt: str = "a panda") -> list[int]:
    """The seeds, best first, by a second way of computing it: each scorer alone, then the mean."""
    images = [fake_models.picture(prompt, seed) for seed in SEEDS]
    scorer = engine.load_scorer()
    assert isinstance(scorer, Panel)
    totals = [0.0] * len(images)
    for member in scorer.members:
        scores = member.scorer.score(prompt, member.scorer.encoder.encode(images))
        for i, score in enumerate(standardised(scores)):
            totals[i] += weights[member.scorer.name] * score / sum(weights.values())
    return [seed for _, seed in sorted(zip(totals, SEEDS, strict=True), reverse=True)]


def everything(outcome: Outcome) -> list[Result]:
    return outcome.best + outcome.rest


def test_rerankers_and_an_aesthetic_head_rank_together(clips: list[str], head: Path) -> None:
    engine = Engine(reranker=[(clips[0], 2.0), (clips[1], 1.0)], aesthetic=(head, 4.0))
    results = everything(engine.draw(resolve(REQUEST)))
    weights = {"first": 2.0, "second": 1.0, "taste": 4.0}
    assert [result.seed for result in results] == combined(engine, weights)
    for result in results:
        assert result.scores.keys() == weights.keys()
        assert result.scores["first"] == result.scores["second"]  # of the same weights
    assert abs(sum(result.score or 0 for result in results)) < 1e-5  # means of standardised ones
    assert len({result.scores["taste"] for result in results}) == len(SEEDS)
    assert engine.scorer_name() == "first + second + taste"


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_micro_batch_does_not_matter_to_combined_scores(
    clips: list[str], head: Path, batch_size: int
) -> None:
    engine = Engine(reranker=clips[0], aesthetic=(head, 1.0), batch_size=batch_size)
    results = everything(engine.draw(resolve(REQUEST)))
    assert [r.seed for r in results] == combined(engine, {"first": 1.0, "taste": 1.0})


def test_the_command_takes_rerankers_with_weights(
    clips: list[str], head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["a panda", "--candidates", "6", "--top-k", "2", "--seed", "7", "-o", "out"]
    words += ["-r", f"{clips[0]}=2", "-r", clips[1], "--aesthetic", f"{head}=4"]
    words[words.index("out")] = str(tmp_path / "out")
    assert main([*words, "--json"]) == 0
    [row] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    engine = Engine(reranker=[(clips[0], 2.0), (clips[1], 1.0)], aesthetic=(head, 4.0))
    expected = combined(engine, {"first": 2.0, "second": 1.0, "taste": 4.0})
    assert [result["seed"] for result in row["results"]] == expected[:2]
    best = row["results"][0]
    assert best["scores"].keys() == {"first", "second", "taste"}
    record = metadata.read(Path(best["file"]))
    assert record.scores == best["scores"]
    assert record.rerank_model == "first + second + taste"
    lines = (tmp_path / "out" / "manifest.jsonl").read_text()
    assert '"taste"' in lines
    assert main(["--again", best["file"], "-o", str(tmp_path / "again"), "-r", clips[0]]) == 0
    capsys.readouterr()
    assert main(words) == 0  # all of it is there already
    assert f"taste {best['scores']['taste']:+.4f}" in capsys.readouterr().out


def test_one_reranker_with_a_weight_is_one_reranker(
    clips: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["a panda", "--candidates", "6", "--top-k", "2", "--seed", "7", "--json"]
    told = []
    for name, text in (("a", clips[0]), ("b", f"{clips[0]}=3")):
        assert main([*words, "-o", str(tmp_path / name), "-r", text]) == 0
        [row] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        told.append([(result["seed"], result["score"]) for result in row["results"]])
        assert "scores" not in row["results"][0]
    assert told[0] == told[1]
    assert all(-1 <= score <= 1 for _, score in told[0])


def test_a_path_with_an_equals_sign_stays_a_path(
    studio: Studio, clips: list[str], tmp_path: Path
) -> None:
    shutil.move(clips[0], tmp_path / "clip=2")
    words = ["a panda", "--candidates", "2", "-o", str(tmp_path / "out")]
    assert main([*words, "-r", str(tmp_path / "clip=2")]) == 0
    assert metadata.read(next((tmp_path / "out").glob("*-r1-*.png"))).rerank_model == "clip=2"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["-r", "first=0"], 2, "a weight is above 0"),
        (["-r", "first=-1"], 2, "a weight is above 0"),
        (["-r", "first=nan"], 2, "a weight is above 0"),
        (["-r", "first", "-r", "first"], 2, "different names"),
        (["-r", "first=2", "-r", "first"], 2, "different names"),
        (["-r", "first", "-r", "none"], 2, "goes with no other"),
        (["-r", "none", "--aesthetic", "taste.safetensors"], 2, "goes with no other"),
        (["-r", "first", "--aesthetic", "taste.safetensors=0"], 2, "a weight is above 0"),
        (["-r", "first", "-r", "nonesuch"], 3, "nonesuch"),
        (["-r", "first", "--aesthetic", "nonesuch.safetensors"], 3, "nonesuch"),
        (["-r", "first", "--aesthetic", "first"], 3, "first"),
    ],
)
def test_what_cannot_score_is_one_line_before_anything_is_drawn(
    words: list[str],
    code: int,
    said: str,
    studio: Studio,
    head: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(head.parent)
    assert main(["a panda", "-o", "out", *words]) == code
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert studio.loads == []
    assert not Path("out").exists()


def test_an_aesthetic_head_needs_a_reranker(studio: Studio, tmp_path: Path) -> None:
    engine = Engine(reranker="none", aesthetic=(tmp_path / "taste.safetensors", 1.0))
    with pytest.raises(InputError, match="needs the features of a reranker"):
        generate("a panda", candidates=1, engine=engine)


@pytest.mark.parametrize("after", [2, 4, 6])
def test_a_run_that_was_stopped_combines_all_its_scores_again(
    after: int, clips: list[str], head: Path, tmp_path: Path
) -> None:
    def engine() -> Engine:
        return Engine(reranker=clips[0], aesthetic=(head, 2.0), batch_size=2)

    cancel, told = Cancel(), 0

    def stop(event: Event) -> None:
        nonlocal told
        told += len(event.results) if isinstance(event, Finished) else 0
        if told >= after:
            raise KeyboardInterrupt  # before anything is ranked

    with RunFolder(tmp_path / "out") as folder, pytest.raises(KeyboardInterrupt):
        engine().draw(resolve(REQUEST), folder, watch=stop, cancel=cancel)
    with RunFolder(tmp_path / "out") as folder:
        resumed = engine().draw(resolve(REQUEST), folder)
    assert resumed.drawn == len(SEEDS) - after
    whole = engine().draw(resolve(REQUEST))
    for ours, theirs in zip(everything(resumed), everything(whole), strict=True):
        assert ours.seed == theirs.seed
        assert ours.score == pytest.approx(theirs.score, abs=1e-4)
        assert ours.scores == pytest.approx(theirs.scores, abs=1e-4)
        assert ours.path is not None
        record = metadata.read(ours.path)
        assert (record.score, record.scores) == (ours.score, ours.scores)


def test_other_scorers_than_those_of_the_earlier_run_score_again(
    clips: list[str], head: Path, tmp_path: Path
) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, Finished):
            raise KeyboardInterrupt

    alone, together = Engine(reranker=clips[0]), Engine(reranker=clips[0], aesthetic=(head, 1.0))
    for number, (first, second) in enumerate([(alone, together), (together, alone)]):
        first.batch_size = 3
        path = tmp_path / str(number)
        with RunFolder(path) as folder, pytest.raises(KeyboardInterrupt):
            first.draw(resolve(REQUEST), folder, watch=stop)
        with RunFolder(path) as folder:
            resumed = second.draw(resolve(REQUEST), folder)
        whole = second.draw(resolve(REQUEST))
        assert [r.seed for r in everything(resumed)] == [r.seed for r in everything(whole)]
        assert all(r.scores.keys() == set(second.scored_parts()) for r in everything(resumed))


# ---- what a user brings along


class Redness:
    """Prefers red images."""

    name = "redness"

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def score(self, prompt: str, images: Any) -> list[float]:
        self.asked.append((prompt, len(images)))
        return [redness(image) for image in images]


def redness(image: Any) -> float:
    if isinstance(image, torch.Tensor):
        return float(image[0].double().mean())
    assert isinstance(image, Image.Image)
    values = image.convert("RGB").getchannel("R").tobytes()
    return sum(values) / len(values)


def test_an_object_of_the_users_scores(studio: Studio, tmp_path: Path) -> None:
    scorer = Redness()
    results = generate(REQUEST, engine=Engine(scorer=scorer), outdir=tmp_path)
    reds = {seed: redness(fake_models.picture("a panda", seed)) for seed in SEEDS}
    assert [result.seed for result in results] == sorted(reds, key=lambda s: -reds[s])[:2]
    assert [result.score for result in results] == [reds[result.seed] for result in results]
    assert sum(number for _, number in scorer.asked) == len(SEEDS)
    assert results[0].path is not None
    assert metadata.read(results[0].path).rerank_model == "redness"
    assert "jury" not in studio.loads


def test_a_function_of_the_users_scores(studio: Studio, tmp_path: Path) -> None:
    def darkness(prompt: str, images: Any) -> list[float]:
        return [-fake_models.score(image) for image in images]

    results = generate(REQUEST, engine=Engine(scorer=darkness), outdir=tmp_path)
    lights = {seed: fake_models.score(fake_models.picture("a panda", seed)) for seed in SEEDS}
    assert [result.seed for result in results] == sorted(lights, key=lambda s: lights[s])[:2]
    assert results[0].path is not None
    assert metadata.read(results[0].path).rerank_model == "darkness"


def test_a_number_that_is_none_fails_that_image_alone(studio: Studio) -> None:
    def picky(prompt: str, images: Any) -> list[float]:
        return [math.nan, *map(fake_models.score, images[1:])]

    [*best, failed] = generate(REQUEST, engine=Engine(scorer=picky, batch_size=6))
    assert failed.failed == "its score is not a finite number"
    assert failed.seed not in [result.seed for result in best]


def test_scorers_see_new_images_as_a_tensor(tiny_diffusion_folder: Path) -> None:
    seen: list[tuple[torch.dtype, tuple[int, ...]]] = []

    def look(prompt: str, images: torch.Tensor) -> list[float]:
        seen.append((images.dtype, tuple(images.shape)))
        return [redness(image) for image in images]

    model = str(tiny_diffusion_folder)
    results = generate(REQUEST, model=model, steps=1, engine=Engine("cpu", scorer=look))
    assert seen == [(torch.uint8, (4, 3, 64, 64)), (torch.uint8, (2, 3, 64, 64))]
    for result in results:
        assert result.score == pytest.approx(redness(result.image))
