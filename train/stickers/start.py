"""The shipped weights as the beginning of a run, ready to learn more words.

`lay` unfolds them into the folders that trainings read: the tokenizer with more pieces behind the
old ones, text encoders with as many more embeddings (the mean of the old pieces that a new one is
made of) and positions (copies of the last), and a beginning for each network that learns.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPTokenizer

from pipelines.checkpoints.specs import CHECKPOINTS as MODELS
from rerank.model.specs import CHECKPOINTS as RERANKERS
from train.clip import ClipTask, save_clip
from train.clip_words import TEACHER, load_words_task
from train.configs import Config
from train.dalle import DalleTask
from train.diffusion import DiffusionConfig, DiffusionTask
from train.loop import START, Task
from train.stickers.facts import describe
from train.stickers.scene import draw_scene
from train.stickers.wording import Wording
from train.tokenizer import extend_tokenizer, save_tokenizer
from train.world.lexicon import common_words

PIECES = 2_048
CONTEXT = 40  # tokens, start and end included
CAPTIONS = 20_000  # in free wordings, whose words the tokenizer learns
MERGES = MODELS / "layouts" / "bpe_simple_vocab_16e6.txt.gz"  # common English words
EMBEDDINGS = "text_model.embeddings."
LENGTHENED = ("padding.weight", "text_position.weight")  # of the transformer, by text position

Tensors = dict[str, torch.Tensor]


def lay(run: Path, config: Config, models: Path = MODELS, rerankers: Path = RERANKERS) -> Path:
    """Write everything into `run`; what was trained there goes on from its own state instead.

    The text encoder of latent diffusion, as it was taught there or else as it ships, is that of
    CLIP to begin with, and the one that the transformer learns to listen to.
    """
    old = CLIPTokenizer.from_pretrained(models / "stickers" / "tokenizer")
    if not (run / "tokenizer").is_dir():
        save_tokenizer(extend_tokenizer(old, caption_words(), PIECES, CONTEXT), run / "tokenizer")
    new = CLIPTokenizer.from_pretrained(run / "tokenizer")
    vae = AutoencoderKL.from_pretrained(models / "stickers" / "vae", torch_dtype=torch.float32)
    vae.save_pretrained(run / "autoencoder" / "weights")
    shutil.copytree(
        models / "stickers-dalle" / "dvae", run / "dvae" / "weights", dirs_exist_ok=True
    )

    stickers, dalle = models / "stickers", models / "stickers-dalle"
    text = longer_text(_load(stickers / "text_encoder"), old, new)
    clip = longer_clip(rerankers / "stickers-clip", new)
    learned = run / "diffusion" / "weights" / "text_encoder"
    clip.text_model.load_state_dict(_bare(_load(learned) if learned.is_dir() else text))
    save_clip(clip, new, run / "clip" / "weights")
    shutil.copytree(rerankers / "stickers-clip", run / "clip" / TEACHER, dirs_exist_ok=True)
    judge = load_words_task(config.clip, run) if config.clip.taught else ClipTask(config.clip, new)
    _begin(run / "clip", judge, {"clip.": clip.state_dict()})

    unet = _load(stickers / "unet")
    diffusion = DiffusionTask(config.diffusion, vae, clip.text_model, new)
    _begin(run / "diffusion", diffusion, {"unet.": unet, **_pupil(text, config.diffusion)})

    from pipelines.dalle.networks import load_dvae

    dvae = load_dvae(run / "dvae" / "weights")
    transformer = _load(dalle / "transformer")
    for name in LENGTHENED:
        transformer[name] = longer(transformer[name], CONTEXT)
    task = DalleTask(config.dalle, dvae, clip.text_model, new)
    _begin(run / "dalle", task, {"transformer.": transformer})
    return run


def caption_words() -> Counter[str]:
    """Return the words of free captions and how often each occurs, and common English words once
    more."""
    rng, wording = Random(0), Wording(1.0)
    captions = (wording.say(describe(draw_scene(rng), rng), rng) for _ in range(CAPTIONS))
    found = Counter(word for caption in captions for word in re.findall(r"[a-z]+", caption))
    found.update(sorted(w for w in common_words(MERGES) if re.fullmatch(r"[a-z]+", w)))
    return found


def longer_clip(folder: Path, new: CLIPTokenizer) -> CLIPModel:
    """Return the CLIP of a folder for a tokenizer with more pieces and a longer context."""
    old = CLIPTokenizer.from_pretrained(folder)
    config = CLIPModel.config_class.from_pretrained(folder)
    config.text_config.vocab_size = len(new)
    config.text_config.max_position_embeddings = new.model_max_length
    for each in (config, config.text_config):
        each.bos_token_id, each.eos_token_id = new.bos_token_id, new.eos_token_id
        each.pad_token_id = new.pad_token_id
    clip = CLIPModel(config)
    clip.load_state_dict(longer_text(_load(folder), old, new))
    return clip


def longer_text(state: Tensors, old: CLIPTokenizer, new: CLIPTokenizer) -> Tensors:
    """Return a text encoder's tensors with an embedding for each piece of `new`, and positions."""
    table, positions = (f"{EMBEDDINGS}{name}_embedding.weight" for name in ("token", "position"))
    numbers = old.get_vocab()
    rows = []
    for piece, _ in sorted(new.get_vocab().items(), key=lambda item: item[1]):
        parts = [piece] if piece in numbers else old_pieces(piece, old, numbers)
        rows.append(state[table][[numbers[part] for part in parts]].mean(0))
    return {
        **state,
        table: torch.stack(rows),
        positions: longer(state[positions], new.model_max_length),
    }


def old_pieces(piece: str, old: CLIPTokenizer, numbers: dict[str, int]) -> list[str]:
    """Return the pieces that stood for a new one before: as a word's end, or in the middle."""
    ends = piece.endswith("</w>")
    parts: list[str] = old.tokenize(piece.removesuffix("</w>"))
    if not ends and (middle := parts[-1].removesuffix("</w>")) in numbers:
        parts[-1] = middle
    return parts


def longer(rows: torch.Tensor, length: int) -> torch.Tensor:
    """Return `rows` (n, D) with copies of the last one, `length` in all."""
    return torch.cat([rows, rows[-1:].expand(length - len(rows), -1)])


def _begin(folder: Path, task: Task, known: dict[str, Tensors]) -> None:
    """Write what a training begins with: what is known, by prefix, and fresh readers."""
    state: dict[str, Any] = task.state_dict()
    for prefix, tensors in known.items():
        named = {f"{prefix}{name}": value for name, value in tensors.items()}
        if missing := named.keys() ^ {name for name in state if name.startswith(prefix)}:
            raise ValueError(f"{folder.name} has other tensors: {', '.join(sorted(missing))}")
        state |= named
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.clone().contiguous() for name, value in state.items()}, folder / START)


def _pupil(text: Tensors, config: DiffusionConfig) -> dict[str, Tensors]:
    """Return the text encoder if it learns, and if it is taught its teacher, which begins alike."""
    names = {"text_encoder.": config.recited > 0, "teacher.": config.taught}
    return {name: _bare(text) for name, needed in names.items() if needed}


def _bare(text: Tensors) -> Tensors:
    return {name.removeprefix("text_model."): value for name, value in text.items()}


def _load(folder: Path) -> Tensors:
    """Return the tensors of the one file of a folder in float32."""
    [file] = folder.glob("*.safetensors")
    return {
        name: value.float() if value.is_floating_point() else value
        for name, value in load_file(file).items()
    }
