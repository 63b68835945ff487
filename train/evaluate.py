"""How well the shipped weights follow prompts: `python -m train.evaluate`.

Every evaluation prompt is drawn with several seeds and judged by `train.stickers.judge`. On many
candidates of each prompt, the choice of our CLIP is compared with the mean candidate and with the
best possible choice; and CLIP must pick a scene's true caption among changed ones. All intervals
are 95 % bootstrap intervals over prompts or scenes, since the seeds of one prompt are alike.

Several models with commas between are measured each alone, and then as one pool, where candidate i
is drawn by the i-th in turn, as `generate` does.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from tqdm import tqdm

from gen.engine import Engine
from pipelines import families
from pipelines.checkpoints.errors import WeightsError
from pipelines.dalle.dvae import DiscreteVae
from pipelines.dalle.networks import load_dvae
from pipelines.dalle.pipeline import Dalle
from pipelines.drafts import Pipeline
from pipelines.families import DEFAULT_MODEL
from pipelines.unclip.pipeline import Unclip
from pipelines.unclip.spec import own_places
from rerank import Reranker
from train.autoencoder import to_bytes, to_range
from train.report import (
    Choice,
    Drawn,
    Estimate,
    Plan,
    Report,
    _without_nan,
    bootstrap,
    pool_to_text,
    share,
    sheet,
    to_json,
    to_text,
)
from train.search_quality import measure_search, plot, table
from train.stickers.captions import phrase
from train.stickers.facts import (
    CHANGES,
    Description,
    change,
    describe,
    draw_told,
    possible_changes,
)
from train.stickers.held_out import is_held_out
from train.stickers.judge import find, judge, verdict
from train.stickers.prompts import EVALUATION, TAGS, read_prompts
from train.stickers.renderer import render
from train.stickers.scene import KINDS, draw_scene
from train.stickers.source import draw_hard, source
from train.stickers.trial import draw_trial
from train.stickers.wording import Wording
from train.worlds import CAPTIONS, Asked, Question, Quiz, Tried, World

DECODED = 32  # pictures in one pass through the autoencoder
LESSONS_FREE = 0.5  # of the prompts of training that are in free wordings


QUICK = Plan(prompts=60, seeds=2, best_prompts=30, scenes=200)


def _sticker_quiz(rng: random.Random, held_out: bool) -> Quiz | None:
    scene = draw_scene(rng, held_out=held_out)
    told = describe(scene, rng)
    changed = _changed(told, rng, held_out)
    if is_held_out(scene.things) != held_out or len(changed) < CAPTIONS - 1:
        return None
    wording = rng.random()
    texts = [phrase(each, random.Random(wording)) for each in (told, *changed)]
    return Quiz(render([scene]), texts, list(changed.values()))


def _sticker_trial(number: int) -> Tried:
    trial = draw_trial(number)

    def right(pictures: torch.Tensor) -> list[bool]:
        pairs = zip(find(pictures), trial.told, strict=True)
        return [verdict(sight, told).right for sight, told in pairs]

    return Tried(trial.pictures, [scene.kind for scene in trial.scenes], right)


def _sticker_question(rng: random.Random) -> Question:
    told = describe(draw_scene(rng), rng)
    return Question(phrase(told, rng), told)


def _sticker_lesson(rng: random.Random) -> Question:
    scene = draw_hard(rng)
    told = describe(scene, rng)
    return Question(Wording(LESSONS_FREE).say(told, rng), told, scene.kind)


def _look(pictures: torch.Tensor, description: Description) -> list[tuple[bool, Any]]:
    return [(each.right, each.reason) for each in judge(pictures, description)]


STICKERS = World(
    prompts=EVALUATION,
    read=read_prompts,
    groups=TAGS,
    groups_of=lambda prompt: {prompt.tag},
    look=_look,
    facts=CHANGES,
    quiz=_sticker_quiz,
    kinds=tuple(KINDS),
    trial=_sticker_trial,
    ask=_sticker_question,
    lesson=_sticker_lesson,
    source=partial(source, free=0.5, held_out=True),
    readings=lambda images: [[each.scene] if each.scene else [] for each in find(images)],
    draw_told=draw_told,
)


def draw(
    pipeline: Pipeline,
    reranker: Reranker,
    prompt: Asked,
    number: int,
    plan: Plan,
    world: World = STICKERS,
) -> Drawn:
    """Draw, judge and score `number` candidates of one prompt, with the seeds from 0."""
    settings = plan.settings(pipeline.spec.settings)
    with pipeline.begin(prompt.text, seeds=range(number), **settings) as draft:
        draft.step(draft.total)
        made = draft.pixels().cpu()
        kept = [seed not in draft.failed for seed in draft.seeds]
    pictures = made.new_zeros(number, *made.shape[1:])
    pictures[torch.tensor(kept)] = made
    looked = world.look(pictures, prompt.description)
    right, seen = [each for each, _ in looked], tuple(each for _, each in looked)
    return Drawn(prompt, pictures, right, reranker.score(prompt.text, pictures), seen)


def pooled(paths: Sequence[Sequence[Drawn]]) -> list[Drawn]:
    """Return the pool of several models' candidates, prompt by prompt: candidate i is the i-th of
    the model whose turn it is."""
    return [_dealt(by_model) for by_model in zip(*paths, strict=True)]


def _dealt(by_model: Sequence[Drawn]) -> Drawn:
    turns = [by_model[i % len(by_model)] for i in range(len(by_model[0].right))]
    return Drawn(
        by_model[0].prompt,
        torch.stack([drawn.pictures[i] for i, drawn in enumerate(turns)]),
        [drawn.right[i] for i, drawn in enumerate(turns)],
        [drawn.scores[i] for i, drawn in enumerate(turns)],
        tuple(drawn.seen[i] for i, drawn in enumerate(turns) if drawn.seen),
    )


def measure(
    drawn: Sequence[Drawn],
    pipeline: Pipeline,
    reranker: Reranker,
    plan: Plan,
    world: World = STICKERS,
) -> Report:
    """All figures, from what was drawn and the networks themselves."""
    return Report(
        model=str(pipeline.spec.folder),
        clip=str(reranker.folder),
        plan=plan,
        one_candidate=one_candidate(drawn, plan.seeds, world),
        same_as_twin=same_as_twin(drawn, partial(draw, pipeline, reranker, plan=plan, world=world)),
        best_of=best_of(drawn[: plan.best_prompts], plan.candidates, world),
        true_caption=true_captions(reranker, plan.scenes, held_out=False, world=world),
        true_caption_held_out=true_captions(reranker, plan.scenes, held_out=True, world=world),
        ceiling=ceiling(reconstruction(pipeline), plan.scenes, world),
    )


def one_candidate(
    drawn: Sequence[Drawn], seeds: int, world: World = STICKERS
) -> dict[str, Estimate]:
    """How often one candidate is right: the mean over prompts and their first `seeds` seeds."""
    return {
        name: share([float(np.mean(each.right[:seeds])) for each in group])
        for name, group in _grouped(drawn, world).items()
    }


def same_as_twin(drawn: Sequence[Drawn], draw_twin: Callable[..., Drawn]) -> Estimate | None:
    """How often a prompt with words that mean nothing shows the same things, in the judge's words,
    as its twin without them with the same seed; None where no prompt has a twin."""
    same = []
    for each in drawn:
        if (twin := getattr(each.prompt, "twin", None)) is not None:
            other = draw_twin(Question(twin, each.prompt.description), len(each.right))
            pairs = zip(each.right, each.seen, other.right, other.seen, strict=True)
            same.append(float(np.mean([(a, b) == (c, d) for a, b, c, d in pairs])))
    return share(same) if same else None


def best_of(drawn: Sequence[Drawn], candidates: int, world: World = STICKERS) -> dict[str, Choice]:
    """Return what CLIP's first choice among the first `candidates` of each prompt is worth."""
    return {name: _choice(group, candidates) for name, group in _grouped(drawn, world).items()}


def _grouped(drawn: Sequence[Drawn], world: World) -> dict[str, list[Drawn]]:
    others = (name for each in drawn for name in sorted(world.groups_of(each.prompt)))
    groups = {
        name: [each for each in drawn if name in world.groups_of(each.prompt)]
        for name in dict.fromkeys((*world.groups, *others))
    }
    return {"overall": list(drawn), **groups}


def _choice(drawn: Sequence[Drawn], candidates: int) -> Choice:
    table = []  # of mean, top-1 and oracle
    for each in drawn:
        right, scores = each.right[:candidates], each.scores[:candidates]
        table.append((np.mean(right), right[_favourite(scores)], any(right)))
    rows = np.array(table, dtype=float).reshape(-1, 3)
    return Choice(
        mean=bootstrap(rows, lambda means: means[..., 0]),
        top_1=bootstrap(rows, lambda means: means[..., 1]),
        oracle=bootstrap(rows, lambda means: means[..., 2]),
        captured=bootstrap(
            rows, lambda means: (means[..., 1] - means[..., 0]) / (means[..., 2] - means[..., 0])
        ),
    )


def _favourite(scores: Sequence[float]) -> int:
    """Return the index of the highest score; one that is not a number is the lowest."""
    return max(
        range(len(scores)), key=lambda i: scores[i] if math.isfinite(scores[i]) else -math.inf
    )


def true_captions(
    reranker: Reranker, number: int, *, held_out: bool, world: World = STICKERS
) -> dict[str, Estimate]:
    """How often CLIP prefers the true caption of a scene to 15 with one fact changed each, in the
    same wording: to all of them (`overall`), and to all those in which one kind of fact changed.

    `held_out` takes scenes with held-out combinations only, else there are none in scenes and
    captions.
    """
    rng = random.Random(f"true captions:{held_out}")
    wins: dict[str, list[bool]] = {name: [] for name in ("overall", *world.facts)}
    while len(wins["overall"]) < number:
        quiz = world.quiz(rng, held_out)
        if quiz is None:
            continue
        true, *others = reranker.similarity(quiz.captions, quiz.picture)[:, 0].tolist()
        wins["overall"].append(true > max(others))
        for fact in set(quiz.changed):
            pairs = zip(others, quiz.changed, strict=True)
            wins[fact].append(true > max(score for score, changed in pairs if changed == fact))
    return {name: share(truths) for name, truths in wins.items()}


def _changed(told: Description, rng: random.Random, held_out: bool) -> dict[Description, str]:
    """Up to 15 different changes of `told` with the fact that was changed, the facts in turns."""
    changed: dict[Description, str] = {}
    for _ in range(CAPTIONS):
        for fact in possible_changes(told):
            other = change(told, fact, rng, held_out=held_out)
            if other is not None and len(changed) < CAPTIONS - 1:
                changed.setdefault(other, fact)
    return changed


def reconstruction(pipeline: Pipeline) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what a model's autoencoder makes of uint8 images (B, 3, H, W), on the CPU in
    float32."""
    if isinstance(pipeline, Dalle):
        return through_codes(load_dvae(pipeline.spec.folder / "dvae"))
    folder = pipeline.spec.folder / "vae"
    if isinstance(pipeline, Unclip):
        folder = own_places(pipeline.spec.folder)["vae"]
    return through_latents(AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).eval())


def through_latents(vae: AutoencoderKL) -> Callable[[torch.Tensor], torch.Tensor]:
    """Pictures to latents and back."""
    return lambda x: to_bytes(vae.decode(vae.encode(to_range(x)).latent_dist.mean).sample)


def through_codes(dvae: DiscreteVae) -> Callable[[torch.Tensor], torch.Tensor]:
    """Pictures to codes and back."""
    return lambda x: (dvae.decode(dvae.encode(x)) * 255).round().to(torch.uint8)


def ceiling(
    again: Callable[[torch.Tensor], torch.Tensor], number: int, world: World = STICKERS
) -> dict[str, Estimate]:
    """How many scenes are still right after an autoencoder made them again: what a painter in its
    latents or codes can reach at best."""
    trial = world.trial(number)
    with torch.inference_mode():
        pictures = [again(part) for part in trial.pictures.split(DECODED)]
    right: dict[str, list[bool]] = {name: [] for name in ("overall", *world.kinds)}
    for kind, truth in zip(trial.kinds, trial.right(torch.cat(pictures)), strict=True):
        for name in ("overall", kind):
            right[name].append(truth)
    return {name: share(truths) for name, truths in right.items()}


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        plan = _plan(arguments)
        world = world_named(arguments.world)
        prompts = world.read(arguments.prompts_file or world.prompts)[: plan.prompts]
        engine = Engine(device=arguments.device, reranker=arguments.clip)
        if arguments.search is not None:
            return _measure_search(arguments, engine, prompts, world)
        pipelines = [engine.pipeline(families.find(name)) for name in arguments.model.split(",")]
        reranker = Reranker.load(arguments.clip, device=arguments.device)
        draw_one = partial(draw_all, reranker=reranker, prompts=prompts, plan=plan, world=world)
        paths = [draw_one(pipeline) for pipeline in pipelines]
    except WeightsError as error:
        print(f"evaluate: error: {error}", file=sys.stderr)
        return 3
    except (OSError, ValueError) as error:
        print(f"evaluate: error: {error}", file=sys.stderr)
        return 2
    pool = pooled(paths)  # of a single model, its own candidates
    if arguments.sheet is not None:
        sheet(pool).save(arguments.sheet)
    plan = replace(plan, prompts=len(prompts))
    reports = [
        measure(drawn, pipeline, reranker, plan, world)
        for drawn, pipeline in zip(paths, pipelines, strict=True)
    ]
    if len(reports) == 1:
        print(json.dumps(to_json(reports[0]), indent=2) if arguments.json else to_text(reports[0]))
        return 0
    chosen = best_of(pool[: plan.best_prompts], plan.candidates, world)
    if arguments.json:
        each = [to_json(report) for report in reports]
        whole = {name: asdict(choice) for name, choice in chosen.items()}
        print(json.dumps({"models": each, "pool": _without_nan(whole)}, indent=2))
        return 0
    models = [report.model for report in reports]
    print("\n\n".join([*map(to_text, reports), pool_to_text(models, chosen, plan)]))
    return 0


def _measure_search(
    arguments: argparse.Namespace, engine: Engine, prompts: Sequence[Asked], world: World
) -> int:
    searches = arguments.search.split(",")
    rows = measure_search(engine, arguments.model, prompts, world, searches)
    print(table(rows, share))
    if arguments.plot is not None:
        plot(rows, share, arguments.plot)
    return 0


def world_named(of_thousand: bool) -> World:
    """Return the world that is measured by."""
    if not of_thousand:
        return STICKERS
    from train.world.measure import WORLD

    return WORLD


def draw_all(
    pipeline: Pipeline,
    reranker: Reranker,
    prompts: Sequence[Asked],
    plan: Plan,
    world: World = STICKERS,
) -> list[Drawn]:
    """Every prompt by one model, with a bar."""
    numbers = [
        max(plan.candidates if index < plan.best_prompts else 0, plan.seeds)
        for index in range(len(prompts))
    ]
    rows = tqdm(zip(prompts, numbers, strict=True), total=len(prompts), unit="prompt", leave=False)
    return [draw(pipeline, reranker, prompt, number, plan, world) for prompt, number in rows]


def _plan(arguments: argparse.Namespace) -> Plan:
    """Return the standard or the quick plan, with what was said otherwise."""
    plan = QUICK if arguments.quick else Plan()
    said = {name: getattr(arguments, name) for name in asdict(plan)}
    plan = replace(plan, **{name: value for name, value in said.items() if value is not None})
    if min(plan.prompts, plan.seeds, plan.candidates, plan.scenes) < 1 or plan.best_prompts < 0:
        raise ValueError("numbers of prompts, seeds, candidates and scenes must be at least 1")
    return replace(plan, best_prompts=min(plan.best_prompts, plan.prompts))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m train.evaluate", description=__doc__)
    parser.add_argument(
        "-m",
        "--model",
        "--folder",
        default=DEFAULT_MODEL,
        help="a known model, a folder, or several with commas between",
    )
    parser.add_argument("--clip", help="a known CLIP or a folder; default: the shipped one")
    parser.add_argument(
        "--world", action="store_true", help="the world of a thousand things, prompts/world.jsonl"
    )
    parser.add_argument("--prompts-file", type=Path, help="other prompts of the same world")
    parser.add_argument("--quick", action="store_true", help="60 prompts × 2 seeds")
    parser.add_argument("--prompts", type=int, help="only the first so many")
    parser.add_argument("--seeds", type=int, help="of each prompt, for the single candidate")
    parser.add_argument("--candidates", type=int, help="of each prompt, to choose the best from")
    parser.add_argument("--best-prompts", type=int, help="only so many with all candidates")
    parser.add_argument("--scenes", type=int, help="for CLIP's captions and the ceiling")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--sampler")
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--token-top-k", type=int)
    parser.add_argument("--token-top-p", type=float)
    parser.add_argument("--prior-candidates", type=int, help="embeddings to choose from")
    parser.add_argument("--search", help="measure prune, beam or both, against plain runs")
    parser.add_argument("--plot", type=Path, help="with --search: write a plot of it")
    parser.add_argument("--device")
    parser.add_argument("--sheet", type=Path, help="write the first 48 pictures, unpicked")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


if __name__ == "__main__":
    sys.exit(main())
