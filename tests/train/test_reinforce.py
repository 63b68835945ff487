"""Learning from rewards: what is drawn, that it learns and goes on, and what it is told."""

import random
from pathlib import Path

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from pipelines.dalle.pipeline import Dalle
from rerank.panel import PanelScores
from train import cli
from train.dalle import draw_codes
from train.loop import Schedule, read_log, train
from train.reinforce import Drawing, ReinforceConfig, ReinforceTask
from train.token_lora import distance

pytestmark = pytest.mark.slow
PROMPTS = ["a fox", "two foxes on the left"]
SCHEDULE = Schedule(batch_size=2, learning_rate=1e-2, warmup_steps=1, steps=12, ema_decay=0.5)


def bright(prompt: str, images: torch.Tensor) -> PanelScores:
    """The rewards of somebody who likes bright images."""
    worth = images.float().mean(dim=(1, 2, 3)).tolist()
    return PanelScores(worth, {"bright": worth}, {})


def make(folder: Path, distance: float = 0.0) -> ReinforceTask:
    pipeline = Dalle.from_pretrained(folder, "cpu", "float32", "sdpa")
    return ReinforceTask(pipeline, PROMPTS, bright, ReinforceConfig(group=8, distance=distance))


@pytest.mark.parametrize("text_tokens", [False, True])
def test_images_of_several_prompts_are_those_of_each(
    text_tokens: bool, make_dalle_folder, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    task = make(make_dalle_folder(tmp_path / "model", text_tokens=text_tokens))
    pipeline = task.frozen[0]
    uniforms = torch.rand(6, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = draw_codes(pipeline.transformer, task.read(PROMPTS), task.sampling, uniforms)
        alone = [
            draw_codes(pipeline.transformer, task.read([prompt]), task.sampling, own)
            for prompt, own in zip(PROMPTS, uniforms.split(3), strict=True)
        ]
    assert torch.equal(together, torch.cat(alone))


def test_images_are_those_of_the_pipeline(tiny_dalle_folder: Path) -> None:
    task = make(tiny_dalle_folder)
    seeds = [3, 4, 5]
    uniforms = torch.stack(
        [torch.rand(1, 16, generator=torch.Generator().manual_seed(seed))[0] for seed in seeds]
    )
    batch = task.batch(random.Random(0), 1, torch.device("cpu"))
    one = type(batch)(["a fox"], task.read(["a fox"]), uniforms)
    _, images = task._draw(one)
    with task.frozen[0].begin("a fox", seeds=seeds) as draft:
        draft.step(draft.total)
        drawn = draft.pixels()
    assert (images.int() - drawn.int()).abs().max() <= 1


def test_training_draws_what_is_rewarded_and_goes_on(
    tiny_dalle_folder: Path, tmp_path: Path
) -> None:
    whole = make(tiny_dalle_folder)
    folder = train(whole, SCHEDULE, tmp_path / "run")
    learned = Dalle.from_pretrained(folder, "cpu", "float32", "sdpa")
    plain = Dalle.from_pretrained(tiny_dalle_folder, "cpu", "float32", "sdpa")
    worth = []
    for pipeline in (plain, learned):
        with pipeline.begin("a fox", seeds=range(100, 164)) as draft:
            draft.step(draft.total)
            worth.append(torch.tensor(bright("a fox", draft.pixels()).scores))
    assert worth[1].mean() > worth[0].mean() + worth[0].std() / 2
    assert {"bright", "distance"} < read_log(tmp_path / "run" / "log.jsonl")[-1].keys()

    again = make(tiny_dalle_folder)  # begins where the first ended, so does nothing
    train(again, SCHEDULE, tmp_path / "run")
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_the_old_model_would_not_draw_costs_most(tiny_dalle_folder: Path) -> None:
    old = torch.tensor([[[0.5, 0.5, 1e-6]]]).log()
    leaves_out = distance(torch.tensor([[[0.98, 0.02, 1e-6]]]).log(), old)
    adds = distance(torch.tensor([[[0.4, 0.4, 0.2]]]).log(), old)
    assert 0 < leaves_out.item() < 0.7 < 2 < adds.item()

    task, codes = make(tiny_dalle_folder), torch.zeros(2, 16, dtype=torch.int64)
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(0.1)
    before, after = (
        Categorical(logits=nats) for nats in task.before_and_after(task.read(PROMPTS), codes)
    )
    batch = Drawing(PROMPTS, task.read(PROMPTS), torch.zeros(16, 16))
    images = torch.arange(16, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)
    task._draw = lambda batch: (codes.repeat_interleave(8, dim=0), images)  # type: ignore[method-assign]
    figures = task(batch, torch.Generator())
    expected = kl_divergence(after, before).sum(dim=1).mean().item()
    assert expected > 0.01
    assert figures["distance"].item() == pytest.approx(expected, rel=1e-3)


def test_equal_images_teach_nothing(tiny_dalle_folder: Path) -> None:
    pipeline = Dalle.from_pretrained(tiny_dalle_folder, "cpu", "float32", "sdpa")

    def indifferent(prompt: str, images: torch.Tensor) -> PanelScores:
        return PanelScores([1.0] * len(images), {"any": [1.0] * len(images)}, {})

    task = ReinforceTask(pipeline, PROMPTS, indifferent, ReinforceConfig(group=4))
    batch = task.batch(random.Random(0), 2, torch.device("cpu"))
    figures = task(batch, torch.Generator())
    figures["loss"].backward()
    assert figures["any"] == 1
    assert figures["distance"].item() == pytest.approx(0, abs=1e-5)
    for parameter in task.parameters():
        if parameter.grad is not None:
            assert parameter.grad.abs().max() < 1e-5


def test_a_head_wants_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choices = tmp_path / "choices.jsonl"
    choices.write_text('{"prompt": "a fox", "chosen": "a.png", "rejected": "b.png"}\n')
    words = ["--choices", str(choices), "--head", str(tmp_path / "none.safetensors")]
    assert cli.main(["reinforce", "--run", str(tmp_path / "run"), *words]) == 2
    assert "no file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-m", "stickers"], "draws no image tokens"),
        (["--head", "mine.safetensors"], "go together"),
        (["--choices", "none.jsonl"], "go together"),
        (["--head", "mine.safetensors", "--choices", "none.jsonl"], "none.jsonl"),
        (["--head", "mine.safetensors=0", "--choices", "none.jsonl"], "above 0"),
        (["-m", "nothing"], "nothing"),
        (["--candidates", "1"], "at least 2"),
    ],
)
def test_bad_words(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = cli.main(["reinforce", "--run", str(tmp_path / "run"), *words])
    except SystemExit as stopped:  # of argparse
        code = stopped.code
    assert code == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
