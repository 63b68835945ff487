"""A reranker's text tower that learns wordings from itself."""

import copy
import random
from pathlib import Path

import pytest
import torch
from transformers import CLIPModel, CLIPTokenizer

from train.clip import ClipConfig, ClipTask
from train.clip_words import ClipWordsTask
from train.loop import Schedule, train
from train.tokenizer import train_tokenizer

pytestmark = pytest.mark.slow
CONFIG = ClipConfig(
    text_width=32, text_layers=1, text_heads=2, vision_width=32, vision_layers=1, vision_heads=2
)
SCHEDULE = Schedule(8, 5e-3, warmup_steps=2, ema_decay=0.5, steps=12)


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return train_tokenizer()


def make(tokenizer: CLIPTokenizer, free: float, *, same: bool) -> ClipWordsTask:
    torch.manual_seed(0)
    teacher = ClipTask(CONFIG, tokenizer).clip
    pupil = copy.deepcopy(teacher if same else ClipTask(CONFIG, tokenizer).clip)
    config = ClipConfig(free=free)
    return ClipWordsTask(config, pupil, tokenizer, teacher, tokenizer)


def test_who_says_the_same_of_the_same_words_has_nothing_to_learn(tokenizer: CLIPTokenizer) -> None:
    task = make(tokenizer, 0.0, same=True).eval()
    batch = task.batch(random.Random(0), 8, torch.device("cpu"))
    batch.tokens.resize_(batch.plain.shape).copy_(batch.plain)
    figures = task(batch, torch.Generator())
    assert figures["loss"].item() == pytest.approx(0, abs=1e-4)
    assert figures["cosine"].item() == pytest.approx(1, abs=1e-5)


def test_the_text_tower_learns_and_the_image_tower_stays(
    tokenizer: CLIPTokenizer, tmp_path: Path
) -> None:
    task = make(tokenizer, 0.8, same=False)
    batch = task.batch(random.Random(1), 16, torch.device("cpu"))
    assert len(batch.tokens) == len(batch.plain) > 16  # true captions and changed ones
    before = {name: value.clone() for name, value in task.clip.state_dict().items()}
    first = task(batch, torch.Generator())["loss"].item()
    folder = train(task, SCHEDULE, tmp_path / "clip")
    assert task(batch, torch.Generator())["loss"].item() < first
    saved = CLIPModel.from_pretrained(folder)
    changed = {
        name
        for name, value in saved.state_dict().items()
        if not torch.allclose(value, before[name], atol=1e-7)
    }
    assert "text_projection.weight" in changed
    assert all(name.startswith(("text_model.", "text_projection.")) for name in changed)
    assert CLIPTokenizer.from_pretrained(folder).get_vocab() == tokenizer.get_vocab()
