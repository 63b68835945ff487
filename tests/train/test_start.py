"""The shipped weights laid into a run: the same networks, with room for more words."""

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from pipelines.checkpoints.specs import CHECKPOINTS as MODELS
from rerank.model.specs import CHECKPOINTS as RERANKERS
from train.clip import ClipConfig, ClipTask
from train.stickers import start
from train.stickers.drawn import CANDIDATES, draw, load, seen
from train.stickers.facts import Description, holds
from train.stickers.reading import Recital
from train.stickers.renderer import render
from train.stickers.scene import draw_scene
from train.stickers.vocabulary import Thing
from train.tokenizer import (
    END,
    caption_samples,
    extend_tokenizer,
    merged,
    more_merges,
    train_tokenizer,
)
from train.world.text import NOTHING

PROMPTS = ["a panda", "three apples", "a red circle to the left of a blue star on white"]
WORDS = {"birthday": 5, "birth": 9, "party": 7, "card": 3, "panda": 50}


@pytest.fixture(scope="module")
def old() -> CLIPTokenizer:
    return train_tokenizer()


@pytest.fixture(scope="module")
def new(old: CLIPTokenizer) -> CLIPTokenizer:
    return extend_tokenizer(old, WORDS, len(old) + 12, 40)


def test_what_was_one_piece_stays_so(old: CLIPTokenizer, new: CLIPTokenizer) -> None:
    assert len(old) + 6 < len(new) <= len(old) + 12  # two merges may make one piece
    assert new.model_max_length == 40
    captions = caption_samples(seed=3, number=300)
    assert [new.tokenize(text) for text in captions] == [old.tokenize(text) for text in captions]
    assert len(new.tokenize("birth")) < len(old.tokenize("birth"))
    assert new.get_vocab()[END] == len(new) - 1


def test_merges_are_the_most_frequent_pairs() -> None:
    words = [(list("abab"), 3), (list("abc"), 4), (list("xy"), 1)]
    assert more_merges(words, 2) == [("a", "b"), ("ab", "c")]  # 10 times, then 4 against 3
    assert merged(list("aaab"), ("a", "a")) == ["aa", "a", "b"]
    assert more_merges([(["ab"], 3)], 5) == []


def test_longer_text_encoders_read_old_words_alike(
    old: CLIPTokenizer, new: CLIPTokenizer, tiny_text: CLIPTextModel
) -> None:
    state = {f"text_model.{name}": value for name, value in tiny_text.state_dict().items()}
    longer = start.longer_text(state, old, new)
    config = tiny_text.config.__class__(
        **{**tiny_text.config.to_dict(), "vocab_size": len(new), "max_position_embeddings": 40}
    )
    grown = CLIPTextModel(config).eval()
    grown.load_state_dict({k.removeprefix("text_model."): v for k, v in longer.items()})
    for prompt in PROMPTS:
        before = tiny_text(**old(prompt, return_tensors="pt")).last_hidden_state
        assert torch.allclose(
            grown(**new(prompt, return_tensors="pt")).last_hidden_state, before, atol=1e-5
        )
    assert longer["text_model.embeddings.position_embedding.weight"][-1].equal(
        state["text_model.embeddings.position_embedding.weight"][-1]
    )


@pytest.fixture
def tiny_text(old: CLIPTokenizer) -> CLIPTextModel:
    task = ClipTask(ClipConfig(text_width=32, text_layers=1, text_heads=2), old)
    return CLIPTextModel._from_config(task.clip.config.text_config).eval()


@pytest.mark.slow
def test_a_run_begins_with_what_is_shipped(tmp_path: Path) -> None:
    from train.configs import CONFIGS

    run = start.lay(tmp_path / "run", CONFIGS["free"])
    tokenizer = CLIPTokenizer.from_pretrained(run / "tokenizer")
    painter = CLIPTextModel.from_pretrained(MODELS / "stickers" / "text_encoder").eval()
    ours = CLIPModel.from_pretrained(run / "clip" / "weights").eval()
    known = CLIPTokenizer.from_pretrained(MODELS / "stickers" / "tokenizer")
    for prompt in PROMPTS:
        before = painter(**known(prompt, return_tensors="pt")).last_hidden_state
        after = ours.text_model(**tokenizer(prompt, return_tensors="pt")).last_hidden_state
        assert torch.allclose(before, after, atol=1e-4)
    shipped = CLIPModel.from_pretrained(RERANKERS / "stickers-clip").eval()
    image = torch.rand(1, 3, 64, 64)
    seen = [clip.get_image_features(image).pooler_output for clip in (shipped, ours)]
    assert torch.allclose(*seen, atol=1e-5)
    unet = load_file(MODELS / "stickers" / "unet" / "diffusion_pytorch_model.safetensors")
    begun = load_file(run / "diffusion" / "start.safetensors")
    assert all(begun[f"unet.{name}"].equal(value.float()) for name, value in unet.items())
    transformer = load_file(run / "dalle" / "start.safetensors")
    assert transformer["transformer.text_position.weight"].shape[0] == start.CONTEXT


def test_a_reader_learns_from_captions_alone(old: CLIPTokenizer, tiny_text: CLIPTextModel) -> None:
    recital = Recital(32, old, 16)
    recited = recital.draw(random.Random(0))
    assert recited.tokens.shape[0] == 16
    assert (recited.things != NOTHING).any(1).all()  # each names a thing
    figures = recital(tiny_text, recited, 0.0)
    figures["reading"].backward()
    assert all(parameter.grad is None for parameter in tiny_text.parameters())  # reader alone
    recital(tiny_text, recited, 0.5)["reading"].backward()
    assert any(parameter.grad is not None for parameter in tiny_text.parameters())


def test_drawn_images_are_told_by_the_judge(tmp_path: Path) -> None:
    """A painter that draws what it likes: rendered scenes, and a grey square."""
    rng = random.Random(5)

    def paint(prompts: list[str], seed: int) -> torch.Tensor:
        images = render([draw_scene(rng) for _ in prompts])
        images[::CANDIDATES] = 90
        return images

    path = draw(paint, tmp_path / "drawn-test.safetensors", 12)
    shown = load([path])
    assert [len(each) for each in shown] == [CANDIDATES] * 12
    clear = 0
    for each in (each for candidates in shown for each in candidates):
        true = seen(each, rng)
        if each.scene is None:
            assert true is None
        elif true is not None:
            clear += 1
            assert holds(true, each.scene)
    assert clear >= 24
    assert all(candidates[0].scene is None for candidates in shown)


def test_what_was_asked_for_is_said_where_it_is_true(tmp_path: Path) -> None:
    scene = draw_scene(random.Random(1))
    from train.stickers.drawn import Shown

    asked = Description(tuple(dict.fromkeys(scene.things)), count=1)
    other = Description((Thing("panda"),), count=5)
    image = render([scene])[0]
    told = Description(asked.things, count=len(scene.things) // len(asked.things))
    assert seen(Shown(image, told, scene), random.Random(0)) == told
    assert seen(Shown(image, other, scene), random.Random(0)) not in (None, other)


def test_the_reranker_learns_from_drawn_images(old: CLIPTokenizer, tmp_path: Path) -> None:
    """They stand behind the rendered ones, with captions that are true of them; what was asked for
    and not drawn is among the false captions."""
    rng = random.Random(7)

    def paint(prompts: list[str], seed: int) -> torch.Tensor:
        images = render([draw_scene(rng) for _ in prompts])
        images[::CANDIDATES] = 90
        return images

    drawn = load([draw(paint, tmp_path / "drawn-test.safetensors", 8)])
    tiny = {"text_width": 32, "text_layers": 1, "text_heads": 2}
    tiny |= {"vision_width": 32, "vision_layers": 1, "vision_heads": 2}
    config = ClipConfig(**tiny, drawn_share=0.5, again_share=1.0, snap=False, free=0.5)
    darker = []

    def again(images: torch.Tensor) -> torch.Tensor:
        darker.append(len(images))
        return images // 2

    task = ClipTask(config, old, drawn, [again])
    batch = task.batch(random.Random(0), 8, torch.device("cpu"))
    number, offered = batch.also_true.shape
    assert darker == [4]
    kept = [image for each in drawn for image in (shown.image for shown in each)]
    assert all(any(image.equal(each) for each in kept) for image in batch.pictures[4:8])
    assert not batch.also_true.diagonal().any()
    assert (batch.pictures[number:] == 90).flatten(1).all(1).any()  # what shows nothing
    assert offered > 8 + 8
    assert task(batch, torch.Generator())["loss"].isfinite()
