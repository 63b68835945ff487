"""Each network trained for a few tiny steps, and the folders that come out read by other tools."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from transformers import CLIPModel, CLIPTokenizer

from pipelines.checkpoints.places import Place
from pipelines.diffusion.pipeline import LatentDiffusion
from pipelines.families import read_spec
from rerank import Reranker
from train.autoencoder import AutoencoderConfig, AutoencoderTask, to_bytes, to_range
from train.clip import ClipConfig, ClipTask, spoil
from train.diffusion import SCHEDULER, DiffusionConfig, DiffusionTask
from train.loop import Schedule, train
from train.shipping import ship
from train.stickers.facts import describe, holds
from train.stickers.renderer import render
from train.tokenizer import save_tokenizer, train_tokenizer

pytestmark = pytest.mark.slow

TINY_VAE = AutoencoderConfig(widths=(8, 8, 16, 16), latent_channels=4)
TINY_CLIP = ClipConfig(
    text_width=32, text_layers=1, text_heads=2, vision_width=32, vision_layers=1, vision_heads=2
)
TINY_UNET = DiffusionConfig(widths=(32,), norm_groups=8, pool=64)
SCHEDULE = Schedule(batch_size=4, learning_rate=1e-3, steps=2, warmup_steps=1)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole training of two steps each."""
    run = tmp_path_factory.mktemp("run")
    save_tokenizer(train_tokenizer(), run / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(run / "tokenizer")
    autoencoder, clip = AutoencoderTask(TINY_VAE), ClipTask(TINY_CLIP, tokenizer)
    train(autoencoder, SCHEDULE, run / "autoencoder")
    train(clip, SCHEDULE, run / "clip")
    diffusion = DiffusionTask(TINY_UNET, autoencoder.vae, clip.clip.text_model, tokenizer)
    train(diffusion, SCHEDULE, run / "diffusion")
    return run


@pytest.fixture(scope="module")
def shipped(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    out = tmp_path_factory.mktemp("shipped")
    painter, jury = ship(run, out / "painters", out / "juries")
    return painter, jury


def test_every_training_leaves_log_plot_sheet_and_weights(run: Path) -> None:
    for name in ("autoencoder", "clip", "diffusion"):
        folder = run / name
        line = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
        assert line["step"] == 2
        assert (folder / "loss.png").stat().st_size > 1000
        assert len(list(folder.glob("sheet-*.png"))) == 1


def test_shipped_files_are_half_precision_safetensors(shipped: tuple[Path, Path]) -> None:
    files = [path for folder in shipped for path in folder.rglob("*.safetensors")]
    assert len(files) == 4
    for path in files:
        with safe_open(path, "pt") as file:
            assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118


def test_shipped_text_encoder_suits_old_and_new_tools(shipped: tuple[Path, Path]) -> None:
    folder = shipped[0] / "text_encoder"
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert all(key.startswith("text_model.") for key in file.keys())  # noqa: SIM118
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "float32"
    assert config["eos_token_id"] not in (2, config["bos_token_id"])


def test_stock_pipeline_draws_the_same_picture(shipped: tuple[Path, Path]) -> None:
    """From the fp16 files, without a dtype argument, in fp32."""
    painter, _ = shipped
    stock = StableDiffusionPipeline.from_pretrained(painter)
    stock.set_progress_bar_config(disable=True)
    assert {stock.unet.dtype, stock.vae.dtype, stock.text_encoder.dtype} == {torch.float32}
    seeds = [0, 5]
    expected = stock(
        "a panda",
        num_images_per_prompt=2,
        num_inference_steps=6,
        guidance_scale=3.0,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        height=64,
        width=64,
        output_type="np",
    ).images
    ours = LatentDiffusion.from_pretrained(painter)
    with ours.begin("a panda", seeds=seeds, steps=6, guidance=3.0, sampler="dpmpp_2m") as draft:
        draft.step(draft.total)
        pixels = draft.pixels()
    difference = pixels.permute(0, 2, 3, 1).float() - torch.from_numpy(expected) * 255
    assert difference.abs().max() <= 2
    assert read_spec(Place("tiny", painter)).context == 32


def test_stock_clip_scores_the_same(run: Path, shipped: tuple[Path, Path]) -> None:
    _, jury = shipped
    clip, report = CLIPModel.from_pretrained(jury, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert clip.dtype == torch.float32
    reranker = Reranker.load(jury)
    picture = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    tokens = CLIPTokenizer.from_pretrained(jury)("a panda", return_tensors="pt")
    with torch.no_grad():
        output = clip(pixel_values=(picture / 255 - 0.5) / 0.25, **tokens)
    expected = (output.image_embeds @ output.text_embeds.T).item()
    assert reranker.score("a panda", picture)[0] == pytest.approx(expected, abs=1e-5)


def test_scheduler_settings_survive_the_stock_pipeline(shipped: tuple[Path, Path]) -> None:
    stock = StableDiffusionPipeline.from_pretrained(shipped[0])
    for name, value in SCHEDULER.items():
        if name in stock.scheduler.config:
            assert stock.scheduler.config[name] == value


def test_vocabulary_names_every_word(shipped: tuple[Path, Path]) -> None:
    texts = [(folder / "vocabulary.json").read_text() for folder in shipped]
    assert texts[0] == texts[1]
    vocabulary = json.loads(texts[0])
    for noun in vocabulary["nouns"]:
        assert set(noun["name"].split()) <= set(vocabulary["words"])
    assert {"left", "of", "background", "three", "red"} <= set(vocabulary["words"])


def test_clip_batch_knows_what_is_true() -> None:
    """The mask holds exactly the captions that are true of a picture beside its own."""
    task = ClipTask(TINY_CLIP, train_tokenizer())
    batch = task.batch(random.Random(0), 8, CPU)
    assert len(batch.tokens) == batch.also_true.shape[1] + len(batch.recited)
    assert batch.also_true.shape[1] > 16  # the changed captions
    assert len(batch.pictures) > 8  # the spoilt pictures
    assert not batch.also_true.diagonal().any()
    figures = task(batch, torch.Generator())
    assert figures["loss"].isfinite()
    again = task.batch(random.Random(0), 8, CPU)
    assert torch.equal(batch.pictures, again.pictures)
    assert torch.equal(batch.tokens, again.tokens)


def test_spoilt_pictures_are_neither_of_the_two() -> None:
    pictures = torch.stack([torch.zeros(3, 64, 64), torch.full((3, 64, 64), 200.0)]).to(torch.uint8)
    spoilt = spoil(pictures, random.Random(0), share=1.0)
    assert spoilt.shape == pictures.shape
    for picture in spoilt:
        assert 0 < picture.float().mean() < 200


def test_diffusion_target_is_v() -> None:
    """A network that knows x and the noise gives a loss of nought."""
    tokenizer = train_tokenizer()
    clip = ClipTask(TINY_CLIP, tokenizer)
    task = DiffusionTask(
        replace(TINY_UNET, drop_captions=1.0),
        AutoencoderTask(TINY_VAE).vae,
        clip.clip.text_model,
        tokenizer,
    )
    batch = task.batch(random.Random(0), 4, CPU)
    assert (batch.tokens == batch.tokens[0]).all()  # every caption dropped
    generator = torch.Generator().manual_seed(0)
    steps = task.draw_times(4, generator)
    noise = torch.randn(batch.latents.shape, generator=generator)
    alpha_bar = task.alphas_cumprod[steps].view(-1, 1, 1, 1)

    class Oracle(torch.nn.Module):
        def forward(self, x_t, t, text, return_dict):  # type: ignore[no-untyped-def]
            x = (x_t - (1 - alpha_bar).sqrt() * noise) / alpha_bar.sqrt()
            return (alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x,)

    task.unet = Oracle()
    assert task(batch, torch.Generator().manual_seed(0))["loss"] < 1e-6


def test_times_are_where_the_caption_matters() -> None:
    tokenizer = train_tokenizer()
    clip = ClipTask(TINY_CLIP, tokenizer)
    task = DiffusionTask(TINY_UNET, AutoencoderTask(TINY_VAE).vae, clip.clip.text_model, tokenizer)
    times = task.draw_times(10_000, torch.Generator().manual_seed(0))
    assert 0 <= times.min() < 100 < 900 < times.max() < 1000
    middle = ((times >= 400) & (times < 800)).float().mean()
    assert 0.6 < middle < 0.65  # of the normal from logit(0.4) − 0.4 to logit(0.8) − 0.4


def test_bytes_and_range_are_inverse() -> None:
    pictures = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(1, 3, 1, 1)
    assert torch.equal(to_bytes(to_range(pictures)), pictures)


def test_scenes_of_the_pool_have_their_own_latents() -> None:
    vae = AutoencoderTask(TINY_VAE).vae.eval()
    clip = ClipTask(TINY_CLIP, train_tokenizer())
    task = DiffusionTask(TINY_UNET, vae, clip.clip.text_model, clip.tokenizer)
    task.batch(random.Random(0), 2, CPU)
    assert task.pool is not None
    scene = task.pool.scenes[5]
    assert holds(describe(scene, random.Random(0)), scene)
    with torch.no_grad():
        mean = vae.encode(to_range(render([scene]))).latent_dist.mean
    stored = task.pool.moments[5:6].float().chunk(2, dim=1)[0]
    assert torch.allclose(stored, mean, atol=0.02)
