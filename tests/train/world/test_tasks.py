"""The trainings, at the smallest sizes: a step gives finite figures, and what is saved loads."""

import random
from pathlib import Path

import pytest
import torch
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from train import upsampler
from train.autoencoder import AutoencoderConfig
from train.evaluate import through_codes, through_latents
from train.loop import Schedule, train
from train.pool import CHUNK, Pool
from train.world import autoencoder, clip, drawing, dvae, renderer, scene, text
from train.world.facts import Told, describe
from train.world.scene import STYLE_WEIGHTS
from train.world.source import STAGES, Stage, source
from train.world.text import (
    HEADS,
    NOTHING,
    PARTS,
    SLOTS,
    after_end,
    classes,
    fill_things,
    whole_things,
)
from train.world.tokenizer import learn
from train.world.vocabulary import ACCEPTED, COLOURS, NOUNS, SHAPES, THINGS

BY_NAME = {thing.name: number for number, thing in enumerate(THINGS)}


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return learn(["a panda", "three foxes on white", "draw me a robot above a car, please"], 700)


@pytest.fixture
def only_few(few: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenes of the few things that the small atlas has."""
    for module in (clip, text, dvae, drawing, autoencoder):
        for name in ("FIRST", "NOUN_NUMBERS"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, few)
    monkeypatch.setattr(scene.pack_scene, "__defaults__", (few,))
    monkeypatch.setattr(scene.draw_scene, "__defaults__", (few,))
    monkeypatch.setitem(STAGES, "whole", Stage(few, 0.0, STYLE_WEIGHTS))
    monkeypatch.setattr("train.pool.CHUNK", 8)


def test_slots_read_from_left_to_right_and_from_top_to_bottom() -> None:
    panda, car = BY_NAME["panda"], BY_NAME["car"]
    row = torch.zeros(SLOTS, NOTHING + 1)
    fill_things(row, Told(("panda", "car"), (panda, car), relation="right of"))
    assert row[0].argmax().item() in ACCEPTED["car"]
    assert row[1].argmax().item() == panda
    assert row[2].argmax().item() == NOTHING
    assert row.sum(1).tolist() == pytest.approx([1, 1, 1])


def test_a_coloured_shape_is_read_as_its_shape_and_its_colour() -> None:
    parts = torch.full((PARTS,), -5.0)
    parts[len(NOUNS) + list(SHAPES).index("star")] = 5
    parts[len(NOUNS) + len(SHAPES) + list(COLOURS).index("brown")] = 5
    logits = whole_things(parts)
    assert len(logits) == NOTHING + 1
    assert THINGS[int(logits.argmax())].name == "brown star"
    parts[-1] = 11
    assert whole_things(parts).argmax() == NOTHING


def test_classes_say_what_is_left_open() -> None:
    open_told = classes(Told(("panda",), (BY_NAME["panda"],)))
    assert open_told == (0,) * len(HEADS)
    told = Told(("panda",), (0,), count=5, style="blob", background="black")
    values = dict(zip(HEADS, classes(told), strict=True))
    assert (values["count"], values["style"], values["background"]) == (4, 5, 12)
    assert all(value < HEADS[name] for name, value in values.items())


def test_what_stands_behind_the_end_is_absent() -> None:
    tokens = torch.tensor([[5, 7, 9, 9, 9], [5, 7, 8, 8, 9]])
    assert after_end(tokens, 9).tolist() == [[False] * 3 + [True] * 2, [False] * 5]


@pytest.mark.usefixtures("only_few")
def test_a_text_tower_learns_and_loads(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    task = text.TextTask(text.TextConfig(width=32, layers=1, heads=2, projection=16), tokenizer)
    weights = train(task, Schedule(8, 1e-3, steps=2), tmp_path / "text")
    loaded = CLIPTextModelWithProjection.from_pretrained(weights)
    tokens = tokenizer(["a panda"], return_tensors="pt")["input_ids"]
    torch.testing.assert_close(
        loaded(tokens).last_hidden_state.isfinite().all(), torch.tensor(True)
    )
    assert "count" in task.read("three foxes")
    reranker = clip.WorldClipTask(clip.ClipConfigOfWorld(width=32, layers=1, heads=2), weights)
    frozen = [p for p in reranker.clip.text_model.parameters() if p.requires_grad]
    assert frozen == []
    batch = reranker.batch(random.Random(0), 8, torch.device("cpu"))
    figures = reranker(batch, torch.Generator().manual_seed(0))
    assert all(value.isfinite() for value in figures.values())
    figures["loss"].backward()
    assert reranker.clip.visual_projection.weight.grad.abs().sum() > 0


def test_what_a_scene_shows_and_a_caption_tells_are_the_same_classes() -> None:
    rng = random.Random(0)
    for _ in range(300):
        drawn = scene.draw_scene(rng)
        seen, told = clip.facts_seen(drawn), clip.facts_told(describe(drawn, rng))
        things = set(drawn.things)
        for name, one, other in zip(("first", "second", *HEADS), seen, told, strict=True):
            meant = name in ("first", "second") and {one, other} <= things | {clip.UNTOLD}
            assert clip.UNTOLD in (one, other) or one == other or not meant, (name, drawn)


@pytest.mark.usefixtures("only_few")
def test_the_drawing_networks_take_a_step(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    config = text.TextConfig(width=32, layers=1, heads=2, projection=16)
    tower = text.build(config, tokenizer)
    small = AutoencoderConfig(widths=(8, 8, 8, 8), latent_channels=4)
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    from train.autoencoder import build

    vae: AutoencoderKL = build(small)
    settings = drawing.WorldDiffusionConfig(widths=(32,), transformer_layers=1, pool=16)
    task = drawing.WorldDiffusionTask(settings, vae, tower, tokenizer, tmp_path / "latents")
    generator = torch.Generator().manual_seed(0)
    batch = task.batch(random.Random(0), 4, torch.device("cpu"))
    assert batch.latents.shape == (4, 4, 8, 8)
    assert task(batch, generator)["loss"].isfinite()


def test_a_pool_grows_with_use_and_is_found_again(
    few: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STAGES, "whole", Stage(few, 0.0, STYLE_WEIGHTS))
    monkeypatch.setattr("train.pool.CHUNK", 8)
    assert CHUNK > 8
    made = 0

    def encode(images: torch.Tensor) -> torch.Tensor:
        nonlocal made
        made += len(images)
        return images.float().mean((1, 2, 3))

    pool = Pool(source(), encode, "one", tmp_path, largest=32)
    assert made == 16
    rng = random.Random(0)
    for _ in range(30):
        scenes, tensors = pool.sample(rng, 4)
        assert len(scenes) == len(tensors) == 4
    assert len(pool.scenes) == made == 32  # and no further
    again = Pool(source(), encode, "one", tmp_path, largest=32)
    assert (made, again.scenes) == (32, pool.scenes)
    assert all(map(torch.equal, again.parts, pool.parts))
    with pytest.raises(ValueError, match="another network"):
        Pool(source(), encode, "other", tmp_path, largest=32)


def test_the_world_is_small_while_networks_begin() -> None:
    early = STAGES["early"]
    rng = random.Random(0)
    drawn = [scene.draw_scene(rng, early.things, styles=early.styles) for _ in range(300)]
    assert {each.style for each in drawn} == set(early.styles)
    nouns = {thing for each in drawn for thing in each.things if thing < len(NOUNS)}
    assert len(nouns) > 100
    assert nouns <= set(early.things)
    assert set(early.things) < set(STAGES["whole"].things)


@pytest.mark.usefixtures("only_few")
def test_a_decoder_goes_on_and_the_latents_stay(tmp_path: Path) -> None:
    small = AutoencoderConfig(widths=(8, 8, 8, 8), latent_channels=4)
    once = train(
        autoencoder.WorldAutoencoderTask(small), Schedule(4, 1e-2, steps=2), tmp_path / "vae"
    )
    task = autoencoder.WorldDecoderTask(once, small)
    before = {name: value.clone() for name, value in task.vae.state_dict().items()}
    train(task, Schedule(4, 1e-2, steps=2), tmp_path / "decoder")
    changed = {n for n, value in task.vae.state_dict().items() if not value.equal(before[n])}
    assert changed
    assert all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)
    assert task.vae.config.scaling_factor == task.scaling


@pytest.mark.usefixtures("only_few")
def test_an_upsampler_learns_on_what_decoders_make(tmp_path: Path) -> None:
    from pipelines.checkpoints.headers import read_header
    from pipelines.dalle.dvae import DiscreteVae, DvaeConfig, TowerConfig
    from pipelines.upscale.layouts import CompactConfig, identify
    from train.autoencoder import build

    tower = TowerConfig(widths=(8,), patch=4)
    codes = DiscreteVae(DvaeConfig(vocabulary=16, size=64, encoder=tower, decoder=tower))
    small = CompactConfig(features=4, layers=1)
    recipe = upsampler.UpsamplerRecipe(network=small)
    vae = build(AutoencoderConfig(widths=(8, 8, 8, 8), latent_channels=4))
    source = upsampler.Large(
        lambda rng, number: dvae.draw_images(rng, number, packed_share=0.5),
        lambda scenes, size: renderer.render(scenes, size // scene.CELLS),
    )
    task = upsampler.UpsamplerTask(recipe, source, [through_latents(vae), through_codes(codes)])
    weights = train(task, Schedule(4, 1e-3, steps=2), tmp_path / "upsampler")
    header = read_header(weights / "model.safetensors")
    assert identify({name: tuple(each.shape) for name, each in header.items()}) == small
    batch = task.batch(random.Random(0), 6, torch.device("cpu"))
    assert batch.small.shape == (6, 3, 32, 32)
    assert batch.large.shape == (6, 3, 128, 128)


@pytest.mark.usefixtures("only_few")
def test_what_finds_things_learns_from_this_world(few: list[int], tmp_path: Path) -> None:
    from pipelines.segmentation.network import MaskConfig
    from train import masks
    from train.world.masks import LESSON

    tiny = MaskConfig(widths=(8, 8), features=4, runs=64, run_width=16)
    task = masks.MasksTask(LESSON, masks.MasksRecipe(tiny, names=4))
    weights = train(task, Schedule(4, 1e-3, steps=2), tmp_path / "masks")
    assert (weights / "model.safetensors").is_file()
    drawn = scene.draw_scene(random.Random(4), few)
    [things] = LESSON.things([drawn])
    assert {*things.unique().tolist()} == {*drawn.things, masks.BACKGROUND}
    [image] = LESSON.render([drawn]).int()
    changed = (image - image[:, :1, :1]).abs().amax(0) > 40  # the corner is background
    assert (changed & (things == masks.BACKGROUND)).float().mean() < 0.05
