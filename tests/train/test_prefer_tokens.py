"""DPO for image tokens: what it computes, that it learns, goes on, and can be drawn with."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from pipelines.dalle.draft import Sampling, Text
from pipelines.dalle.pipeline import Dalle
from pipelines.families import find
from rerank.learn.choices import Choice
from train.loop import Schedule, train
from train.prefer_tokens import PreferTokensConfig, PreferTokensTask
from train.shipping import ship
from train.token_lora import log_probabilities, of_tokens

pytestmark = pytest.mark.slow
SCHEDULE = Schedule(batch_size=4, learning_rate=1e-2, warmup_steps=1, steps=8, ema_decay=0.5)

PLAIN = Sampling(1.0, 1.0, None, None)


@pytest.fixture
def choices(tmp_path: Path) -> list[Choice]:
    made = []
    for i in range(4):
        files = tmp_path / f"chosen{i}.png", tmp_path / f"rejected{i}.png"
        for file in files:  # noise: a random VAE gives plain colours all the same token
            Image.frombytes("RGB", (32, 32), random.Random(file.name).randbytes(3072)).save(file)
        made.append(Choice(f"a fox {i}", *files))
    return made


def make(folder: Path, choices: list[Choice], anchor: float = 0.0) -> PreferTokensTask:
    pipeline = Dalle.from_pretrained(folder, "cpu", "float32", "sdpa")
    return PreferTokensTask(pipeline, choices, PreferTokensConfig(anchor=anchor))


@pytest.mark.parametrize(("guidance", "temperature"), [(1.0, 1.0), (2.5, 0.8)])
def test_the_likelihood_is_that_of_drawing_token_by_token(
    guidance: float, temperature: float, tiny_dalle_folder: Path
) -> None:
    pipeline = Dalle.from_pretrained(tiny_dalle_folder, "cpu", "float32", "sdpa")
    sampling = Sampling(guidance, temperature, None, None)
    text, codes = pipeline.encode("a panda"), torch.tensor([[5, 60, 0, 33] * 4])
    other = pipeline.compared(text)
    both = text if guidance == 1 else Text.together([text, other])
    total = 0.0
    with torch.no_grad():
        for position in range(16):  # what comes behind a token must not matter
            cut = torch.cat(
                [codes[:, : position + 1], torch.zeros_like(codes[:, position + 1 :])], 1
            )
            led, free = (
                pipeline.transformer(each.read, each.present, cut).image[0, position].double()
                for each in (text, other)
            )
            logits = (free + guidance * (led - free)) / temperature
            total += float(logits.softmax(-1)[codes[0, position]].log())
        told = of_tokens(log_probabilities(pipeline.transformer, both, codes, sampling), codes)
    assert told.item() == pytest.approx(total, abs=1e-3)


def test_an_unchanged_model_prefers_nothing(tiny_dalle_folder: Path, choices: list[Choice]) -> None:
    task = make(tiny_dalle_folder, choices)
    batch = task.batch(random.Random(0), 3, torch.device("cpu"))
    figures = task(batch, torch.Generator())
    assert figures["loss"].item() == pytest.approx(0.6931, abs=1e-4)  # log 2
    figures["loss"].backward()
    assert figures["distance"].item() == pytest.approx(0, abs=1e-5)
    learned = {name for name, p in task.named_parameters() if p.requires_grad}
    assert learned
    assert all("lora_" in name for name in learned)
    graded = {n for n, p in task.named_parameters() if p.grad is not None and p.grad.any()}
    assert graded
    assert graded <= learned


@pytest.mark.parametrize("text_tokens", [False, True])
def test_training_learns_goes_on_and_the_result_draws(
    text_tokens: bool,
    make_dalle_folder: Callable[..., Path],
    choices: list[Choice],
    tmp_path: Path,
) -> None:
    model = make_dalle_folder(tmp_path / "model", text_tokens=text_tokens)
    whole = make(model, choices)
    folder = train(whole, SCHEDULE, tmp_path / "whole")
    learned = Dalle.from_pretrained(folder, "cpu", "float32", "sdpa")
    plain = Dalle.from_pretrained(model, "cpu", "float32", "sdpa")
    for choice in choices:
        gains = []
        for file in (choice.chosen, choice.rejected):
            codes = plain.tokens(file).view(1, -1)
            with torch.no_grad():
                before, after = (
                    of_tokens(
                        log_probabilities(p.transformer, p.encode(choice.prompt), codes, PLAIN),
                        codes,
                    )
                    for p in (plain, learned)
                )
            gains.append((after - before).item())
        assert gains[0] > gains[1]
    assert learned("a fox 0", seeds=[1]) != plain("a fox 0", seeds=[1])

    models = tmp_path / "models"
    shutil.copytree(model, models / "stickers-dalle")
    run = tmp_path / "run" / "prefer"
    run.mkdir(parents=True)
    shutil.copytree(folder, run / "weights")
    shutil.copytree(run, tmp_path / "run" / "reinforce")
    with pytest.raises(ValueError, match="both there"):
        ship(tmp_path / "run", models, tmp_path, known={})
    shutil.rmtree(run)  # what `reinforce` has learned ships as well
    [shipped] = ship(tmp_path / "run", models, tmp_path, known={})
    drawing = Dalle.from_pretrained(shipped, "cpu", "float32", "sdpa").transformer.state_dict()
    for name, value in learned.transformer.state_dict().items():
        assert torch.equal(drawing[name], value.half().float())

    again = make(model, choices)  # begins where the first ended, so does nothing
    train(again, SCHEDULE, tmp_path / "whole")
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_anchor_keeps_what_is_chosen_likely(
    tiny_dalle_folder: Path, choices: list[Choice], tmp_path: Path
) -> None:
    """The difference alone is as well served by both becoming unlikely."""
    gained = []
    for anchor in (0.0, 0.3):
        task = make(tiny_dalle_folder, choices, anchor)
        train(task, SCHEDULE, tmp_path / f"{anchor}")
        batch = task.batch(random.Random(1), 4, torch.device("cpu"))
        gained.append(task(batch, torch.Generator())["chosen"].item())
    assert gained[1] > max(gained[0], 0.0)


def test_what_was_read_by_another_text_encoder_has_its_own(
    make_dalle_folder: Callable[..., Path], choices: list[Choice], tmp_path: Path
) -> None:
    """The folder that is saved stands anywhere."""
    model, other = make_dalle_folder(tmp_path / "model"), tmp_path / "other"
    other.mkdir()
    for part in ("text_encoder", "tokenizer"):
        (model / part).rename(other / part)
    shared = {part: f"../other/{part}" for part in ("text_encoder", "tokenizer")}
    upsampler = find("stickers-dalle").upsampler
    assert upsampler is not None
    shutil.copytree(upsampler, other / "upsampler")
    facts = {"shared": shared, "upsampler": "../other/upsampler", "defaults": {"temperature": 0.5}}
    (model / "salon.json").write_text(json.dumps(facts))
    learned = tmp_path / "far" / "learned"
    task = make(model, choices)
    task.save(learned)
    assert json.loads((learned / "salon.json").read_text()) == {"defaults": facts["defaults"]}
    assert (learned / "upsampler" / "model.safetensors").is_file()
    drawn = [Dalle.from_pretrained(each, "cpu")("a fox", seeds=[1]) for each in (model, learned)]
    assert drawn[0] == drawn[1]


def test_an_image_of_another_size_is_named(tiny_dalle_folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    choice = Choice("a fox", tmp_path / "a.png", tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png is not 32x32"):
        make(tiny_dalle_folder, [choice])
