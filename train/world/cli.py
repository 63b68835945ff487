"""`salon-train world`: render the drawings, learn words and tokenizer, train each network."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.runtime.terminal import Parser, above_zero, write
from train.loop import Schedule, Task, train
from train.world.source import STAGES

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

MERGES = Path(__file__).parents[2] / "pipelines/checkpoints/layouts/bpe_simple_vocab_16e6.txt.gz"
DEFAULT_RUN = Path("runs/world")


def add_steps(steps: argparse._SubParsersAction[Parser]) -> None:
    """Add the steps of the world to `salon-train world`."""

    def step(name: str, function: Callable[..., None], help: str) -> argparse.ArgumentParser:
        sub = steps.add_parser(name, help=help, description=help)
        sub.set_defaults(run_step=function)
        return sub

    atlas = step("atlas", _atlas, "install the drawings into the cache and render them")
    atlas.add_argument("--side", type=above_zero(int), default=96, help="pixels of a drawing (96)")
    step("things", _things, "write train/world/things.tsv from WordNet and the concepts")
    sub = step("words", _words, "ask the teacher what words without a drawing are near to")
    sub.add_argument("--teacher", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    step("prompts", _prompts, "write the evaluation set, prompts/world.jsonl")
    step("tokenizer", _tokenizer, "learn the tokenizer").add_argument(
        "--run", type=Path, default=DEFAULT_RUN
    )
    for name, function, help in (
        ("start", _start, "lay the kept weights into a run, for trainings to begin with"),
        ("keep", _keep, "keep the weights of some networks in the repository"),
    ):
        sub = step(name, function, help)
        sub.add_argument("--run", type=Path, default=DEFAULT_RUN, help="folder of the run")
        if function is _keep:
            sub.add_argument("networks", nargs="+", choices=tuple(TASKS))
    step("reading", _reading, "measure what the text encoder reads right").add_argument(
        "--run", type=Path, default=DEFAULT_RUN
    )
    ship = step("assemble", _assemble, "put the trained networks together, to draw and to measure")
    ship.add_argument("--run", type=Path, default=DEFAULT_RUN)
    ship.add_argument("--out", type=Path, required=True, help="folder of the checkpoints")
    for name in TASKS:
        sub = step(name, _network, f"train the world's {name}")
        sub.set_defaults(network=name)
        sub.add_argument("--run", type=Path, default=DEFAULT_RUN, help="folder of this run")
        sub.add_argument(
            "--minutes", type=above_zero(float), help="time budget, over all continuations"
        )
        sub.add_argument(
            "--steps", type=above_zero(int), help="number of updates instead of a time budget"
        )
        sub.add_argument(
            "--rate", type=above_zero(float), help="learning rate instead of the usual one"
        )
        sub.add_argument(
            "--batch", type=above_zero(int), help="batch size instead of the usual one"
        )
        sub.add_argument("--precision", choices=("no", "bf16"), default="bf16")
        sub.add_argument("--threads", type=above_zero(int), default=1, help="CPU threads (1)")
        if name in STAGED:
            help = "how large the world is: 125 things in three styles, or all (whole)"
            sub.add_argument("--stage", choices=tuple(STAGES), default="whole", help=help)


def _atlas(arguments: argparse.Namespace) -> None:
    from train.world.atlas import build

    for line in build(side=arguments.side):
        write(str(line))


def _things(arguments: argparse.Namespace) -> None:
    from train.world.lexicon import build

    write(str(build(MERGES)))


def _words(arguments: argparse.Namespace) -> None:
    from train.world.words import build

    write(str(build(arguments.teacher, MERGES)))


def _prompts(arguments: argparse.Namespace) -> None:
    from train.world.prompts import write_prompts

    write(str(write_prompts()))


def _tokenizer(arguments: argparse.Namespace) -> None:
    from train.tokenizer import save_tokenizer
    from train.world.tokenizer import corpus, learn

    save_tokenizer(learn(corpus(MERGES)), arguments.run / "tokenizer")
    write(str(arguments.run / "tokenizer"))


def _start(arguments: argparse.Namespace) -> None:
    from train.world.start import copy

    for path in copy(arguments.run):
        write(str(path))


def _keep(arguments: argparse.Namespace) -> None:
    import shutil

    from train.world.start import FOLDER, keep

    for network in arguments.networks:
        make, _ = TASKS[network]
        write(str(keep(network, make(arguments.run), arguments.run)))
    shutil.copytree(arguments.run / "tokenizer", FOLDER / "tokenizer", dirs_exist_ok=True)


def _reading(arguments: argparse.Namespace) -> None:
    from train.world.reading import main_figures

    write(str(main_figures(_trained(arguments.run, "text"))))


def _assemble(arguments: argparse.Namespace) -> None:
    from train.shipping import ship
    from train.world.shipping import vocabulary

    for folder in ship(arguments.run, arguments.out, arguments.out, known=vocabulary()):
        write(str(folder))


def _network(arguments: argparse.Namespace) -> None:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    torch.set_num_threads(arguments.threads)
    make, schedule = TASKS[arguments.network]
    changes = {
        "minutes": arguments.minutes,
        "steps": arguments.steps,
        "learning_rate": arguments.rate,
        "batch_size": arguments.batch,
    }
    if arguments.steps is not None:
        schedule = replace(schedule, minutes=None)
    schedule = replace(schedule, **{k: value for k, value in changes.items() if value is not None})
    schedule = replace(schedule, mixed_precision=arguments.precision)
    more = {"stage": arguments.stage} if arguments.network in STAGED else {}
    task = make(arguments.run, **more)
    # In half precision on a CPU, the backward pass of the fused attention is slow for few tokens.
    with sdpa_kernel(SDPBackend.MATH) if arguments.precision == "bf16" else nullcontext():
        write(str(train(task, schedule, arguments.run / arguments.network)))


def _text(run: Path) -> Task:
    from transformers import CLIPTokenizer

    from train.world.text import TextConfig, TextTask

    return TextTask(TextConfig(), CLIPTokenizer.from_pretrained(run / "tokenizer"))


def _clip(run: Path) -> Task:
    from train.world.clip import ClipConfigOfWorld, WorldClipTask

    return WorldClipTask(ClipConfigOfWorld(), _trained(run, "text"))


def _autoencoder(run: Path) -> Task:
    from train.world.autoencoder import WorldAutoencoderTask

    return WorldAutoencoderTask()


def _decoder(run: Path) -> Task:
    from train.world.autoencoder import WorldDecoderTask

    return WorldDecoderTask(_trained(run, "autoencoder"))


def _dvae(run: Path) -> Task:
    from train.world.dvae import WorldDvaeTask

    return WorldDvaeTask()


def _diffusion(run: Path, stage: str = "whole") -> Task:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    from train.world.drawing import WorldDiffusionConfig, WorldDiffusionTask

    vae = AutoencoderKL.from_pretrained(_trained(run, "autoencoder"))
    pool = run / f"latents-{stage}"
    return WorldDiffusionTask(WorldDiffusionConfig(), vae, *_reader(run), pool, stage)


def _dalle(run: Path, stage: str = "whole") -> Task:
    from pipelines.dalle.networks import load_dvae
    from train.world.drawing import RECIPE, WorldDalleTask

    dvae = load_dvae(_trained(run, "dvae"))
    return WorldDalleTask(RECIPE, dvae, *_reader(run), run / f"codes-{stage}", stage)


def _prior(run: Path) -> Task:
    from transformers import CLIPModel, CLIPTokenizer

    from train.unclip import PriorConfig, PriorTask
    from train.world.source import source

    folder = _trained(run, "clip")
    clip, tokenizer = CLIPModel.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)
    return PriorTask(PriorConfig(), source(), clip, tokenizer, run / "embeddings")


def _unclip_decoder(run: Path) -> Task:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPModel

    from train.unclip import DecoderConfig, UnclipDecoderTask
    from train.world.source import source

    return UnclipDecoderTask(
        DecoderConfig(),
        source(),
        AutoencoderKL.from_pretrained(_trained(run, "autoencoder")),
        CLIPModel.from_pretrained(_trained(run, "clip")),
        *_reader(run),
        UNet2DConditionModel.from_pretrained(_trained(run, "diffusion") / "unet"),
        run / "pairs",
    )


def _upsampler(run: Path) -> Task:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    from pipelines.dalle.networks import load_dvae
    from train.evaluate import through_codes, through_latents
    from train.upsampler import Large, UpsamplerRecipe, UpsamplerTask
    from train.world.dvae import draw_images
    from train.world.renderer import render
    from train.world.scene import CELLS

    source = Large(
        lambda rng, number: draw_images(rng, number, packed_share=0.5),
        lambda scenes, size: render(scenes, size // CELLS),
    )
    vae = AutoencoderKL.from_pretrained(_trained(run, "autoencoder"))
    dvae = load_dvae(_trained(run, "dvae"))
    remakes = through_latents(vae.eval()), through_codes(dvae.eval())
    return UpsamplerTask(UpsamplerRecipe(), source, remakes)


def _masks(run: Path) -> Task:
    from train.masks import MasksTask
    from train.world.masks import LESSON

    return MasksTask(LESSON)


def _reader(run: Path) -> tuple[CLIPTextModel, CLIPTokenizer]:
    """Return the text tower and its tokenizer; the pooled projection is CLIP's alone."""
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = _trained(run, "text")
    return CLIPTextModel.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)


def _trained(run: Path, network: str) -> Path:
    folder = run / network / "weights"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing: run salon-train world {network} first")
    return folder


STAGED = ("diffusion", "dalle")  # networks that grow with the world
TASKS: dict[str, tuple[Callable[..., Task], Schedule]] = {
    "text": (
        _text,
        Schedule(128, 2e-3, warmup_steps=100, ema_decay=0.998, minutes=20, save_minutes=3),
    ),
    "clip": (
        _clip,
        Schedule(64, 2e-3, warmup_steps=100, ema_decay=0.998, minutes=60, save_minutes=5),
    ),
    "autoencoder": (
        _autoencoder,
        Schedule(24, 5e-3, warmup_steps=60, ema_decay=0.998, minutes=45, save_minutes=5),
    ),
    "decoder": (
        _decoder,
        Schedule(24, 2e-3, warmup_steps=60, ema_decay=0.998, minutes=45, save_minutes=5),
    ),
    "dvae": (
        _dvae,
        Schedule(16, 3e-3, warmup_steps=60, ema_decay=0.998, minutes=25, save_minutes=4),
    ),
    "dalle": (
        _dalle,
        Schedule(32, 2e-3, warmup_steps=100, ema_decay=0.999, minutes=60, save_minutes=10),
    ),
    "prior": (
        _prior,
        Schedule(128, 2e-3, warmup_steps=100, ema_decay=0.999, minutes=40, save_minutes=5),
    ),
    "unclip-decoder": (
        _unclip_decoder,
        Schedule(32, 1e-3, warmup_steps=100, ema_decay=0.999, minutes=60, save_minutes=10),
    ),
    "upsampler": (
        _upsampler,
        Schedule(32, 2e-3, warmup_steps=100, ema_decay=0.998, minutes=60, save_minutes=8),
    ),
    "masks": (
        _masks,
        Schedule(32, 2e-3, warmup_steps=100, ema_decay=0.998, minutes=60, save_minutes=8),
    ),
    "diffusion": (
        _diffusion,
        Schedule(32, 2e-3, warmup_steps=100, ema_decay=0.999, minutes=90, save_minutes=12),
    ),
}
