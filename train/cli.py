"""`salon-train`: make the atlas, the tokenizer and every network, measure them, ship them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.checkpoints.errors import WeightsError
from pipelines.runtime.limits import wait_politely
from pipelines.runtime.terminal import Parser, above_zero, complain, is_full, prepare_streams, write
from train import flags
from train.configs import CONFIGS
from train.loop import Schedule, Task, train
from train.shipping import SHIPPED

if TYPE_CHECKING:
    from pipelines.diffusion.pipeline import LatentDiffusion

DESCRIPTION = """\
Make the shipped weights, or such weights of your own, step by step: atlas, tokenizer, the networks,
calibrate, ship. The other steps measure and plan. A training goes on where it was stopped.
"""
GOES_ON = "a training goes on from where it last saved"
NETWORKS = {
    "autoencoder": "the autoencoder of latent diffusion",
    "clip": "the CLIP model that judges, whose text encoder the painters read prompts by",
    "diffusion": "the UNet of latent diffusion",
    "dvae": "the discrete VAE of the DALL·E path",
    "dalle": "the transformer of the DALL·E path",
    "masks": "the network that finds things by name",
    "prior": "the prior of the way over image embeddings, for the CLIP that ships",
    "upsampler": "what enlarges the images of both painters from 64 to 256 pixels",
    "unclip-decoder": "the tokens by which the UNet that ships draws image embeddings",
}


def main(argv: list[str] | None = None) -> int:
    """Run one step of the training; returns the exit code."""
    prepare_streams()
    wait_politely()
    run: Path | None = None
    try:
        arguments = _parser().parse_args(argv)
        run = getattr(arguments, "run", None)
        arguments.run_step(arguments)
    except (FileNotFoundError, ValueError, FloatingPointError, WeightsError) as error:
        complain(f"salon-train: error: {error}")
        return 2
    except Exception as error:
        if not is_full(error):
            raise
        where = getattr(error, "filename", None) or run or "to the disk"
        complain(f"salon-train: error: cannot write {where}: no space left: make room; {GOES_ON}")
        return 5
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="salon-train", description=DESCRIPTION)
    steps = parser.add_subparsers(metavar="STEP", required=True)

    def step(
        name: str, function: Callable[..., None], help: str, aliases: Sequence[str] = ()
    ) -> argparse.ArgumentParser:
        sub = steps.add_parser(name, aliases=aliases, help=help, description=help)
        sub.set_defaults(run_step=function)
        return sub

    def running(sub: argparse.ArgumentParser) -> argparse.ArgumentParser:
        sub.add_argument("--run", type=Path, default=Path("runs/small"), help="folder of this run")
        return sub

    def counting(sub: argparse.ArgumentParser, default: int) -> None:
        sub.add_argument(
            "--number", type=above_zero(int), default=default, help=f"of scenes ({default})"
        )

    step("atlas", _atlas, "draw the glyphs of the vocabulary into train/stickers/atlas.png")
    step("prompts", _prompts, "write the evaluation sets, prompts/eval.jsonl and free.jsonl")
    counting(
        step("statistics", _statistics, "count how often each kind of scene and phrasing comes"),
        10_000,
    )
    judge = step("judge", _judge, "measure how well the judge tells right images from wrong ones")
    counting(judge, 1000)
    judge.add_argument("--world", action="store_true", help="the judge of the thousand things")
    judge.add_argument("--run", type=Path, help="with --world: try this run's decoders, too")
    for name, aliases, function, help in (
        ("calibrate", (), _calibrate, "learn what a reranker's scores mean: its calibration.json"),
        # "jury" was its name
        ("reranker", ("jury",), _reranker, "measure what its probabilities and ticks are worth"),
    ):
        flags.add_reranking(step(name, function, help, aliases))
    flags.add_previews(step("previews", _previews, "learn what unfinished images tell a search"))
    flags.add_judged(running(step("judged", _judged, "have the judge choose among what is drawn")))
    flags.add_prefer(running(step("prefer", _prefer, "teach a model what somebody prefers")))
    flags.add_reinforce(running(step("reinforce", _reinforce, "teach a model by what it draws")))
    found = step("found", _found, "measure how well things are found by name")
    found.add_argument("--masks", type=Path, help="folder of the network; default: the shipped one")
    counting(found, 500)
    start = step("start", _start, "lay the shipped weights into a run, to learn free wordings")
    running(start).add_argument("--config", choices=CONFIGS, default="free", help="sizes (free)")
    running(step("tokenizer", _tokenizer, "learn the tokenizer from captions"))
    for name, network in NETWORKS.items():
        sub = running(step(name, _network, f"train {network}"))
        sub.set_defaults(network=name)
        flags.add_budget(sub)
    drawn = running(step("drawn", _drawn, "draw images for the reranker to learn from"))
    flags.add_drawn(drawn)
    ship = step("ship", _ship, "put the trained networks into the packages, in half precision")
    running(ship).add_argument("--only", choices=SHIPPED, help="one of them; default: all there")
    from train.world.cli import add_steps

    world = steps.add_parser("world", help="the same steps for the world of a thousand things")
    add_steps(world.add_subparsers(metavar="STEP", required=True))
    step("plan", _plan, "tell the memory that DALL·E's transformer of 12 billion parameters needs")
    return parser


def _prompts(arguments: argparse.Namespace) -> None:
    from train.stickers.prompts import write_prompts

    for path in write_prompts():
        write(str(path))


def _statistics(arguments: argparse.Namespace) -> None:
    from train.stickers.statistics import main_figures

    write(str(main_figures(arguments.number)))


def _judge(arguments: argparse.Namespace) -> None:
    if arguments.world:
        from train.world import trial

        write(str(trial.main_figures(arguments.number, arguments.run)))
        return
    from train.stickers.trial import main_figures

    write(str(main_figures(arguments.number)))


def _calibrate(arguments: argparse.Namespace) -> None:
    from rerank import Reranker
    from rerank.calibration import calibration
    from train.reranker_quality import calibrate

    reranker = Reranker.load(arguments.clip)
    made, quality = calibrate(
        reranker,
        _pipeline(arguments),
        scenes=arguments.scenes,
        prompts=arguments.prompts,
    )
    path = reranker.folder / calibration.FILE
    calibration.write(made, path)
    write(
        f"{path}: on {quality.pairs} pairs held out, the expected calibration error is "
        f"{quality.error:.3f}, and {quality.right:.1%} are told right"
    )


def _previews(arguments: argparse.Namespace) -> None:
    from pipelines.families import DEFAULT_MODEL, find
    from rerank import Reranker
    from rerank.learn.previews import FILE
    from train.evaluate import world_named
    from train.previews import collect, learn_head

    model = arguments.model or DEFAULT_MODEL
    reranker, world = Reranker.load(arguments.clip), world_named(arguments.world)
    found = collect(model, reranker, world, arguments.prompts, arguments.candidates)
    head, lines = learn_head(found, reranker)
    path = arguments.output or find(model).folder / FILE
    head.save(path)
    write("\n".join([f"{path}:", *lines]))


def _judged(arguments: argparse.Namespace) -> None:
    from gen.engine import Engine
    from pipelines.families import DEFAULT_MODEL, find
    from train.evaluate import world_named
    from train.judged import judged, share_right

    spec, world = find(arguments.model or DEFAULT_MODEL), world_named(arguments.world)
    folder = arguments.run / "judged" / spec.name
    path = judged(Engine().pipeline(spec), world, folder, arguments.prompts, arguments.candidates)
    write(f"{path}: {share_right(folder):.1%} of the images are right")


def _prefer(arguments: argparse.Namespace) -> None:
    from pipelines.families import DEFAULT_MODEL, find
    from pipelines.loading import LoadOptions
    from rerank.learn.choices import read_choices

    choices = read_choices(arguments.choices)
    spec = find(arguments.model or DEFAULT_MODEL)
    options = LoadOptions(dtype="float32", attention="sdpa")
    changed = {} if arguments.beta is None else {"beta": arguments.beta}
    task: Task
    if spec.kind == "latent_diffusion":
        from pipelines.diffusion.pipeline import LatentDiffusion
        from train.prefer import LEARNING_RATE, PreferConfig, PreferTask

        task = PreferTask(LatentDiffusion.load(spec, options), choices, PreferConfig(**changed))
        rate = LEARNING_RATE
    elif spec.kind == "dalle":
        from pipelines.dalle.pipeline import Dalle
        from train.prefer_tokens import LEARNING_RATE, PreferTokensConfig, PreferTokensTask

        config = PreferTokensConfig(**changed)
        task = PreferTokensTask(Dalle.load(spec, options), choices, config)
        rate = LEARNING_RATE
    else:
        raise ValueError(f"{spec.name} is drawn by diffusers' own pipeline: it cannot learn here")
    write(str(train(task, _brief(arguments, rate), arguments.run / "prefer")))


def _reinforce(arguments: argparse.Namespace) -> None:
    from pipelines.dalle.pipeline import Dalle
    from pipelines.families import find
    from pipelines.loading import LoadOptions
    from train.reinforce import LEARNING_RATE, ReinforceConfig, ReinforceTask
    from train.rewards import by_head, by_judge

    spec = find(arguments.model)
    if spec.kind != "dalle":
        raise ValueError(f"{spec.name} draws no image tokens: only what does can learn like this")
    if (arguments.head is None) != (arguments.choices is None):
        raise ValueError("--head and --choices go together: what was learned, and from what")
    config = ReinforceConfig(group=arguments.candidates, distance=arguments.distance)
    if arguments.head is None:
        prompts, rewards = by_judge(arguments.world)
    else:
        prompts, rewards = by_head(arguments.head, arguments.choices, arguments.clip)
    options = LoadOptions(dtype="float32", attention="sdpa")
    task = ReinforceTask(Dalle.load(spec, options), prompts, rewards, config)
    schedule = _brief(arguments, LEARNING_RATE)
    write(str(train(task, schedule, arguments.run / "reinforce")))


def _brief(arguments: argparse.Namespace, learning_rate: float) -> Schedule:
    """Return the schedule of a model that learns a little more."""
    return Schedule(
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate or learning_rate,
        warmup_steps=20,
        ema_decay=0.98,
        steps=arguments.steps,
    )


def _found(arguments: argparse.Namespace) -> None:
    from pipelines.segmentation.models import SHIPPED
    from train.masks import main_figures
    from train.stickers.masks import LESSON

    write(str(main_figures(arguments.masks or SHIPPED, LESSON, arguments.number)))


def _reranker(arguments: argparse.Namespace) -> None:
    from rerank import Reranker
    from train.reranker_quality import main_figures

    reranker, pipeline = Reranker.load(arguments.clip), _pipeline(arguments)
    write(str(main_figures(reranker, pipeline, scenes=arguments.scenes, prompts=arguments.prompts)))


def _pipeline(arguments: argparse.Namespace) -> LatentDiffusion | None:
    if arguments.prompts == 0:
        return None
    from pipelines.diffusion.pipeline import LatentDiffusion
    from pipelines.families import DEFAULT_MODEL

    return LatentDiffusion.from_pretrained(arguments.model or DEFAULT_MODEL)


def _atlas(arguments: argparse.Namespace) -> None:
    from train.stickers.atlas import draw_atlas

    write(str(draw_atlas()))


def _tokenizer(arguments: argparse.Namespace) -> None:
    from train.tokenizer import save_tokenizer, train_tokenizer

    save_tokenizer(train_tokenizer(), arguments.run / "tokenizer")
    write(str(arguments.run / "tokenizer"))


def _start(arguments: argparse.Namespace) -> None:
    from train.stickers.start import lay

    write(str(lay(arguments.run, CONFIGS[arguments.config])))


def _drawn(arguments: argparse.Namespace) -> None:
    from train.loop import load_averaged
    from train.stickers.drawn import draw
    from train.tasks import dalle, diffusion

    run, network = arguments.run, arguments.network
    make = diffusion if network == "diffusion" else dalle
    task = load_averaged(make(CONFIGS[arguments.config], run), run / network)
    path = run / f"drawn-{network}.safetensors"
    write(str(draw(task.draw, path, arguments.number)))


def _ship(arguments: argparse.Namespace) -> None:
    from train.shipping import ship

    for folder in ship(arguments.run, only=arguments.only):
        write(str(folder))


def _plan(arguments: argparse.Namespace) -> None:
    from pipelines.dalle.memory import MemoryPlan
    from pipelines.dalle.transformer import TransformerConfig

    write(f"in bfloat16: {MemoryPlan.of(TransformerConfig(), bytes_per_value=2)}")


def _network(arguments: argparse.Namespace) -> None:
    from pipelines.runtime.cpu import use_threads
    from train.tasks import TASKS

    use_threads(arguments.threads)
    config = CONFIGS[arguments.config]
    schedule, make = TASKS[arguments.network]
    task = make(config, arguments.run)
    budgeted = _with_budget(schedule(config), arguments.minutes, arguments.steps)
    with _attention(budgeted):
        write(str(train(task, budgeted, arguments.run / arguments.network)))


def _attention(schedule: Schedule) -> AbstractContextManager[None]:
    """Return a context in which attention is computed in plain steps where it is faster so: in half
    precision on a CPU, the backward pass of the fused kernel is slow for few tokens."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    slow = schedule.mixed_precision != "no" and not torch.cuda.is_available()
    return sdpa_kernel(SDPBackend.MATH) if slow else nullcontext()


def _with_budget(schedule: Schedule, minutes: float | None, steps: int | None) -> Schedule:
    if minutes is None and steps is None:
        return schedule
    return replace(schedule, minutes=minutes, steps=steps)
