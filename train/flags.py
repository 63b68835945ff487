"""Flags of the steps of `salon-train`."""

import argparse
from pathlib import Path

from pipelines.runtime.terminal import above_zero
from rerank.flags import read_weighted
from train.configs import CONFIGS


def add_budget(sub: argparse.ArgumentParser) -> None:
    """Add the flags of how long a network is trained."""
    sub.add_argument("--config", choices=CONFIGS, default="small", help="sizes (small)")
    budget = sub.add_mutually_exclusive_group()
    budget.add_argument(
        "--minutes", type=above_zero(float), help="time budget, over all continuations"
    )
    budget.add_argument(
        "--steps", type=above_zero(int), help="number of updates instead of a time budget"
    )
    sub.add_argument("--threads", type=above_zero(int), help="CPU threads; default: all cores")


def add_previews(previews: argparse.ArgumentParser) -> None:
    """Add the flags of the head that reads unfinished images."""
    previews.add_argument("-m", "--model", help="the model that draws; default: the shipped one")
    previews.add_argument("--clip", help="a known CLIP or a folder; default: the shipped one")
    previews.add_argument("--world", action="store_true", help="the world of a thousand things")
    previews.add_argument(
        "--prompts", type=above_zero(int), default=200, help="that are asked for (200)"
    )
    previews.add_argument("--candidates", type=above_zero(int), default=16, help="of each (16)")
    previews.add_argument("-o", "--output", type=Path, help="default: in the model's folder")


def add_prefer(prefer: argparse.ArgumentParser) -> None:
    """Add the flags of learning from choices."""
    prefer.add_argument("--choices", type=Path, required=True, help="of generate --choices")
    prefer.add_argument("-m", "--model", help="what learns; default: the shipped one")
    prefer.add_argument(
        "--steps", type=above_zero(int), default=500, help="number of updates (500)"
    )
    prefer.add_argument(
        "--batch-size", type=above_zero(int), default=16, help="choices in each (16)"
    )
    prefer.add_argument(
        "--learning-rate", type=above_zero(float), help="default: what suits the kind of model"
    )
    prefer.add_argument(
        "--beta", type=above_zero(float), help="how dear old ways are; default: by the kind, too"
    )


def add_reinforce(reinforce: argparse.ArgumentParser) -> None:
    """Add the flags of learning from what a model's own images are worth."""
    reinforce.add_argument("-m", "--model", default="stickers-dalle", help="(stickers-dalle)")
    reinforce.add_argument(
        "--head", type=read_weighted, metavar="FILE[=WEIGHT]",
        help="what `rerank learn` has learned from choices, beside the reranker, whose weight is "
        "1; default: the world's judge alone",
    )  # fmt: skip
    reinforce.add_argument(
        "--choices", type=Path, help="with --head: the prompts of this file are drawn"
    )
    reinforce.add_argument("--clip", help="a known CLIP or a folder; default: the shipped one")
    reinforce.add_argument("--world", action="store_true", help="the world of a thousand things")
    reinforce.add_argument(
        "--steps", type=above_zero(int), default=300, help="number of updates (300)"
    )
    reinforce.add_argument(
        "--batch-size", type=above_zero(int), default=6, help="prompts in each (6)"
    )
    reinforce.add_argument(
        "--candidates", type=above_zero(int), default=16, help="of each prompt (16)"
    )
    reinforce.add_argument("--learning-rate", type=above_zero(float), help="(0.002)")
    reinforce.add_argument(
        "--distance",
        type=above_zero(float),
        default=0.25,
        help="what going away from the old model costs (0.25)",
    )


def add_judged(judged: argparse.ArgumentParser) -> None:
    """Add the flags of choices that the judge makes."""
    judged.add_argument("-m", "--model", help="the model that draws; default: the shipped one")
    judged.add_argument("--world", action="store_true", help="the world of a thousand things")
    judged.add_argument(
        "--prompts", type=above_zero(int), default=1500, help="that are asked for (1500)"
    )
    judged.add_argument("--candidates", type=above_zero(int), default=8, help="of each (8)")


def add_reranking(sub: argparse.ArgumentParser) -> None:
    """Add the flags of measuring a reranker."""
    sub.add_argument("--clip", help="a known CLIP or a folder; default: the shipped one")
    sub.add_argument("-m", "--model", help="the model that draws; default: the shipped one")
    sub.add_argument("--scenes", type=above_zero(int), default=400, help="rendered ones (400)")
    sub.add_argument(
        "--prompts",
        type=above_zero(int, or_zero=True),
        default=60,
        help="drawn, 4 of each; 0 for none (60)",
    )


def add_drawn(drawn: argparse.ArgumentParser) -> None:
    """Add the flags of images that the reranker learns from."""
    drawn.add_argument("network", choices=("diffusion", "dalle"), help="that draws them")
    drawn.add_argument("--config", choices=CONFIGS, default="free", help="sizes (free)")
    drawn.add_argument(
        "--number", type=above_zero(int), default=300, help="of prompts, 4 images of each (300)"
    )
