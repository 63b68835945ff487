"""The trainings of prior and decoder: a few steps, resumed, and a folder that draws."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PriorTransformer
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from pipelines.drafts import draw
from pipelines.families import find
from pipelines.unclip.image_prompt import ImagePrompt
from pipelines.unclip.pipeline import Unclip
from train import diffusion, shipping, unclip, unclip_quality
from train.clip import SIZE
from train.loop import Schedule, read_log, train
from train.tokenizer import save_tokenizer
from train.world import scene
from train.world.measure import WORLD
from train.world.renderer import render
from train.world.source import STAGES, Stage, source
from train.world.tokenizer import learn

pytestmark = pytest.mark.slow

WIDTH = 32


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return learn(["a panda", "three foxes on white", "draw me a robot above a car, please"], 700)


@pytest.fixture(autouse=True)
def only_few(few: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenes of the few things that the small atlas has."""
    monkeypatch.setattr(scene.pack_scene, "__defaults__", (few,))
    monkeypatch.setattr(scene.draw_scene, "__defaults__", (few,))
    monkeypatch.setitem(STAGES, "whole", Stage(few, 0.0, scene.STYLE_WEIGHTS))
    monkeypatch.setattr("train.pool.CHUNK", 8)
    monkeypatch.setattr(unclip, "MEASURED", 16)


@pytest.fixture(scope="module")
def clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    tower = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1,
             "num_attention_heads": 2}  # fmt: skip
    text = {
        **tower,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**tower, "image_size": SIZE, "patch_size": 16}
    torch.manual_seed(0)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
    )


def prior_task(clip: CLIPModel, tokenizer: CLIPTokenizer, cache: Path) -> unclip.PriorTask:
    torch.manual_seed(0)
    config = unclip.PriorConfig(layers=1, heads=2, head_width=16, pool=16)
    return unclip.PriorTask(config, source(), clip, tokenizer, cache)


def decoder_task(
    vae: AutoencoderKL, clip: CLIPModel, tokenizer: CLIPTokenizer, cache: Path
) -> unclip.UnclipDecoderTask:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"widths": (16,), "head_width": 8, "norm_groups": 4, "pool": 16}
    config = unclip.DecoderConfig(**sizes, transformer_layers=1)
    shipped = diffusion.build(config, 4, WIDTH)
    return unclip.UnclipDecoderTask(
        config, source(), vae, clip, clip.text_model, tokenizer, shipped, cache
    )


def test_the_prior_of_the_world_is_small_enough() -> None:
    config = CLIPConfig(projection_dim=192, text_config={"max_position_embeddings": 64})
    with torch.device("meta"):
        network = unclip.build_prior(unclip.PriorConfig(), CLIPModel(config))
    assert sum(p.numel() for p in network.parameters()) <= 3_000_000


def test_a_prior_goes_on_where_it_was(
    clip: CLIPModel, tokenizer: CLIPTokenizer, tmp_path: Path
) -> None:
    def trained(folder: Path, steps: int) -> PriorTransformer:
        task = prior_task(clip, tokenizer, tmp_path / "embeddings")
        schedule = Schedule(4, 1e-3, warmup_steps=1, steps=steps)
        return PriorTransformer.from_pretrained(train(task, schedule, folder) / "prior")

    whole = trained(tmp_path / "whole", 4)
    trained(tmp_path / "parts", 2)
    resumed = trained(tmp_path / "parts", 4)
    figures = read_log(tmp_path / "whole" / "log.jsonl")
    assert {"loss", "cosine"} <= figures[-1].keys()
    assert torch.equal(whole.clip_std, resumed.clip_std)
    assert whole.clip_std.min() > 0
    learning = [key for key in whole.state_dict() if "ff.net" in key]
    assert all(whole.state_dict()[key].shape == resumed.state_dict()[key].shape for key in learning)


def test_a_decoder_begins_with_what_draws_by_text(
    vae: AutoencoderKL, clip: CLIPModel, tokenizer: CLIPTokenizer, tmp_path: Path
) -> None:
    task = decoder_task(vae, clip, tokenizer, tmp_path / "pairs")
    config = diffusion.DiffusionConfig(
        widths=(16,), head_width=8, norm_groups=4, transformer_layers=1
    )
    torch.manual_seed(0)
    shipped = diffusion.build(config, 4, WIDTH)
    x, hidden = torch.randn(2, 4, 8, 8), torch.randn(2, 5, WIDTH)
    alone = shipped(x, 500, hidden).sample
    assert torch.equal(task.unet(x, 500, hidden).sample, alone)
    tokens = task.image_tokens(torch.randn(2, WIDTH))
    both = task.unet(x, 500, torch.cat([tokens, hidden], dim=1)).sample
    assert not torch.equal(both, alone)

    batch = task.batch(random.Random(0), 40, torch.device("cpu"))
    left_out = (batch.embeddings == 0).all(dim=1).float().mean()
    empty = task.batch(random.Random(0), 40, torch.device("cpu")).tokens
    assert 0 < left_out < 0.4
    assert 0.2 < (empty[:, 1] == tokenizer.eos_token_id).float().mean() < 0.8


def test_what_is_trained_draws(
    vae: AutoencoderKL, clip: CLIPModel, tokenizer: CLIPTokenizer, tmp_path: Path
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    schedule = Schedule(4, 1e-3, warmup_steps=1, steps=2)
    train(prior_task(clip, tokenizer, run / "embeddings"), schedule, run / "prior")
    decoder = decoder_task(vae, clip, tokenizer, run / "pairs")
    train(decoder, schedule, run / "unclip-decoder")
    clip.save_pretrained(run / "clip" / "weights")
    side = {"height": SIZE, "width": SIZE}
    CLIPImageProcessorPil(size=side, crop_size=side).save_pretrained(run / "clip" / "weights")
    save_tokenizer(tokenizer, run / "clip" / "weights")
    vae.save_pretrained(out / "stickers" / "vae")
    save_tokenizer(tokenizer, out / "stickers" / "tokenizer")
    diffusion.save_text_encoder(clip.text_model, out / "stickers" / "text_encoder")
    DPMSolverMultistepScheduler.from_config(diffusion.SCHEDULER).save_pretrained(
        out / "stickers" / "scheduler"
    )

    [folder] = shipping.ship(run, out, only="stickers-unclip", known={})
    assert not (folder / "vae").exists()
    assert find(str(folder)).defaults["width"] == 64
    pipeline = Unclip.from_pretrained(folder, device="cpu")
    settings: dict[str, Any] = {"steps": 2, "prior_steps": 2}
    [image] = draw(pipeline.begin("a panda", seeds=[1], prior_candidates=4, **settings))
    assert image is not None
    [varied] = draw(pipeline.begin("", seeds=[1], images=ImagePrompt((image,)), steps=2))
    assert varied is not None
    assert varied.size == (64, 64)


def test_what_a_model_is_worth_is_printed(
    tiny_unclip_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rng = random.Random(1)
    scenes = [WORLD.source().draw(rng) for _ in range(6)]
    same, moved = unclip_quality.kept_things(WORLD, scenes, render(scenes))
    assert same == [True] * 6  # the judge finds in the true images what is there
    assert not any(moved)
    black = torch.zeros(6, 3, 64, 64, dtype=torch.uint8)
    same, _ = unclip_quality.kept_things(WORLD, scenes, black)
    assert not any(same)

    assert unclip_quality.main(["-m", str(tiny_unclip_folder), "--world", "--scenes", "2"]) == 0
    said = capsys.readouterr().out
    assert "cosine with the true image: prior" in said
    assert "variations, same things" in said
    assert "mixes at 1" in said
